"""Whom to connect with again, and when: peers of the network whose last connection was lost.

Finding peers is the business of discovery, which looks ever more seldom; who was here a moment ago is known, and is
tried again at pauses that double from FIRST to SOON for the first while, and later up to SELDOM, each drawn at random
so that both ends, and many nodes, do not dial at once. When one comes back the way to the others may be free again,
too: they are tried at once. So it is after the machine slept (`hurry`). After KEEP it is discovery's business again.
Pure; times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

FIRST: Final = 0.3  # s
SOON: Final = 4.0  # s, for the first while
WHILE: Final = 180.0  # s
SELDOM: Final = 120.0  # s
KEEP: Final = 24 * 3600.0  # s
MOST: Final = 256  # peers; who was lost longest ago goes first
AGAIN: Final = 10.0  # s between two times that a return hurries the others


@dataclass(slots=True)
class _Lost:
    since: float
    pause: float
    due: float
    keep: float


class Redial:
    """The peers that are missed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._lost: OrderedDict[str, _Lost] = OrderedDict()
        self._hurried = -math.inf

    def __len__(self) -> int:
        return len(self._lost)

    def lost(self, peer: str, now: float, keep: float = KEEP) -> None:
        """Its last connection ended, and not because we wanted that. `keep`: for how long it is looked for."""
        self._lost.pop(peer, None)
        self._lost[peer] = _Lost(now, FIRST, now + FIRST * self._chance.uniform(0.5, 1.0), keep)
        if len(self._lost) > MOST:
            self._lost.popitem(last=False)

    def found(self, peer: str, now: float) -> None:
        """It is connected."""
        if self._lost.pop(peer, None) is not None and now - self._hurried > AGAIN:
            self.hurry(now)

    def forget(self, peer: str) -> None:
        """It is not to be connected with."""
        self._lost.pop(peer, None)

    def hurry(self, now: float) -> None:
        """Something changed: try all of them soon."""
        self._hurried = now
        for lost in self._lost.values():
            lost.pause = FIRST
            lost.due = min(lost.due, now + FIRST * self._chance.uniform(0.1, 1.0))

    def next_wakeup(self) -> float:
        return min((lost.due for lost in self._lost.values()), default=math.inf)

    def take_due(self, now: float) -> list[str]:
        """Who is to be tried now; the pause until the next try begins."""
        for peer in [peer for peer, lost in self._lost.items() if now - lost.since > lost.keep]:
            del self._lost[peer]
        due = [peer for peer, lost in self._lost.items() if lost.due <= now]
        for peer in due:
            lost = self._lost[peer]
            longest = SOON if now - lost.since < WHILE or now - self._hurried < WHILE else SELDOM
            lost.pause = min(lost.pause * 2, longest)
            lost.due = now + lost.pause * self._chance.uniform(0.5, 1.0)
        return due
