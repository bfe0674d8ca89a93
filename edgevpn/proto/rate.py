"""How often something happens, without a timer: an exponentially decaying mean, brought up to date when it is used.

After a change of pace the value has gone 63 % of the way within MEMORY seconds.
"""

from __future__ import annotations

import math

MEMORY = 10.0  # seconds


class RateMeter:
    """Events a second. Times are seconds of a monotonic clock."""

    __slots__ = ("_began", "_last", "_value")

    def __init__(self, now: float) -> None:
        self._began = now
        self._last = now
        self._value = 0.0

    def count(self, now: float, events: int = 1) -> None:
        self._decay(now)
        self._value += events / MEMORY

    def per_second(self, now: float) -> float:
        """The rate now. Young meters are corrected for what they could not have seen yet."""
        self._decay(now)
        seen = 1 - math.exp(-max(now - self._began, 1.0) / MEMORY)
        return self._value / seen

    def _decay(self, now: float) -> None:
        if now > self._last:
            self._value *= math.exp((self._last - now) / MEMORY)
            self._last = now
