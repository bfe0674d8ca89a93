"""Whether our clock is right, as far as the other nodes tell.

Leases, windows and versions live by the clock. Two things tell what time another node has: our own digests carry their
sender's time; and a message sealed with the key of another window was sealed by a clock that is at least as far from
ours as the edge of that window. Of all that was heard lately, and our own clock, the median counts, so a few nodes with
wrong clocks, or lying ones, change nothing: then it is they who are off. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median
from typing import Final

MAX_PEERS: Final = 256
REMEMBERED: Final = 600.0  # s
TRAVEL: Final = 1.0  # s that a message may have been under way
_LEAST, _MOST = 2.0, 10.0  # s that a clock may be off before it is worth a word


@dataclass(frozen=True, slots=True)
class ClockVerdict:
    """`offset`: seconds that our clock is ahead of the others (negative: behind). `strangers`: peers that are off.

    `text`: one line for the user, empty when all is well.
    """

    offset: float
    peers: int
    strangers: tuple[str, ...]
    text: str


class ClockWatch:
    """`interval`: of the network's windows, seconds. `now` is seconds of a monotonic clock."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how far ahead the peer is; when heard

    @property
    def tolerance(self) -> float:
        """Seconds."""
        return min(_MOST, max(_LEAST, self.interval / 12))

    def heard_time(self, peer: str, their_wall: float, our_wall: float, now: float) -> None:
        """A peer's message said what time it has."""
        self._note(peer, their_wall - our_wall, now)

    def heard_window(self, peer: str, start: float, end: float, our_wall: float, now: float) -> None:
        """A fresh message of `peer` was sealed in the window from `start` to `end` (unix seconds)."""
        ahead = 0.0
        if our_wall < start:
            ahead = start - our_wall
        elif our_wall - TRAVEL > end:
            ahead = end - our_wall + TRAVEL
        if ahead or peer not in self._seen:
            self._note(peer, ahead, now)

    def _note(self, peer: str, ahead: float, now: float) -> None:
        self._seen[peer] = (ahead, now)
        self._seen.move_to_end(peer)
        if len(self._seen) > MAX_PEERS:
            self._seen.popitem(last=False)

    def forget(self, peer: str) -> None:
        self._seen.pop(peer, None)

    def verdict(self, now: float) -> ClockVerdict:
        """What to think of it now."""
        ahead = {peer: offset for peer, (offset, heard) in self._seen.items() if now - heard < REMEMBERED}
        if not ahead:
            return ClockVerdict(0.0, 0, (), "")
        clocks = sorted([0.0, *ahead.values()])
        low, high = clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2]
        if high - low > self.tolerance:  # as many say this as that
            apart = median(ahead.values())
            text = f"this machine's clock is {abs(apart):.0f} s {_way(apart)} {_others(ahead)}: is NTP running on both?"
            return ClockVerdict(round(-apart, 3), len(ahead), (), text + self._beyond(apart))
        middle = (low + high) / 2
        strangers = tuple(sorted(p for p, offset in ahead.items() if abs(offset - middle) > self.tolerance))
        text = ""
        if abs(middle) > self.tolerance:
            text = f"this machine's clock is {abs(middle):.0f} s {_way(middle)} {_others(ahead)}: is NTP running?"
            text += self._beyond(middle)
        elif strangers:
            text = f"the clock of {strangers[0]} is {abs(ahead[strangers[0]]):.0f} s off"
            if len(strangers) > 1:
                text += f", and those of {len(strangers) - 1} more nodes are off"
        return ClockVerdict(round(-middle, 3), len(ahead), strangers, text)

    def _beyond(self, offset: float) -> str:
        if abs(offset) <= self.interval / 2:
            return ""
        return " Beyond half a window of the network they may not hear each other at all."


def _way(ahead: float) -> str:
    return "behind" if ahead > 0 else "ahead of"


def _others(ahead: dict[str, float]) -> str:
    return "the other nodes" if len(ahead) > 1 else "the only other node"
