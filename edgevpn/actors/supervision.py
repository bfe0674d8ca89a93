"""When an actor is started, started again, and given up: pure, a table of states and events.

    idle --start--> starting --ready--> ready
    starting, ready --exited--> backing-off --start--> starting        (too many exits in the window: failed)
    starting, ready --stop--> stopping --exited--> idle
    failed --start--> starting                                         (asked for by a person)
    starting, ready --hold--> holding --exited--> held; idle, backing-off --hold--> held; held --start--> starting
                                                                       (while what it requires is given up)

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
BUDGET = 15  # exits
BUDGET_WINDOW = 60.0  # ... within this many seconds
KEPT_EXITS = 8
STEADY_AFTER = 1.0  # ready for so long: its end counts for nothing


class Phase(Enum):
    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKING_OFF = "backing-off"
    FAILED = "failed"
    HOLDING = "holding"
    HELD = "held"


class Happening(Enum):
    START = "start"
    READY = "ready"
    STOP = "stop"
    EXITED = "exited"
    HOLD = "hold"


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
    (Phase.STARTING, Happening.HOLD): Phase.HOLDING,
    (Phase.READY, Happening.HOLD): Phase.HOLDING,
    (Phase.IDLE, Happening.HOLD): Phase.HELD,
    (Phase.BACKING_OFF, Happening.HOLD): Phase.HELD,
    (Phase.HOLDING, Happening.EXITED): Phase.HELD,
    (Phase.HOLDING, Happening.STOP): Phase.STOPPING,
    (Phase.HELD, Happening.START): Phase.STARTING,
    (Phase.HELD, Happening.STOP): Phase.IDLE,
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
    lacks: str = ""  # while held: the actor that it requires
    exits: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=KEPT_EXITS))  # (unix time, reason)
    ready_at: float | None = None
    started_once: bool = False
    _failures: int = 0
    _early: deque[float] = field(default_factory=lambda: deque(maxlen=BUDGET))

    def start(self) -> None:
        self._step(Happening.START)
        self.lacks = ""
        if self.started_once:
            self.restarts += 1
        self.started_once = True

    def ready(self, now: float) -> None:
        self._step(Happening.READY)
        self.ready_at = now

    def stop(self) -> None:
        self._step(Happening.STOP)

    def hold(self, lacks: str) -> None:
        """What it requires, `lacks`, was given up: it is not to run before that does."""
        self._step(Happening.HOLD)
        self.lacks = lacks

    @property
    def can_be_held(self) -> bool:
        return (self.phase, Happening.HOLD) in _TABLE

    def exited(self, now: float, reason: str, at: float = 0.0) -> float | None:
        """Seconds until the next start; None when there is none (asked to stop, held, or the budget is spent).

        `at`: unix time, for the record.
        """
        before = self.phase
        self._step(Happening.EXITED)
        self.last_exit = reason
        self.exits.append((at, reason))
        ready_for = 0.0 if self.ready_at is None else now - self.ready_at
        self.ready_at = None
        if before in (Phase.STOPPING, Phase.HOLDING):
            return None
        if ready_for >= STEADY_AFTER:
            self._failures = 0
            self._early.clear()
            return BACK_OFF_FIRST * self.chance.random()
        self._early.append(now)
        if len(self._early) == BUDGET and now - self._early[0] <= BUDGET_WINDOW:
            self.phase = Phase.FAILED
            self._early.clear()
            return None
        self._failures += 1
        ceiling = min(BACK_OFF_MOST, BACK_OFF_FIRST * 2.0 ** min(self._failures - 1, 16))
        return ceiling / 2 + self.chance.random() * ceiling / 2

    def _step(self, happening: Happening) -> None:
        after = _TABLE.get((self.phase, happening))
        if after is None:
            raise SupervisionError(f"{happening.value} while {self.phase.value}")
        self.phase = after
