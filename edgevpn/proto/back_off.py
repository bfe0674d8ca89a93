"""How long to wait before the next try: exponential back-off with jitter, as values.

The pause doubles from `first` up to `most`, and each is drawn from its upper half, so that nodes that failed together
do not come back together.
"""

from __future__ import annotations

import random


class BackOff:
    """Pauses in seconds, growing; `reset` begins anew."""

    def __init__(self, first: float, most: float, chance: random.Random) -> None:
        self._first = first
        self._most = most
        self._chance = chance
        self._pause = first

    def next(self) -> float:
        pause = self._pause
        self._pause = min(self._pause * 2, self._most)
        return pause / 2 + self._chance.random() * pause / 2

    def reset(self) -> None:
        self._pause = self._first
