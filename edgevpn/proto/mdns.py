"""Finding members on the same link by multicast DNS (RFC 6762), as DNS service discovery does (RFC 6763).

The service is `<mdns>.local.`, `mdns` being a secret of the network. A node asks for its PTR records and answers with

    PTR  <mdns>.local.           -> <label>.<mdns>.local.     label: random, so it tells nothing
    SRV  <label>.<mdns>.local.   -> <label>.local.
    TXT  <label>.<mdns>.local.   -> "dnsaddr=<multiaddr>/p2p/<peer id>", one string an address
    A, AAAA  <label>.local.

Only the TXT strings count. The Go program wants all four, reports a label once an hour, and when it dials in vain does
not try again for long: so announce only while listening, and take a new label when the addresses change.

The first half of this module makes and reads datagrams. `MdnsNode` is one node on one link, without clock or socket:
it is given `now` and datagrams, says what to send and until when to sleep. It asks at 0, 1, 3, 7 ... seconds, then
every 60, or, once it knows somebody, every 600, each gap shifted a little at random; it announces itself at 0 and 1 s;
it answers 20 to 120 ms after a question, and at most once a second.

As RFC 6762 has it, a question carries the answers that are known (7.1), and who is among them keeps quiet; and who
hears another ask, with no answer that it does not know, takes that for its own question (7.3). So ten idle nodes
together ask about once in ten minutes, and nobody has to answer. A known answer counts for half of its time to live.
`forget` takes one back: a peer that could not be reached shall be told of again.
"""

from __future__ import annotations

import ipaddress
import random
import re
import string
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.TXT import TXT

from edgevpn.errors import UntrustedDataError, UsageError

GROUP_V4 = "224.0.0.251"
GROUP_V6 = "ff02::fb"
PORT = 5353

MAX_RECEIVE = 9000  # bytes of a datagram, RFC 6762 section 17
MAX_SEND = 1400  # bytes: fits every link unfragmented
MAX_FOUND = 64  # addresses read from one datagram
TTL = 3200  # seconds, of PTR, SRV and TXT; as go-libp2p
HOST_TTL = 120  # seconds, of A and AAAA
_LABEL_LENGTH = 32
_SRV_PORT = 4001  # nobody reads it; the TXT strings hold the real ports

_FIRST_GAP = 1.0
_LONGEST_GAP = 60.0
_LONGEST_GAP_KNOWING = 600.0
_SHARED_GAP = 8.0  # from such gaps on another's question counts for ours
_GAP_JITTER = 0.1  # each gap is 1 +- this long, so that nodes started together drift apart
_ANSWER_DELAY = (0.02, 0.12)
_ANSWER_INTERVAL = 1.0
_REPORT_INTERVAL = 1.0
_MAX_RECENT = 1024
_MAX_KNOWN = 256

_HEADER = struct.Struct("!HH")
_OPCODE_AND_RCODE = 0x780F
_TOP_BIT = 0x8000  # of a class: cache-flush in a record, unicast wanted in a question
_PREFIX = b"dnsaddr="
_DNSADDR = re.compile(r"((?:/[A-Za-z0-9._:%+~-]+)+)/p2p/([1-9A-HJ-NP-Za-km-z]{32,100}|b[a-z2-7]{32,100})")


@dataclass(frozen=True)
class FoundAddress:
    """`multiaddr` (without the last /p2p) is where the peer says it listens; neither part is proven."""

    peer_id: str
    multiaddr: str


@dataclass(frozen=True)
class Heard:
    """What a datagram says of our service: somebody asks for it, or peers are at these addresses."""

    asked: bool
    found: tuple[FoundAddress, ...] = ()
    known: frozenset[str] = frozenset()  # labels that who asks knows, and will for long enough
    told: tuple[tuple[str, str, float], ...] = ()  # label, peer and time to live (s) of each instance told of


