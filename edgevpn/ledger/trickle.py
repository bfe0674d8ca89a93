"""The Trickle timer (RFC 6206): when to tell others what we have, if nobody else does.

Time is cut into intervals. In each a moment in the second half is drawn; there we transmit, unless `redundancy` others
were heard to say the same before it. After each interval the next is twice as long, up to `longest`; news cut it back
to `shortest`. So a quiet network of any size transmits a few times an interval in all, and news spread at once.

Pure: the caller sleeps until `next_wakeup` and then asks `expire`.
"""

from __future__ import annotations

import random


class Trickle:
    """All times in seconds of one clock. `redundancy` 0: transmit however many others do."""

    def __init__(self, shortest: float, longest: float, redundancy: int, chance: random.Random, now: float) -> None:
        if not 0 < shortest <= longest:
            raise ValueError("an interval is positive, and the longest not below the shortest")
        self._shortest = shortest
        self._longest = longest
        self._redundancy = redundancy
        self._chance = chance
        self._begin(chance.uniform(shortest, longest), now)

    def _begin(self, interval: float, now: float) -> None:
        self._interval = interval
        self._heard = 0
        self._fired = False
        self._fire_at = now + interval * self._chance.uniform(0.5, 1.0)
        self._end_at = now + interval

    @property
    def interval(self) -> float:
        """The length of the present interval, seconds."""
        return self._interval

    def next_wakeup(self) -> float:
        """When `expire` is to be called."""
        return self._end_at if self._fired else self._fire_at

    def on_consistent(self) -> None:
        """Someone else said what we would say."""
        self._heard += 1

    def on_inconsistent(self, now: float) -> None:
        """Someone is not up to date, or we weren't: begin with the shortest interval, unless we are in it."""
        if self._interval > self._shortest:
            self._begin(self._shortest, now)

    def expire(self, now: float) -> bool:
        """Let time pass; whether to transmit now. After a long sleep (a suspended machine) at most one is due."""
        transmit = False
        if not self._fired and now >= self._fire_at:
            self._fired = True
            transmit = not self._redundancy or self._heard < self._redundancy
        if now >= self._end_at:
            self._begin(min(self._interval * 2, self._longest), now)
        return transmit
