"""What other servers said, for as long as they said it holds (RFC 1035 section 7.4, RFC 2308, RFC 9520).

Records leave with the TTL that is left of theirs. That a name or record does not exist holds for the smaller of its
SOA's TTL and minimum, at most MAX_NEGATIVE; that nobody answered, for FAILURE seconds, so that a client that asks again
and again does not make us do so. The least recently used entry goes when the cache is full.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, NamedTuple

import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from edgevpn.names.wire import Answer

MAX_TTL: Final = 86_400  # RFC 8767: longer than a day helps nobody
MAX_NEGATIVE: Final = 3600
FAILURE: Final = 2.0


class Key(NamedTuple):
    """A question, as far as it changes the answer. `name` in lower case."""

    name: dns.name.Name
    rdtype: int
    dnssec_ok: bool
    checking_disabled: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    since: float
    until: float


class Cache:
    """At most `size` answers; 0 keeps none. Times in seconds of any clock that does not go back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Answer | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        age = int(now - entry.since)
        return entry.answer if age == 0 else _aged(entry.answer, age)

    def put(self, key: Key, answer: Answer, now: float) -> None:
        life = lifetime(answer)
        if life <= 0 or self._size <= 0:
            return
        self._entries[key] = _Entry(answer, now, now + life)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)


def lifetime(answer: Answer) -> float:
    """Seconds for which an answer may be given again."""
    if answer.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return FAILURE
    if answer.answer and answer.rcode == dns.rcode.NOERROR and answer.chase is None:
        return min(MAX_TTL, *(rrset.ttl for rrset in answer.answer))
    for rrset in answer.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            minimum: int = rrset[0].minimum
            return min(MAX_NEGATIVE, rrset.ttl, minimum, *(one.ttl for one in answer.answer))
    return 0


def _aged(answer: Answer, age: int) -> Answer:
    return Answer(answer.rcode, _older(answer.answer, age), _older(answer.authority, age))


def _older(rrsets: tuple[dns.rrset.RRset, ...], age: int) -> tuple[dns.rrset.RRset, ...]:
    return tuple(dns.rrset.from_rdata_list(one.name, max(0, one.ttl - age), list(one)) for one in rrsets)
