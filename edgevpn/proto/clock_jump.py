"""Whether time went on without us: a machine that slept, a process that was stopped, a clock that was set.

Two clocks are looked at from time to time: the wall's, and one that never goes back. Between two looks they go on by
the same amount; where they did not, the wall clock was set, or the machine slept (Linux's CLOCK_MONOTONIC stands still
meanwhile). And where the next look comes much later than it was due, we stood still ourselves. After either, what was
heard before says little about now: whoever has not been heard since is not gone because of it. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SET: Final = 2.0  # s that the clocks must differ by: what NTP slews, and a slow look, are far below
LATE: Final = 5.0  # s that a look must come too late


@dataclass(frozen=True, slots=True)
class Jump:
    """`wall`: seconds that the wall clock went on more than the other (negative: back). `still`: how long we stood."""

    wall: float
    still: float

    def __str__(self) -> str:
        if abs(self.wall) < SET:
            return f"stood still for {self.still:.0f} s"
        return f"the clock went {'on' if self.wall > 0 else 'back'} by {abs(self.wall):.0f} s"


class ClockLooks:
    """`now`: seconds of a monotonic clock, `wall`: unix seconds, both of the first look."""

    def __init__(self, now: float, wall: float) -> None:
        self._now = now
        self._wall = wall

    def look(self, now: float, wall: float, within: float) -> Jump | None:
        """Look again; it should have been done `within` so many seconds of the last time."""
        passed = now - self._now
        wall_more = wall - self._wall - passed
        self._now, self._wall = now, wall
        still = max(0.0, passed - within)
        if abs(wall_more) < SET and still < LATE:
            return None
        return Jump(wall_more if abs(wall_more) >= SET else 0.0, still if still >= LATE else 0.0)
