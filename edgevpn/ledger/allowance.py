"""How much useless work a peer may give us: who goes beyond is heard no faster than that.

A member may send what the rules refuse, as fast as its line is. Each piece costs the same as a good one to receive, to
open and to judge, and would have what others say wait. So it is counted in units, about a microsecond and a half of
this program's time each, and a peer has an allowance of RATE a second, with BURST to spend at once (a leaky bucket;
ITU-T I.371 calls it GCRA). Beyond a tenth of it each, all together have TOTAL of them: many names buy little.

Nothing is forgotten for it: who has overdrawn on a link is read on from a moment later, so that it waits itself, and
what it said on the topic meanwhile is dropped unread. What honest nodes send by mistake (what we had, what we know a
newer version of, an address that two claim) is far below. Pure; times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from edgevpn.ledger.merge import BAD_SIGNATURE, ROLLBACK, MergeResult, Violation

RATE: Final = 2500.0  # units a second
BURST: Final = 2500.0
TOTAL: Final = 2.0  # times both
SLOWLY: Final = 10.0  # who spends more than a tenth of its allowance for long waits for what all such peers spend, too
MOST: Final = 1024  # peers; who was charged longest ago is forgotten first
FRAME: Final = 200.0  # for a frame or block with something useless in it
MESSAGE: Final = 100.0  # for any message on the topic: links say the same for less
UNREADABLE: Final = 300.0
MUTED: Final = 1.0  # s, at least: each time costs a message between actors


class Allowance:
    """What each peer has spent lately."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._spent: OrderedDict[str, _Spent] = OrderedDict()
        self._total = _Spent()

    def __len__(self) -> int:
        return len(self._spent)

    def charge(self, peer: str, units: float, now: float) -> None:
        if units <= 0:
            return
        self._spent[peer] = self._at(self._spent.pop(peer, None), now).plus(units)
        if len(self._spent) > MOST:
            self._spent.popitem(last=False)
        self._total = self._total.at(now, TOTAL * self._rate, 0.0).plus(units)

    def pause(self, peer: str, now: float) -> float:
        """Seconds until there is time for this peer again; 0.0 for whoever keeps to its allowance."""
        spent = self._at(self._spent.get(peer), now)
        if spent.lately <= 0:
            self._spent.pop(peer, None)
            return 0.0
        pause = max(0.0, (spent.now - self._burst) / self._rate)
        if spent.lately < self._burst:
            return pause  # what is of all who overdraw is no affair of whoever does so now and then
        total = self._total.at(now, TOTAL * self._rate, 0.0).now
        return max(pause, (total - TOTAL * self._burst) / (TOTAL * self._rate))

    def _at(self, spent: _Spent | None, now: float) -> _Spent:
        return _Spent(when=now) if spent is None else spent.at(now, self._rate, self._rate / SLOWLY)


@dataclass(frozen=True, slots=True)
class _Spent:
    """Units: what is left of them by the rate, and by a slower one."""

    now: float = 0.0
    lately: float = 0.0
    when: float = 0.0

    def at(self, when: float, rate: float, slow: float) -> _Spent:
        took = when - self.when
        return _Spent(max(0.0, self.now - took * rate), max(0.0, self.lately - took * slow), when)

    def plus(self, units: float) -> _Spent:
        return _Spent(self.now + units, self.lately + units, self.when)


def cost_of_frame(result: MergeResult) -> float:
    """Units for a frame on a link, by what merging it did."""
    refused = _refused(result)
    units = result.identical + result.older + sum(map(_weight, refused))
    return units + FRAME if refused or result.older else units


def cost_of_block(result: MergeResult, author: str, *, direct: bool, whole: bool) -> float:
    """Units for a block on the topic.

    `direct`: it came from its author. Else somebody may repeat what an honest author once said, and only what no honest
    one says counts. `whole`: it is no piece of news, so much of it may be old.
    """
    if direct:
        refused = _refused(result)
        useless = bool(refused) or (result.older > 0 and not whole)
    else:
        refused = [one for one in _refused(result) if one.reason == BAD_SIGNATURE or one.entry.owner == author]
        useless = bool(refused)
    units = sum(map(_weight, refused)) + (FRAME if useless else 0.0)
    return units + MESSAGE if direct or useless else 0.0


def _refused(result: MergeResult) -> list[Violation]:
    """Without old versions, which are under way wherever blocks are passed on whole."""
    return [one for one in result.violations if one.reason != ROLLBACK]


def _weight(violation: Violation) -> float:
    return 1.0 + len(violation.entry.value) / 1024