def service_name(service: str) -> dns.name.Name:
    """`<service>.local.`; dots part labels. Raises UsageError if it is no DNS name."""
    name = [label.encode() for label in service.split(".")] + [b"local", b""]
    try:
        dns.name.Name([b"x" * _LABEL_LENGTH, *name])  # an instance's name must fit too
        return dns.name.Name(name)
    except dns.exception.DNSException:
        raise UsageError(
            "the network's mdns name does not fit a DNS name: parts between dots have 1 to 63 characters"
        ) from None


def build_query(service: str, known: Iterable[tuple[str, float]] = ()) -> bytes:
    """The question for our service, one datagram; with those of the `known` answers (label, seconds left) that fit."""
    name = service_name(service)
    query = dns.message.make_query(name, dns.rdatatype.PTR)
    query.id = 0
    query.flags = dns.flags.Flag(0)
    room = MAX_SEND - len(query.to_wire())
    for label, left in known:
        room -= len(label) + 15  # name and target are pointers to the question's (RFC 1035, 4.1.4)
        if room < 0:
            break
        target = dns.name.Name([label.encode(), *name.labels]).to_text()
        query.answer.append(dns.rrset.from_text(name, int(left), "IN", "PTR", target))
    return query.to_wire()


def new_label(rng: random.Random) -> str:
    """A random instance label."""
    return "".join(rng.choices(string.ascii_lowercase + string.digits, k=_LABEL_LENGTH))


def build_answer(service: str, label: str, peer_id: str, multiaddrs: Sequence[str], *, ttl: int = TTL) -> bytes:
    """The datagram that says we are at `multiaddrs` (without /p2p). Those beyond MAX_SEND bytes are left out.

    With `ttl` 0 it is a goodbye.
    """
    texts: list[bytes] = []
    hosts: list[str] = []
    answer = _answer(service, label, texts, hosts, ttl)
    for multiaddr in multiaddrs:
        text = _PREFIX + f"{multiaddr}/p2p/{peer_id}".encode()
        if len(text) > 255:
            continue
        texts.append(text)
        host = _ip(multiaddr)
        added = host is not None and host not in hosts
        if host is not None and added:
            hosts.append(host)
        longer = _answer(service, label, texts, hosts, ttl)
        if len(longer) > MAX_SEND:
            texts.pop()
            if added:
                hosts.pop()
        else:
            answer = longer
    return answer


def build_goodbye(service: str, label: str, peer_id: str, multiaddrs: Sequence[str]) -> bytes:
    """The datagram that takes an answer back (RFC 6762 section 10.1)."""
    return build_answer(service, label, peer_id, multiaddrs, ttl=0)


def _answer(service: str, label: str, texts: Sequence[bytes], hosts: Sequence[str], ttl: int) -> bytes:
    name = service_name(service)
    instance = dns.name.Name([label.encode()]) + name
    host_name = dns.name.Name([label.encode(), b"local", b""])
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    message.answer.append(dns.rrset.from_text(name, ttl, "IN", "PTR", instance.to_text()))
    message.additional.append(dns.rrset.from_text(instance, ttl, "IN", "SRV", f"0 0 {_SRV_PORT} {host_name.to_text()}"))
    txt = TXT(dns.rdataclass.IN, dns.rdatatype.TXT, texts or [b""])
    message.additional.append(dns.rrset.from_rdata(instance, ttl, txt))
    for host in hosts:
        kind = "AAAA" if ":" in host else "A"
        message.additional.append(dns.rrset.from_text(host_name, min(ttl, HOST_TTL), "IN", kind, host))
    return message.to_wire()


def _ip(multiaddr: str) -> str | None:
    """The IP address that a multiaddr begins with."""
    parts = multiaddr.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        return str(ipaddress.ip_address(parts[2]))
    except ValueError:
        return None


