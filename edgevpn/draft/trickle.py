"""When to say what we know: the Trickle algorithm (RFC 6206), as values.

Each interval has a moment in its second half at which a node speaks, unless it heard `k` others say the same in that
interval. Intervals double from `i_min` up to `i_max` while all agree, and go back to `i_min` when somebody does not.
"""

from __future__ import annotations

import random


class Trickle:
    """One timer. Times are seconds of any clock that does not go back."""

    def __init__(self, i_min: float, i_max: float, k: int, chance: random.Random, now: float) -> None:
        self._i_min = i_min
        self._i_max = max(i_max, i_min)
        self._k = k
        self._chance = chance
        self._interval = i_min
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._heard = 0
        self._spoken = False
        half = self._interval / 2
        self._speak_at = now + half + self._chance.random() * half
        self._ends_at = now + self._interval

    def next_wakeup(self) -> float:
        """When to call `expire`."""
        return self._ends_at if self._spoken else self._speak_at

    def heard_consistent(self) -> None:
        """Somebody said what we know already."""
        self._heard += 1

    def heard_inconsistent(self, now: float) -> None:
        """Somebody knows more or less than we do, or we changed: speak soon."""
        if self._interval > self._i_min:
            self._interval = self._i_min
            self._begin(now)

    def expire(self, now: float) -> bool:
        """Call at `next_wakeup`: whether to speak now."""
        if not self._spoken and now >= self._speak_at:
            self._spoken = True
            return self._heard < self._k
        if now >= self._ends_at:
            self._interval = min(self._interval * 2, self._i_max)
            self._begin(now)
        return False
