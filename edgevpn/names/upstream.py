"""Asking another server: the question that goes out, and whether what comes back is its answer (RFC 5452).

A forged answer must guess the id (16 bits), the port (the kernel's choice, new for each question) and the case of each
letter of the name (0x20: servers copy the question as it is). An answer with another id or question is not ours and is
not waited on less for it; one that lost the letters' case is asked for again by TCP, where nobody can put in a word.

What reading a reply costs grows with the squares of the numbers of labels in its names (they are hashed by every
ending), and compression lets a few bytes stand for a name of 127. So a reply is weighed before it is read: its names
are looked at one by one, until they are too much.

Of an answer only what belongs to the question is kept: the chain of CNAMEs from its name to the records of its type,
and, where there are none, the SOA that says for how long. Nothing else of what a server sends reaches client or cache.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.wire

from edgevpn.errors import UntrustedDataError
from edgevpn.names.wire import MAX_UDP, UNREADABLE, Answer

MAX_REPLY: Final = 16_384  # bytes
MAX_RECORDS: Final = 128  # of one reply
MANY_RECORDS: Final = 24  # from which on reading a hostile reply takes some 10 ms: better in a thread
MAX_CHAIN: Final = 16  # CNAMEs
MAX_WEIGHT: Final = 17_000  # the labels of each name, squared, added up: 650 names of 5 labels, or 13 of ip6.arpa
_HEADER: Final = struct.Struct("!HHHHHH")
_QR: Final = 0x8000
_DNSSEC: Final = frozenset((dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3))


class CaseLostError(UntrustedDataError):
    """The answer's question has our name in other letters: ask by TCP."""


class TruncatedError(UntrustedDataError):
    """The answer did not fit: ask by TCP."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it went out."""

    wire: bytes
    number: int
    name: dns.name.Name  # in the case it was sent in
    rdtype: int


def ask(name: dns.name.Name, rdtype: int, *, dnssec_ok: bool, checking_disabled: bool, chance: random.Random) -> Asked:
    """A question with an id and a case of its own."""
    shuffled = dns.name.Name([_shuffled(label, chance) for label in name.labels])
    message = dns.message.make_query(
        shuffled,
        dns.rdatatype.RdataType(rdtype),
        use_edns=0,
        want_dnssec=dnssec_ok,
        payload=MAX_UDP,
        id=chance.randrange(65536),
    )
    if checking_disabled:
        message.flags |= dns.flags.CD
    return Asked(message.to_wire(), message.id, shuffled, rdtype)


def _shuffled(label: bytes, chance: random.Random) -> bytes:
    bits = chance.getrandbits(len(label) or 1)
    return bytes(
        byte ^ 0x20 if bits >> place & 1 and (65 <= byte <= 90 or 97 <= byte <= 122) else byte
        for place, byte in enumerate(label)
    )


def read_reply_untrusted(wire: bytes, asked: Asked, *, tcp: bool = False) -> Answer:
    """The answer in a reply. Raises TruncatedError, CaseLostError, or UntrustedDataError: not the answer."""
    if not _HEADER.size <= len(wire) <= MAX_REPLY:
        raise UntrustedDataError("a reply of a wrong size")
    number, flags, questions, *counts = _HEADER.unpack_from(wire)
    if number != asked.number or not flags & _QR or questions != 1:
        raise UntrustedDataError("a reply to another question")
    truncated = bool(flags & dns.flags.TC) and not tcp
    if not truncated and sum(counts) > MAX_RECORDS:
        raise UntrustedDataError("a reply of too many records")
    try:
        if truncated:  # its rest may be cut anywhere: the question is all that is read
            message = dns.message.from_wire(wire, question_only=True, ignore_trailing=True)
        else:
            _weigh_untrusted(wire, questions, sum(counts))
            message = dns.message.from_wire(wire, ignore_trailing=True)
        [question] = message.question
    except UNREADABLE as exc:
        raise UntrustedDataError(f"a malformed reply: {type(exc).__name__}") from exc
    if question.name != asked.name or (question.rdtype, question.rdclass) != (asked.rdtype, dns.rdataclass.IN):
        raise UntrustedDataError("a reply to another question")
    if not tcp and question.name.labels != asked.name.labels:
        raise CaseLostError("a reply that lost the letters' case")
    if truncated:
        raise TruncatedError("a reply that did not fit")
    return _sifted(message, asked)


def is_large_untrusted(wire: bytes) -> bool:
    """Whether a reply may take long to read."""
    return len(wire) >= _HEADER.size and sum(_HEADER.unpack_from(wire)[3:]) > MANY_RECORDS


def _weigh_untrusted(wire: bytes, questions: int, records: int) -> None:
    """Raises UntrustedDataError for more than MAX_WEIGHT; one of dnspython's for what is malformed."""
    weight = 0
    parser = dns.wire.Parser(wire, _HEADER.size)
    for _ in range(questions):
        parser.get_name(decompress=True)
        parser.get_struct("!HH")
    for _ in range(records):
        weight += len(parser.get_name(decompress=True)) ** 2
        rdtype, rdclass, _, size = parser.get_struct("!HHIH")
        with parser.restrict_to(size):
            rdata = dns.rdata.from_wire_parser(rdclass, rdtype, parser)
        weight += sum(len(name) ** 2 for name in _names_in(rdata))
        if weight > MAX_WEIGHT:
            raise UntrustedDataError("a reply of too many long names")


def _names_in(rdata: dns.rdata.Rdata) -> Iterable[dns.name.Name]:
    for kind in type(rdata).__mro__:
        for slot in getattr(kind, "__slots__", ()):
            value = getattr(rdata, slot, None)
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(part, dns.name.Name):
                    yield part


def _sifted(message: dns.message.Message, asked: Asked) -> Answer:
    rcode = message.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Answer(rcode=rcode)
    by_place: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
    signatures: dict[dns.name.Name, list[dns.rrset.RRset]] = {}
    for rrset in message.answer:
        if rrset.rdclass != dns.rdataclass.IN:
            continue
        if rrset.rdtype == dns.rdatatype.RRSIG:
            signatures.setdefault(rrset.name, []).append(rrset)
        else:
            by_place.setdefault((rrset.name, rrset.rdtype), rrset)
    kept: list[dns.rrset.RRset] = []
    name, complete = asked.name, False
    for _ in range(MAX_CHAIN):
        found = [
            rrset for (owner, rdtype), rrset in by_place.items() if owner == name and asked.rdtype in (rdtype, 255)
        ]
        alias = by_place.get((name, dns.rdatatype.CNAME))
        if found or alias is None:
            kept += found
            complete = bool(found)
            break
        kept.append(alias)
        name = alias[0].target
    if asked.rdtype == dns.rdatatype.RRSIG:
        kept += signatures.get(name, [])
    else:
        owners = {rrset.name for rrset in kept}
        kept += [rrset for owner in owners for rrset in signatures.get(owner, [])]
    authority = tuple(
        rrset
        for rrset in message.authority
        if rrset.rdclass == dns.rdataclass.IN
        and (rrset.rdtype in _DNSSEC or (rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name)))
    )
    return Answer(rcode, _plain(kept), () if complete else _plain(authority))


def _plain(rrsets: Iterable[dns.rrset.RRset]) -> tuple[dns.rrset.RRset, ...]:
    """With owners in lower case: ours was shuffled."""
    return tuple(dns.rrset.from_rdata_list(one.name.canonicalize(), one.ttl, list(one)) for one in rrsets)
