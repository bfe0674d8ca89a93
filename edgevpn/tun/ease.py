"""How long the packet path may wait for company, and how much it may do in a turn, before it looks around. Pure.

A wake-up for each super-packet puts off the programs that make and read the stream, and is dear. So under bulk the path
waits a moment before it takes what has come, as network cards do (interrupt coalescing, `rx-usecs` of ethtool(8)). That
moment is shorter, and so are turns, while somebody waits for small packets: an echo, a key press, a frame of speech, a
question of DNS (twice.py tells them). When none goes out and none is to be expected there is ease. It begins some time
after the last one; who sent one a second lately may send the next, so then it takes longer than that.
"""

from __future__ import annotations

import math
from typing import Final

AFTER: Final = 0.3  # seconds without one
RHYTHM: Final = 0.1, 2.0  # seconds between two of them: others may follow so
COALESCE: Final = 0.0001  # seconds
COALESCE_AT_EASE: Final = 0.0002  # twice as long is worse: then what came is no longer in the processor's caches


class Ease:
    """`begins`: from when on there is ease, unless another comes; seconds of a monotonic clock."""

    __slots__ = ("_last", "_pause", "begins")

    def __init__(self) -> None:
        self.begins = -math.inf
        self._last = -math.inf
        self._pause = AFTER

    def note(self, now: float) -> None:
        """A small packet that somebody waits for goes out."""
        pause, self._last = now - self._last, now
        least, most = RHYTHM
        if pause > least:
            self._pause = 2 * pause if pause < most else AFTER
        self.begins = now + self._pause

    def coalesce(self, now: float) -> float:
        """Seconds to wait for company, under bulk."""
        return COALESCE_AT_EASE if self.begins < now else COALESCE
