"""The VPN's machines as names: HOSTNAME.<domain>, and back from their addresses (RFC 1035 sections 3.5, RFC 3596).

A machine says its hostname itself, in any letters. Its label is the part before the first dot in lower case, accents
taken off, other characters as "-", at most 63 (RFC 1123): "Büro PC.lan" is `buro-pc`. Several addresses of one peer
and hostname are one machine.

Two machines with one hostname: the plain name is the one's with the lowest VPN address (IPv4 before IPv6), so that all
nodes answer alike. Every machine has a second name, HOSTNAME-XXXXXX, with the last six letters of its peer ID in lower
case, which nobody else's hostname can take. An address's PTR is the plain name if the machine has it, else the second.

The zone knows all names below its domain and all addresses in the VPN's networks: what it does not have there does
not exist (NXDOMAIN, or no data, with an SOA for negative caching, RFC 2308), and is asked nowhere else.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA

from edgevpn.names.wire import Answer

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

TTL: Final = 30  # seconds: machines come, go and change places
NEGATIVE_TTL: Final = 10
MAX_LABEL: Final = 63
_MAX_PARTS: Final = 8
_SUFFIX: Final = 6  # letters of the peer ID
_IN4: Final = dns.name.from_text("in-addr.arpa.")
_IN6: Final = dns.name.from_text("ip6.arpa.")
_GUESSED_PREFIX: Final = {4: 24, 6: 64}  # of a private address, where no interface tells the VPN's network
_VERSIONS: Final[dict[int, tuple[int, ...]]] = {
    dns.rdatatype.A: (4,),
    dns.rdatatype.AAAA: (6,),
    dns.rdatatype.ANY: (4, 6),
}
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


def label_of(hostname: str) -> str:
    """A hostname as one label; "" when nothing of it can be one."""
    first = unicodedata.normalize("NFKD", hostname[: 4 * MAX_LABEL]).strip().strip(".").partition(".")[0].lower()
    plain = [letter for letter in first if not unicodedata.combining(letter)]
    text = "".join(letter if letter in _LETTERS else "-" for letter in plain)
    while "--" in text:
        text = text.replace("--", "-")
    return text.strip("-")[:MAX_LABEL].rstrip("-")


def networks_of(cidrs: Iterable[str], addresses: Iterable[Address]) -> tuple[Network, ...]:
    """The VPN's networks: those of the interface, and, of private addresses outside them, the usual /24 or /64."""
    networks: list[Network] = [ipaddress.ip_interface(cidr).network for cidr in cidrs]
    found = dict.fromkeys(networks)
    for address in addresses:
        if address.is_private and not any(address.version == one.version and address in one for one in networks):
            found[ipaddress.ip_network((address, _GUESSED_PREFIX[address.version]), strict=False)] = None
    return tuple(found)


