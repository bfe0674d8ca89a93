"""Which datagrams of a session have come: each is taken once (as in RFC 6479, with a mask a train instead of a bit).

The window reaches TRAINS behind the newest train. What is older is refused, new or not. Memory is fixed.
"""

from __future__ import annotations

from typing import Final

TRAINS: Final = 4096  # a power of two


class ReplayWindow:
    """Trains are numbered from 1; `mask` has a bit for each index of a train."""

    __slots__ = ("_masks", "_newest", "_trains")

    def __init__(self) -> None:
        self._trains = [0] * TRAINS
        self._masks = [0] * TRAINS
        self._newest = 0

    def is_fresh(self, train: int, mask: int) -> bool:
        """Whether none of these has come. Ask before opening; `mark` after."""
        if train + TRAINS <= self._newest or not train:
            return False
        place = train & TRAINS - 1
        return self._trains[place] != train or not self._masks[place] & mask

    def mark(self, train: int, mask: int) -> None:
        """These have come, and were genuine."""
        place = train & TRAINS - 1
        if self._trains[place] == train:
            self._masks[place] |= mask
        else:
            self._trains[place] = train
            self._masks[place] = mask
            self._newest = max(self._newest, train)
