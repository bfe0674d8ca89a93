"""How large datagrams a way carries: packetization layer path MTU discovery (RFC 8899). Pure, one for each way.

Sizes are those of UDP payloads; the ladder of those that are tried is that of IP packet sizes which links have. Each
probe of a size goes with a small one at the same time. Only when the small one was answered and the large one was not
does that say something about the size: what is lost at random, or with everything else, does not.

    base      nothing is known, or what was known is wrong (a black hole): the base size is asked for. After a black
              hole it is used meanwhile, else there is no size yet. Not answered 3 times: the least size
    search    bisection between the largest size that was answered and the smallest that was not (2 probes each); what
              was answered is used at once. The full size is asked for first
    complete  the size in use is asked for each 0.6 s; not answered 4 times, 0.15 s or two round trips apart, it is a
              black hole (5: an overfull queue that counts bytes also drops large ones first). Where much was sent
              and nothing came back, or copies of lost datagrams never arrive, it is asked for at once, and 2 times
              are enough. Below the full size, every other probe asks for more: the full size and the next one in
              turn
    error     not even the least size: each 5 s

What the system refuses to send (EMSGSIZE) is too large at once. RFC 8899 speaks of 600 s until more is asked for; that
spares ways which carry little else. These probes go only while packets do.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import Enum
from typing import Final

LADDER: Final = (576, 1024, 1200, 1280, 1340, 1380, 1400, 1420, 1440, 1460, 1480, 1492, 1500, 4352, 9000)  # IP packets
BASE: Final = 1280  # what IPv6 asks of every link (RFC 8200)
SMALL: Final = 64  # bytes of the probe beside
VERIFY: Final = 0.6  # seconds
RAISE: Final = 0.5
RETRY: Final = 5.0
_TRIES_VERIFY, _TRIES_SUSPECTED, _TRIES_BASE, _TRIES_SEARCH = 4, 2, 3, 2
_NEVER: Final = float("inf")


class Phase(Enum):
    BASE = "base"
    SEARCH = "search"
    COMPLETE = "complete"
    ERROR = "error"


class PathMtu:
    """One way's. `size`: of the largest datagram to be sent; 0 while none is known to arrive."""

    __slots__ = (
        "_alive", "_asked", "_base", "_checked", "_fell", "_high",
        "_low", "_suspected", "_tries", "_turn", "size", "sizes",
    )  # fmt: skip

    def __init__(self, full: int, header: int) -> None:
        """`full`: the largest datagram that there will ever be; `header`: bytes of IP and UDP before it."""
        self.sizes = (*(one - header for one in LADDER if one - header < full), full)
        self.size = 0
        self._base = max(0, bisect_left(self.sizes, min(full, BASE - header)))
        self._low = -1  # index of the largest size that was answered
        self._high = len(self.sizes)  # of the smallest that is known to be too large
        self._tries = 0
        self._asked: tuple[int, float] | None = None  # index and when
        self._alive = self._checked = self._fell = -_NEVER
        self._turn = 0
        self._suspected = False

    @property
    def phase(self) -> Phase:
        if self._low < 0:
            return Phase.BASE if self._high else Phase.ERROR
        return Phase.SEARCH if self._high - self._low > 1 else Phase.COMPLETE

    @property
    def full(self) -> int:
        return self.sizes[-1]

    def first(self) -> list[int]:
        """What to ask of a way that has answered nothing yet, beside the small one: one answer may tell all."""
        return list(dict.fromkeys((self.full, self.sizes[self._base])))

    def is_due(self, now: float, patience: float, active: bool) -> bool:
        """Whether `step` has something to do. `patience`: how long an answer may take. `active`: packets go."""
        if self._asked is not None:
            return now - self._asked[1] >= patience
        phase = self.phase
        if phase is Phase.COMPLETE:
            pause = VERIFY if self._low == len(self.sizes) - 1 else RAISE
            return active and now - self._checked >= pause
        return phase is not Phase.ERROR or now - self._checked >= RETRY

    def step(self, now: float, patience: float, active: bool) -> int | None:
        """The size to ask for now, together with a small probe; None: nothing."""
        if not self.is_due(now, patience, active):
            return None
        if self._asked is not None:
            index, at = self._asked
            self._asked = None
            if self._alive >= at:
                self._tries += 1
                self._unanswered(index, now)
            elif self.phase is Phase.COMPLETE and not active:
                return None
            if not self.is_due(now, patience, active) and not self._tries:
                return None
        index = self._next()
        self._asked = index, now
        return self.sizes[index]

    def _next(self) -> int:
        top = len(self.sizes) - 1
        phase = self.phase
        if phase is Phase.BASE:
            return self._base if self._base < self._high else 0
        if phase is Phase.SEARCH:
            return top if self._high > top else (self._low + self._high) // 2
        if phase is Phase.ERROR:
            return 0
        if self._low == top or self._turn % 2 == 0:
            return self._low
        return top if self._turn % 4 == 1 else self._high

    def _unanswered(self, index: int, now: float) -> None:
        """The way lives and did not carry that size, `_tries` times in a row."""
        phase = self.phase
        if phase is Phase.SEARCH:
            if self._tries >= _TRIES_SEARCH:
                self._high, self._tries = index, 0
                self._checked = now
        elif phase is Phase.COMPLETE and index > self._low:
            self._turn += 1
            self._tries, self._checked = 0, now
        elif self._tries >= self._most_tries or phase is Phase.ERROR:
            self._fall(index, now)

    @property
    def _most_tries(self) -> int:
        if self.phase is not Phase.COMPLETE:
            return _TRIES_BASE
        return _TRIES_SUSPECTED if self._suspected else _TRIES_VERIFY

    def suspect(self) -> None:
        """Nothing comes back of much that was sent, or only what is small: see to the size now, if one is known."""
        if self.phase is Phase.COMPLETE and not self._suspected:
            self._suspected = True
            self._turn += self._turn % 2  # the next probe asks for the size in use
            if self._asked is None:
                self._checked = -_NEVER

    def _fall(self, index: int, now: float) -> None:
        """Not even this size: begin anew below it."""
        was_used = self.size
        self._high, self._low, self._tries, self._asked, self._suspected = index, -1, 0, None, False
        self._fell = self._checked = now
        guess = self._base if self._base < index else 0
        self.size = self.sizes[guess] if was_used and index else 0

    def on_answer(self, size: int, asked_at: float, now: float) -> None:
        """A probe of that size, sent at `asked_at`, was answered."""
        self._alive = max(self._alive, asked_at)
        index = bisect_left(self.sizes, size)
        if asked_at < self._fell or index >= len(self.sizes) or self.sizes[index] != size or index < self._low:
            return
        self._suspected = False
        if self._asked is not None and self._asked[0] <= index:
            self._asked, self._tries = None, 0
            self._turn += 1
        if index > self._low:
            self._low, self.size = index, size
            if index >= self._high:
                self._high = len(self.sizes)
        self._checked = now

    def doubt(self) -> None:
        """What is known is old, and it is not at hand that it holds: find out anew, from the base size."""
        self._low, self._high, self._tries, self._asked = -1, len(self.sizes), 0, None
        self.size = min(self.size, self.sizes[self._base])

    def too_big(self, size: int, now: float) -> None:
        """The system does not send datagrams of this size."""
        index = bisect_left(self.sizes, size)
        if index == len(self.sizes):
            return
        if self._low >= index or (self._low < 0 and self.size >= size):
            self._fall(index, now)
        elif index < self._high or (self._asked is not None and self._asked[0] >= index):
            self._high = min(self._high, index)
            self._turn += self.phase is Phase.COMPLETE
            self._asked, self._tries, self._checked = None, 0, now