def parse_untrusted(datagram: bytes, service: str) -> Heard:
    """What a datagram says of `service`; other services' records are passed over. Raises UntrustedDataError."""
    if not 12 <= len(datagram) <= MAX_RECEIVE:
        raise UntrustedDataError("an mDNS datagram has a wrong length")
    name = service_name(service)
    flags = _HEADER.unpack_from(datagram)[1]
    if flags & _OPCODE_AND_RCODE:
        return Heard(asked=False)  # RFC 6762 section 18.3, 18.11: ignore silently
    try:
        message = dns.message.from_wire(datagram, one_rr_per_rrset=True)
    except Exception:  # noqa: BLE001  hostile bytes through a large library: whatever it raises, they are not DNS
        raise UntrustedDataError("an mDNS datagram is not DNS") from None
    if not flags & dns.flags.QR:
        wanted = (dns.rdatatype.PTR, dns.rdatatype.ANY)
        asked = any(question.name == name and question.rdtype in wanted for question in message.question)
        known = frozenset(label for label, left in _instances(message.answer, name) if left >= TTL / 2)
        return Heard(asked, known=known if asked else frozenset())
    found: dict[FoundAddress, None] = {}
    peers: dict[str, str] = {}
    for records in (*message.answer, *message.additional):
        if (
            records.rdtype != dns.rdatatype.TXT
            or records.rdclass & ~_TOP_BIT != dns.rdataclass.IN
            or records.ttl == 0
            or records.name == name
            or not records.name.is_subdomain(name)
        ):
            continue
        for record in records:
            for text in record.strings:
                address = _address(text)
                if address is not None and len(found) < MAX_FOUND:
                    found[address] = None
                    peers[_first_label(records.name)] = address.peer_id
    instances = _instances([*message.answer, *message.additional], name)
    told = tuple((label, peers.get(label, ""), left) for label, left in instances if label in peers or not left)
    return Heard(asked=False, found=tuple(found), told=told)


def _first_label(name: dns.name.Name) -> str:
    return name.labels[0].decode("latin-1").lower()


def _instances(records: Iterable[dns.rrset.RRset], service: dns.name.Name) -> list[tuple[str, float]]:
    """(label, time to live in seconds) of the instances that PTR records of the service name."""
    return [
        (_first_label(record.target), float(one.ttl))
        for one in records
        if one.rdtype == dns.rdatatype.PTR and one.name == service
        for record in one
        if len(record.target.labels) == len(service.labels) + 1 and record.target.is_subdomain(service)
    ]


def _address(text: bytes) -> FoundAddress | None:
    if not text.startswith(_PREFIX):
        return None
    match = _DNSADDR.fullmatch(text[len(_PREFIX) :].decode("latin-1"))
    return FoundAddress(peer_id=match[2], multiaddr=match[1]) if match else None