def reverse_domains(networks: Iterable[Network]) -> list[str]:
    """The domains that hold the networks' addresses in reverse: "0.1.10.in-addr.arpa" of 10.1.0.0/24.

    Of a network that does not end at a label, the domains of its parts, if they are few; else that around it.
    """
    domains: list[str] = []
    for network in networks:
        step = 8 if network.version == 4 else 4
        whole = -(-network.prefixlen // step) * step
        parts: list[Network] = [network] if whole == network.prefixlen else list(network.subnets(new_prefix=whole))
        if len(parts) > _MAX_PARTS:
            parts = [network.supernet(new_prefix=whole - step)]
        for part in parts:
            labels = part.network_address.reverse_pointer.split(".")
            count = len(labels) - 2 - part.prefixlen // step
            domains.append(".".join(labels[count:]))
    return domains


class Zone:
    """The names of the machines as they are now. `machines`: VPN address -> (peer ID, hostname)."""

    def __init__(
        self, domain: str, machines: Mapping[str, tuple[str, str]], cidrs: Iterable[str] = (), serial: int = 1
    ) -> None:
        self.domain: Final = dns.name.from_text(domain.lower())
        self._domain_labels = self.domain.labels
        self._hosts: dict[bytes, list[Address]] = {}
        self._reverse: dict[Address, bytes] = {}
        by_machine: dict[tuple[str, str], list[Address]] = {}
        for text, (peer_id, hostname) in machines.items():
            by_machine.setdefault((peer_id, label_of(hostname)), []).append(ipaddress.ip_address(text))
        for addresses in by_machine.values():
            addresses.sort(key=_order)
        ordered = sorted(by_machine.items(), key=lambda item: (*_order(item[1][0]), item[0]))
        for (peer_id, label), addresses in ordered:  # second names first: no hostname can take them
            self._hosts.setdefault(_second_name(label, peer_id), addresses)
        for (peer_id, label), addresses in ordered:
            name = label.encode()
            if not name or self._hosts.setdefault(name, addresses) is not addresses:
                name = _second_name(label, peer_id)
            for address in addresses:
                self._reverse[address] = name
        self.networks: Final = networks_of(cidrs, self._reverse)
        self._networks = set(self.networks)
        self._lengths = sorted({(network.version, network.prefixlen) for network in self.networks})
        soa = SOA(  # type: ignore[no-untyped-call]
            dns.rdataclass.IN,
            dns.rdatatype.SOA,
            self.domain,
            dns.name.Name((b"hostmaster", *self.domain.labels)),
            serial & 0xFFFFFFFF,
            3600,
            600,
            86400,
            NEGATIVE_TTL,
        )
        self._soa = dns.rrset.from_rdata(self.domain, NEGATIVE_TTL, soa)

    def __len__(self) -> int:
        return len(self._hosts)

    def names(self) -> dict[str, list[str]]:
        """Every name below the domain (its first label) and its addresses."""
        return {name.decode(): [str(one) for one in addresses] for name, addresses in self._hosts.items()}

    def has(self, name: dns.name.Name) -> bool:
        """Whether a machine has that name, or that address in its reverse form; or it is the domain itself."""
        labels = _lower(name)
        if labels == self._domain_labels:
            return True
        if labels[1:] == self._domain_labels:
            return labels[0] in self._hosts
        where = _reverse_of(labels)
        return where is not None and where.prefixlen == where.max_prefixlen and where[0] in self._reverse

    def owns(self, name: dns.name.Name) -> bool:
        """Whether the name is the VPN's: it is never asked of others, even if no machine has it."""
        labels = _lower(name)
        if labels[-len(self._domain_labels) :] == self._domain_labels:
            return True
        where = _reverse_of(labels)
        return where is not None and (self._in_vpn(where) or (where[0] in self._reverse and _is_one(where)))

    def _in_vpn(self, where: Network) -> bool:
        return any(
            version == where.version
            and length <= where.prefixlen
            and where.supernet(new_prefix=length) in self._networks
            for version, length in self._lengths
        )

    def lookup(self, name: dns.name.Name, rdtype: int) -> Answer:
        """The answer for a name that the zone owns."""
        labels = _lower(name)
        if labels[-len(self._domain_labels) :] == self._domain_labels:
            return self._forward(name, labels, rdtype)
        where = _reverse_of(labels)
        if where is not None and _is_one(where):
            target = self._reverse.get(where[0])
            if target is None:
                return self._nothing(dns.rcode.NXDOMAIN)
            if rdtype in (dns.rdatatype.PTR, dns.rdatatype.ANY):
                full = dns.name.Name((target, *self._domain_labels))
                pointer = PTR(dns.rdataclass.IN, dns.rdatatype.PTR, full)  # type: ignore[no-untyped-call]
                return _found(name, [pointer])
        return self._nothing(dns.rcode.NOERROR)

    def _forward(self, name: dns.name.Name, labels: tuple[bytes, ...], rdtype: int) -> Answer:
        if labels == self._domain_labels:
            if rdtype in (dns.rdatatype.SOA, dns.rdatatype.ANY):
                return Answer(answer=(self._soa,), authoritative=True)
            return self._nothing(dns.rcode.NOERROR)
        addresses = self._hosts.get(labels[0]) if labels[1:] == self._domain_labels else None
        if addresses is None:
            return self._nothing(dns.rcode.NXDOMAIN)
        wanted = _VERSIONS.get(rdtype, ())
        sets = tuple(
            dns.rrset.from_rdata_list(name, TTL, [_rdata(one) for one in addresses if one.version == version])
            for version in wanted
            if any(one.version == version for one in addresses)
        )
        return Answer(answer=sets, authoritative=True) if sets else self._nothing(dns.rcode.NOERROR)

    def _nothing(self, rcode: int) -> Answer:
        return Answer(rcode=rcode, authority=(self._soa,), authoritative=True)

    def no_data(self) -> Answer:
        """For a name that is the VPN's but has no record of the type."""
        return self._nothing(dns.rcode.NOERROR)


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def _second_name(label: str, peer_id: str) -> bytes:
    suffix = label_of(peer_id[-_SUFFIX:]) or "x"
    return f"{label[: MAX_LABEL - _SUFFIX - 1] or 'peer'}-{suffix}".encode()


def _rdata(address: Address) -> dns.rdata.Rdata:
    if address.version == 4:
        return A(dns.rdataclass.IN, dns.rdatatype.A, str(address))  # type: ignore[no-untyped-call]
    return AAAA(dns.rdataclass.IN, dns.rdatatype.AAAA, str(address))  # type: ignore[no-untyped-call]


def _found(name: dns.name.Name, records: list[dns.rdata.Rdata]) -> Answer:
    return Answer(answer=(dns.rrset.from_rdata_list(name, TTL, records),), authoritative=True)


def _lower(name: dns.name.Name) -> tuple[bytes, ...]:
    return tuple(label.lower() for label in name.labels)


def _is_one(network: Network) -> bool:
    return network.prefixlen == network.max_prefixlen


def _reverse_of(labels: tuple[bytes, ...]) -> Network | None:
    """The address, or the network of whole labels, that a name in in-addr.arpa or ip6.arpa stands for."""
    if labels[-3:] == _IN4.labels:
        parts = labels[-4::-1]
        if not 1 <= len(parts) <= 4 or not all(_is_octet(part) for part in parts):
            return None
        octets = [int(part) for part in parts]
        return ipaddress.IPv4Network((bytes(octets + [0] * (4 - len(octets))), 8 * len(octets)))
    if labels[-3:] == _IN6.labels:
        parts = labels[-4::-1]
        if not 1 <= len(parts) <= 32 or not all(len(part) == 1 and part in b"0123456789abcdef" for part in parts):
            return None
        digits = b"".join(parts).ljust(32, b"0")
        return ipaddress.IPv6Network((bytes.fromhex(digits.decode()), 4 * len(parts)))
    return None


def _is_octet(part: bytes) -> bool:
    return 1 <= len(part) <= 3 and part.isdigit() and (part == b"0" or part[0] != 0x30) and int(part) <= 255
