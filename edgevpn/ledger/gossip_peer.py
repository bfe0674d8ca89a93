"""What a node remembers of a peer of ours that it speaks with, and of the search that is going on (gossip_core.py)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from edgevpn.proto.ledger_frames import HINT_TIME, hint_of

PATIENCE: Final = 5.0  # s without progress that end a search
LONGEST_SEARCH: Final = 60.0  # s
# s for which a difference that can't be settled, and an entry refused, are left alone; at most a quarter of the owners'
# time to live, since most of them are settled by a lease that ends.
SETTLED: Final = 120.0
MAX_REMEMBERED: Final = 1024  # refusals of a link


@dataclass(slots=True)
class Link:
    name: bytes
    memory: float = SETTLED  # s
    root: bytes = b""  # what the peer said last, and of which time
    as_of: int = 0
    differs: bool = False
    searched: float = 0.0
    told_at: float = float("-inf")  # when it last told something by itself
    settled: tuple[bytes, bytes, float] = (b"", b"", 0.0)  # our root and theirs, that a search found nothing for; until
    refused: OrderedDict[int, tuple[int, float]] = field(default_factory=OrderedDict)  # upper bits: version, until

    def refused_now(self, position: int, version: int, now: float) -> None:
        """Our rules did not take this."""
        self.refused[position >> HINT_TIME] = (version, now + self.memory)
        if len(self.refused) > MAX_REMEMBERED:
            self.refused.popitem(last=False)

    def refuses(self, position: int, version: int, now: float) -> bool:
        """Whether our rules did not take this lately."""
        refused, until = self.refused.get(position >> HINT_TIME, (0, 0.0))
        return refused == version and now < until

    def refuses_hint(self, hint: int, now: float) -> bool:
        refused, until = self.refused.get(hint >> HINT_TIME, (0, 0.0))
        return hint == hint_of(hint, refused) and now < until


@dataclass(slots=True)
class Search:
    peer: str
    as_of: int
    deadline: float
    end: float
    asked: int = 1  # parts without a summary yet
    wanted: int = 0  # answers that are still to come
    learned: int = 0

    def goes_on(self, now: float) -> None:
        self.deadline = min(now + PATIENCE, self.end)
