"""When an actor is started, started again, and given up: pure, a table of states and events.

    idle --start--> starting --ready--> ready
    starting, ready --exited--> backing-off --start--> starting        (too many exits in the window: failed)
    starting, ready --stop--> stopping --exited--> idle
    failed --start--> starting                                         (asked for by a person)

Everything that changes an actor's state is here; the supervisor only carries out. Back-off and budget are for actors
that die of themselves again and again: one that had been ready for STEADY_AFTER seconds is started again at once,
however often that happens. Back-off is exponential, drawn from its upper half. Times are monotonic seconds.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

BACK_OFF_FIRST = 0.02
BACK_OFF_MOST = 5.0
BUDGET = 20  # exits
BUDGET_WINDOW = 60.0  # ... within this many seconds
STEADY_AFTER = 1.0  # ready for so long: its end counts for nothing


class Phase(Enum):
    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKING_OFF = "backing-off"
    FAILED = "failed"


class Happening(Enum):
    START = "start"
    READY = "ready"
    STOP = "stop"
    EXITED = "exited"


_TABLE: dict[tuple[Phase, Happening], Phase] = {
    (Phase.IDLE, Happening.START): Phase.STARTING,
    (Phase.BACKING_OFF, Happening.START): Phase.STARTING,
    (Phase.FAILED, Happening.START): Phase.STARTING,
    (Phase.STARTING, Happening.READY): Phase.READY,
    (Phase.STARTING, Happening.EXITED): Phase.BACKING_OFF,
    (Phase.READY, Happening.EXITED): Phase.BACKING_OFF,
    (Phase.STARTING, Happening.STOP): Phase.STOPPING,
    (Phase.READY, Happening.STOP): Phase.STOPPING,
    (Phase.BACKING_OFF, Happening.STOP): Phase.IDLE,
    (Phase.FAILED, Happening.STOP): Phase.IDLE,
    (Phase.STOPPING, Happening.EXITED): Phase.IDLE,
}


class SupervisionError(RuntimeError):
    """An event that cannot happen in this phase: a bug of the supervisor's."""


@dataclass(slots=True)
class Supervision:
    """The supervised life of one actor."""

    chance: random.Random
    phase: Phase = Phase.IDLE
    restarts: int = 0
    last_exit: str = ""
    ready_at: float | None = None
    started_once: bool = False
    _failures: int = 0
    _exits: deque[float] = field(default_factory=lambda: deque(maxlen=BUDGET))

    def start(self) -> None:
        self._step(Happening.START)
        if self.started_once:
            self.restarts += 1
        self.started_once = True

    def ready(self, now: float) -> None:
        self._step(Happening.READY)
        self.ready_at = now

    def stop(self) -> None:
        self._step(Happening.STOP)

    def exited(self, now: float, reason: str) -> float | None:
        """Seconds until the next start; None when there is none (asked to stop, or the budget is spent)."""
        before = self.phase
        self._step(Happening.EXITED)
        self.last_exit = reason
        ready_for = 0.0 if self.ready_at is None else now - self.ready_at
        self.ready_at = None
        if before is Phase.STOPPING:
            return None
        if ready_for >= STEADY_AFTER:
            self._failures = 0
            self._exits.clear()
            return BACK_OFF_FIRST * self.chance.random()
        self._exits.append(now)
        if len(self._exits) == BUDGET and now - self._exits[0] <= BUDGET_WINDOW:
            self.phase = Phase.FAILED
            self._exits.clear()
            return None
        self._failures += 1
        ceiling = min(BACK_OFF_MOST, BACK_OFF_FIRST * 2.0 ** min(self._failures - 1, 16))
        return ceiling / 2 + self.chance.random() * ceiling / 2

    def _step(self, happening: Happening) -> None:
        after = _TABLE.get((self.phase, happening))
        if after is None:
            raise SupervisionError(f"{happening.value} while {self.phase.value}")
        self.phase = after
