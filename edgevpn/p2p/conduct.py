"""What peers did wrong lately, and who has gone too far.

Only what no honest program does counts: bytes that are not of the protocol, signatures that are wrong, floods beyond a
share in the sender's own name. What a peer may merely have passed on does not count. Points halve every HALF_LIFE; at
LIMIT the peer is refused for FIRST seconds, and for twice as long each time it goes on after that, up to LONGEST. Who
behaves is forgotten: an hour after its last offence nothing is known of a peer any more. Pure; times are seconds of a
monotonic clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

LIMIT: Final = 10.0
HALF_LIFE: Final = 60.0  # s
FIRST: Final = 60.0  # s
LONGEST: Final = 3600.0  # s
FORGOTTEN: Final = 3600.0  # s
MOST: Final = 1024  # peers; whose last offence is longest ago goes first, and may come back

# Points for an offence, by its name in actors' messages.
POINTS: Final = {
    "malformed": 6.0,  # bytes that are not of the protocol
    "oversized": 6.0,
    "wrongly-signed": 2.0,
    "flood": 1.0,  # entries of its own beyond its share, or dated ahead: a frame of them
}


@dataclass(slots=True)
class _Record:
    points: float = 0.0
    at: float = 0.0
    refusals: int = 0
    refused_until: float = 0.0


class Conduct:
    """The records."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._forgotten: list[str] = []  # that were refused, and had to make room

    def __len__(self) -> int:
        return len(self._records)

    def note(self, peer: str, offence: str, now: float) -> float | None:
        """For how many seconds the peer is to be refused from now on; None: it is not, or is already."""
        points = POINTS.get(offence)
        if points is None:
            return None
        record = self._records.pop(peer, None) or _Record(at=now)
        self._records[peer] = record
        if len(self._records) > MOST:
            oldest, its = self._records.popitem(last=False)
            if its.refused_until:
                self._forgotten.append(oldest)
        record.points = self._left(record, now) + points
        record.at = now
        if record.points < LIMIT or record.refused_until > now:
            return None
        seconds = min(math.ldexp(FIRST, record.refusals), LONGEST)
        record.refusals += 1
        record.refused_until = now + seconds
        record.points = 0.0
        return seconds

    def is_refused(self, peer: str, now: float) -> bool:
        record = self._records.get(peer)
        return record is not None and record.refused_until > now

    def expire(self, now: float) -> list[str]:
        """Forget who has behaved; who may come back."""
        back, self._forgotten = [one for one in self._forgotten if one not in self._records], []
        for peer, record in list(self._records.items()):
            if 0.0 < record.refused_until <= now:
                record.refused_until = 0.0
                record.at = now
                back.append(peer)
            if not record.refused_until and now - record.at > FORGOTTEN:
                del self._records[peer]
        return back

    @staticmethod
    def _left(record: _Record, now: float) -> float:
        return record.points * math.pow(0.5, (now - record.at) / HALF_LIFE)
