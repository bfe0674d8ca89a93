"""What to answer a query: the VPN's names from here, others from whoever knows them, or not at all.

    a machine's name or address (Zone)          the zone
    a name that a pattern matches               the pattern
    other names below the domain, other         do not exist: the zone says so
      addresses of the VPN's networks
    localhost, *.onion, *.invalid               as RFC 6761 and RFC 7686 say
    anything else                               asked of others, if the client may and wants that

So no pattern takes a machine's name, and no name of the VPN's is asked of others, whether it exists or not. Chains of
CNAMEs among our own names are followed MAX_CHAIN links.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from edgevpn.names.patterns import PatternTable
from edgevpn.names.wire import Answer, Query
from edgevpn.names.zone import Network, Zone

MAX_CHAIN: Final = 8
_LOCAL_TTL: Final = 3600
_LOCALHOST: Final[dict[int, str]] = {dns.rdatatype.A: "127.0.0.1", dns.rdatatype.AAAA: "::1"}
_META: Final = frozenset(dns.rdatatype.RdataType.make(name) for name in ("AXFR", "IXFR", "MAILA", "MAILB", "OPT"))
_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598


@dataclass(frozen=True, slots=True)
class Names:
    """All names there are now."""

    zone: Zone
    patterns: PatternTable = field(default_factory=lambda: PatternTable([]))

    def answer(self, query: Query) -> Answer | None:
        """The answer from here; None: it has to be asked elsewhere (`chase` of an answer, too)."""
        if query.rdclass != dns.rdataclass.IN or query.rdtype in _META:
            return Answer(rcode=dns.rcode.REFUSED)
        return self.lookup(query.name, query.rdtype)

    def lookup(self, name: dns.name.Name, rdtype: int) -> Answer | None:
        first = self._one(name, rdtype)
        if first is None or first.chase is None:
            return first
        chain = list(first.answer)
        target = first.chase
        for _ in range(MAX_CHAIN):
            found = self._one(target, rdtype)
            if found is None:
                return Answer(0, tuple(chain), authoritative=True, chase=target)
            chain += found.answer
            if found.chase is None:
                return Answer(found.rcode, tuple(chain), found.authority, authoritative=True)
            target = found.chase
        return Answer(rcode=dns.rcode.SERVFAIL)

    def _one(self, name: dns.name.Name, rdtype: int) -> Answer | None:
        if self.zone.has(name):
            return self.zone.lookup(name, rdtype)
        found = self.patterns.lookup(name, rdtype)
        if found is not None:
            return found if found.answer or not self.zone.owns(name) else self.zone.no_data()
        if self.zone.owns(name):
            return self.zone.lookup(name, rdtype)
        return _special(name, rdtype)

    def owns(self, name: dns.name.Name) -> bool:
        """Whether a name is never to be asked elsewhere."""
        return self._one(name, dns.rdatatype.A) is not None


def _special(name: dns.name.Name, rdtype: int) -> Answer | None:
    top = name.labels[-2].lower() if len(name.labels) > 1 else b""
    if top in (b"onion", b"invalid"):
        return Answer(rcode=dns.rcode.NXDOMAIN)
    if top == b"localhost":
        text = _LOCALHOST.get(rdtype)
        if text is None:
            return Answer()
        kind = dns.rdatatype.RdataType(rdtype)
        return Answer(0, (dns.rrset.from_text(name, _LOCAL_TTL, dns.rdataclass.IN, kind, text),))
    return None


def may_recurse(client: str, networks: Iterable[Network]) -> bool:
    """Whether a client (an IP address) may have other names asked for it: it is near, or in the VPN.

    Others could make this server strike third parties with large answers (RFC 5358).
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_link_local or address.is_private:
        return True
    if address.version == 4 and address in _SHARED:
        return True
    return any(address.version == network.version and address in network for network in networks)
