"""Queries and replies of DNS as bytes (RFC 1035, EDNS0 of RFC 6891), by dnspython.

A query is judged by its header before anything is parsed: whoever sends records that no query needs is refused for
12 bytes of work. What can't be read gets the reply that its header allows, or none.

    no reply   shorter than a header; a reply itself
    NOTIMP     an opcode other than QUERY
    FORMERR    not one question; records besides OPT and a signature; what dnspython can't read
    BADVERS    EDNS of a later version

Replies are as large as the client takes: 512 bytes by UDP, up to MAX_UDP with EDNS (no fragments, as DNS flag day 2020
advises), 65,535 by TCP; what does not fit is cut, and TC says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from edgevpn.errors import UntrustedDataError

MAX_QUERY = 4096  # bytes; real ones have some 40
MAX_UDP = 1232
MIN_UDP = 512
MAX_TCP = 65535

_HEADER = struct.Struct("!HHHHHH")
_QR = 0x8000
_RD = 0x0100
_OPCODE = 0x7800
_MAX_ADDITIONAL = 2  # OPT, and TSIG or SIG(0)

# What dnspython raises for bytes it can't read; its own errors, and what slips through its parsers.
UNREADABLE = (dns.exception.DNSException, ValueError, struct.error, IndexError, KeyError, OverflowError)


class BadQueryError(UntrustedDataError):
    """Bytes that are no query we answer; `reply` is what to say to it, b"" for nothing."""

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `name` in the case it was asked in; `payload`: bytes a UDP reply may have."""

    message: dns.message.Message
    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    rdclass: dns.rdataclass.RdataClass
    recursion_desired: bool
    payload: int
    dnssec_ok: bool
    checking_disabled: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply says. `chase`: where a chain of CNAMEs leaves our names; the rest has to be asked elsewhere."""

    rcode: int = dns.rcode.NOERROR
    answer: tuple[dns.rrset.RRset, ...] = ()
    authority: tuple[dns.rrset.RRset, ...] = ()
    authoritative: bool = False
    chase: dns.name.Name | None = field(default=None)


def read_query_untrusted(wire: bytes) -> Query:
    """Raises BadQueryError."""
    if len(wire) < _HEADER.size:
        raise BadQueryError("shorter than a header")
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(wire)
    if flags & _QR:
        raise BadQueryError("a reply, not a query")
    if flags & _OPCODE:
        raise BadQueryError("not the opcode QUERY", _bare_reply(number, flags, dns.rcode.NOTIMP))
    malformed = _bare_reply(number, flags, dns.rcode.FORMERR)
    if questions != 1 or answers or authorities or additional > _MAX_ADDITIONAL or len(wire) > MAX_QUERY:
        raise BadQueryError("not one question and nothing else", malformed)
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
        [question] = message.question
    except UNREADABLE as exc:
        raise BadQueryError(f"malformed: {type(exc).__name__}", malformed) from exc
    if message.edns > 0:
        response = dns.message.make_response(message, our_payload=MAX_UDP)
        response.set_rcode(dns.rcode.BADVERS)
        raise BadQueryError("a later version of EDNS", response.to_wire())
    return Query(
        message=message,
        name=question.name,
        rdtype=question.rdtype,
        rdclass=question.rdclass,
        recursion_desired=bool(flags & _RD),
        payload=max(MIN_UDP, min(message.payload, MAX_UDP)) if message.edns == 0 else MIN_UDP,
        dnssec_ok=message.edns == 0 and bool(message.ednsflags & dns.flags.DO),
        checking_disabled=bool(flags & dns.flags.CD),
    )


def _bare_reply(number: int, flags: int, rcode: int) -> bytes:
    return _HEADER.pack(number, _QR | flags & (_OPCODE | _RD) | rcode, 0, 0, 0, 0)


def write_reply(query: Query, answer: Answer, *, tcp: bool, recursion_available: bool) -> bytes:
    """The reply's bytes; with TC and as many whole records as fit when it is too large."""
    response = dns.message.make_response(query.message, recursion_available=recursion_available, our_payload=MAX_UDP)
    if answer.authoritative:
        response.flags |= dns.flags.AA
    response.set_rcode(dns.rcode.Rcode(answer.rcode))
    response.answer = list(answer.answer)
    response.authority = list(answer.authority)
    limit = MAX_TCP if tcp else query.payload
    try:
        return response.to_wire(max_size=limit, prefer_truncation=True)
    except dns.exception.TooBig:
        response.answer, response.authority = [], []
        response.flags |= dns.flags.TC
        return response.to_wire(max_size=limit)


def as_asked(answer: Answer, name: dns.name.Name) -> Answer:
    """The answer with the records of `name` in the case it was asked in."""
    return replace(answer, answer=tuple(_renamed(one, name) if one.name == name else one for one in answer.answer))


def _renamed(rrset: dns.rrset.RRset, name: dns.name.Name) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, rrset.ttl, list(rrset))


class ReplyMemo:
    """Replies that were written for queries of the same bytes (but for their id): a known name costs microseconds.

    Only for what does not change while the names don't; `clear` when they do. Bounded: when full, it starts anew.
    """

    MAX_REPLIES = 2048
    MAX_BYTES = 600  # of query and reply

    def __init__(self) -> None:
        self._replies: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, wire: bytes) -> bytes | None:
        rest = self._replies.get(wire[2:])
        return None if rest is None else wire[:2] + rest

    def put(self, wire: bytes, reply: bytes) -> None:
        if len(wire) + len(reply) > self.MAX_BYTES:
            return
        if len(self._replies) >= self.MAX_REPLIES:
            self._replies.clear()
        self._replies[wire[2:]] = reply[2:]

    def clear(self) -> None:
        self._replies.clear()
