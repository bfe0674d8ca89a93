"""Which datagrams of a session have come: each is taken once (as in RFC 6479, with a mask a train instead of a bit).

The window reaches TRAINS behind the newest train, or WIDE where lost datagrams are sent again. What is older is
refused, new or not. Memory is fixed.
"""

from __future__ import annotations

from typing import Final

TRAINS: Final = 4096  # powers of two
WIDE: Final = 16384


class ReplayWindow:
    """Trains are numbered from 1; `mask` has a bit for each index of a train."""

    __slots__ = ("_masks", "_size", "_trains", "newest")

    def __init__(self) -> None:
        self._size = TRAINS
        self._trains = [0] * TRAINS
        self._masks = [0] * TRAINS
        self.newest = 0

    def is_fresh(self, train: int, mask: int) -> bool:
        """Whether none of these has come. Ask before opening; `mark` after."""
        if train + self._size <= self.newest or not train:
            return False
        place = train & self._size - 1
        return self._trains[place] != train or not self._masks[place] & mask

    def mark(self, train: int, mask: int) -> None:
        """These have come, and were genuine."""
        place = train & self._size - 1
        if self._trains[place] == train:
            self._masks[place] |= mask
        else:
            self._trains[place] = train
            self._masks[place] = mask
            self.newest = max(self.newest, train)

    def widen(self, size: int) -> None:
        """Make the window reach `size` trains, a power of two, from now on. What it refused stays refused."""
        if size <= self._size:
            return
        trains, masks = [0] * size, [0] * size
        for train, mask in zip(self._trains, self._masks, strict=True):
            if train:
                trains[train & size - 1], masks[train & size - 1] = train, mask
        # What lies further back than the old window has come or not: nobody knows, so it counts as come.
        for train in range(max(1, self.newest + 1 - size), max(1, self.newest + 1 - self._size)):
            trains[train & size - 1], masks[train & size - 1] = train, -1
        self._trains, self._masks, self._size = trains, masks, size