class MdnsNode:
    """One node on one link. Times are seconds of any clock that does not go back.

    Call `announce` once we listen (and whenever our addresses on this link change), `receive` with what comes in,
    `poll` whenever `next_wakeup` is reached or `receive` returned; send what `poll` and `goodbye` return.
    """

    def __init__(self, service: str, peer_id: str, rng: random.Random, now: float) -> None:
        service_name(service)  # refuse a bad name here, not at the first question
        self._service = service
        self._peer_id = peer_id
        self._rng = rng
        self._label = ""
        self._multiaddrs: tuple[str, ...] = ()
        self._gap = _FIRST_GAP
        self._ask_at = now
        self._announce_at: list[float] = []  # at most two
        self._answer_at: float | None = None
        self._answered_at = float("-inf")
        self._goodbyes: list[bytes] = []  # at most one
        self._recent: dict[FoundAddress, float] = {}
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()  # label: peer, and when its answer is over

    def announce(self, multiaddrs: Sequence[str], now: float) -> None:
        """From now on we listen at `multiaddrs` (without /p2p). None: say nothing more."""
        if tuple(multiaddrs) == self._multiaddrs:
            return
        self._goodbyes = self.goodbye()
        self._multiaddrs = tuple(multiaddrs)
        self._label = new_label(self._rng)
        self._answer_at = None
        self._announce_at = [now, now + 1.0] if multiaddrs else []

    def ask_again(self, now: float) -> None:
        """Ask as at the start, and say again where we are: time went on without us."""
        self._gap = _FIRST_GAP
        self._ask_at = now
        self._announce_at = [now] if self._multiaddrs else []
        self._known.clear()

    def forget(self, peer_id: str, now: float) -> None:
        """It can't be reached, or is gone: it shall answer if it is there, and be asked for within a minute."""
        for label in [label for label, (peer, _) in self._known.items() if peer == peer_id]:
            del self._known[label]
        self._gap = min(self._gap, _LONGEST_GAP)
        self._ask_at = min(self._ask_at, now + self._rng.uniform(0.5, 1.0) * _LONGEST_GAP)

    def _known_now(self, now: float) -> list[tuple[str, float]]:
        """The answers that need not be given again: label, seconds left."""
        return [(label, until - now) for label, (_, until) in self._known.items() if until - now >= TTL / 2]

    def _asked_at(self, now: float) -> None:
        """We asked, or another did for us."""
        shift = self._rng.uniform(1 - _GAP_JITTER, 1 + _GAP_JITTER)
        self._ask_at = now + self._gap * shift
        self._gap = min(self._gap * 2, _LONGEST_GAP_KNOWING if self._known_now(now) else _LONGEST_GAP)

    def goodbye(self) -> list[bytes]:
        """What to send before leaving the link."""
        if not self._multiaddrs:
            return []
        return [build_goodbye(self._service, self._label, self._peer_id, self._multiaddrs)]

    def next_wakeup(self) -> float:
        """When `poll` has something to do."""
        if self._goodbyes:
            return float("-inf")
        times = [self._ask_at, *self._announce_at]
        if self._answer_at is not None:
            times.append(self._answer_at)
        return min(times)

    def poll(self, now: float) -> list[bytes]:
        """The datagrams to send to the group now."""
        sends, self._goodbyes = self._goodbyes, []
        if now >= self._ask_at:
            sends.append(build_query(self._service, self._known_now(now)))
            self._asked_at(now)
        due = [at for at in self._announce_at if now >= at]
        self._announce_at = [at for at in self._announce_at if now < at]
        if due or (self._answer_at is not None and now >= self._answer_at):
            sends.append(build_answer(self._service, self._label, self._peer_id, self._multiaddrs))
            self._answered_at = now
            self._answer_at = None
        return sends

    def receive_untrusted(self, datagram: bytes, now: float) -> tuple[FoundAddress, ...]:
        """Take a datagram; the peers it tells of, each at most once a second, without us. Raises UntrustedDataError."""
        heard = parse_untrusted(datagram, self._service)
        if heard.asked and self._gap > _SHARED_GAP and self._ask_at - now < 0.75 * self._gap:
            ours = {label for label, _ in self._known_now(now)}
            if heard.known - {self._label} <= ours:
                self._asked_at(now)
        for label, peer, ttl in heard.told:
            self._known.pop(label, None)
            if ttl > 0 and peer != self._peer_id:
                self._known[label] = peer, now + min(ttl, TTL)
                if len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        if heard.asked and self._multiaddrs and self._answer_at is None and self._label not in heard.known:
            delay = self._rng.uniform(*_ANSWER_DELAY)
            self._answer_at = max(now + delay, self._answered_at + _ANSWER_INTERVAL)
        self._recent = {found: at for found, at in self._recent.items() if now - at < _REPORT_INTERVAL}
        fresh = [found for found in heard.found if found.peer_id != self._peer_id and found not in self._recent]
        for found in fresh[: _MAX_RECENT - len(self._recent)]:  # full: report twice rather than grow
            self._recent[found] = now
        return tuple(fresh)
