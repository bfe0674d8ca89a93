"""How much comes, and how long the packet path waits for company before it takes it. Pure; one for each way.

A wake-up for each packet puts off the programs that make and read them, and costs more than to move it. So when much
comes, or often, the path waits a moment before it takes what has come, as network cards do (interrupt coalescing,
`rx-usecs` of ethtool(8)). Who sends now and then, or waits for each answer, meets no pause.
"""

from __future__ import annotations

import math
from typing import Final

COALESCE: Final = 0.0001  # seconds, under bulk. 0.4 ms is worse: what came is no longer in the processor's caches then
COALESCE_SMALL: Final = 0.0003  # of small packets many are cheaper than each by itself
SPELL: Final = 0.004  # seconds
MUCH: Final = 300_000  # bytes in a spell


class Pace:
    """What came lately. `much`: bulk; `often`: at least so many packets in a spell as it was made with."""

    __slots__ = ("_count", "_least", "_since", "_size", "much", "often")

    def __init__(self, often: int) -> None:
        self._least = often
        self._count = self._size = 0
        self._since = -math.inf
        self.much = self.often = False

    def note(self, count: int, size: int, now: float) -> bool:
        """So many packets, of so many bytes together, came in a turn. Whether a spell has ended with it."""
        self._count += count
        self._size += size
        lasted = now - self._since
        if lasted <= SPELL:
            return False
        lately = lasted < 2 * SPELL  # else there was a pause in it
        self.much = lately and self._size > MUCH
        self.often = lately and self._count >= self._least
        self._count = self._size = 0
        self._since = now
        return True

    @property
    def pause(self) -> float:
        """Seconds to wait for company; 0.0: none is likely."""
        if self.much:
            return COALESCE
        return COALESCE_SMALL if self.often else 0.0
