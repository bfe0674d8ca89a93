"""Which addresses an egress node connects to for others: the public Internet, and what its owner allowed.

Refused unless `--egress-allow` names them: private, loopback, link-local, shared (RFC 6598), multicast, unspecified and
reserved addresses (the IANA special-purpose registries, RFC 6890, as `ipaddress` has them), the VPN's own networks, and
the metadata services of clouds, some of which have public addresses. An IPv6 address that carries an IPv4 one (mapped,
NAT64, 6to4, Teredo) is judged by both. The judgement is about the address that is connected to, never about a name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        # most clouds; AWS over IPv6; Azure's wire server; Alibaba; Oracle
        ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: what it carries, and where, is the network's affair


def why_not_reachable(address: str, own: Sequence[str] = (), allowed: Sequence[str] = ()) -> str:
    """Why an egress node does not connect to `address`; "" if it does.

    `own`: CIDRs of the VPN (host bits may be set); `allowed`: CIDRs that are always good. Raises ValueError for what is
    no address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if _within(ip, allowed):
        return ""
    for one in (ip, *_carried(ip)):
        if one is not ip and _within(one, allowed):
            continue
        reason = _reason(one, own)
        if reason:
            return reason
    return ""


def _reason(ip: Address, own: Iterable[str]) -> str:
    if _within(ip, own):
        return "an address of the VPN"
    if ip in _METADATA:
        return "a cloud's metadata service"
    if ip.is_loopback:
        return "a loopback address"
    if ip.is_link_local:
        return "a link-local address"
    if ip.is_multicast:
        return "a multicast address"
    if ip.is_unspecified:
        return "no address at all"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return ""  # what it carries decides
        if ip.is_site_local or ip in _LOCAL_NAT64:
            return "a private or reserved address"
    return "" if ip.is_global and not ip.is_reserved else "a private or reserved address"


def _carried(ip: Address) -> list[Address]:
    """IPv4 addresses inside an IPv6 one."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return []
    found: list[Address] = [one for one in (ip.ipv4_mapped, ip.sixtofour) if one is not None]
    if ip.teredo is not None:
        found += ip.teredo
    if ip in _NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def _within(ip: Address, networks: Iterable[str]) -> bool:
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        if network.version == ip.version and ip in network:
            return True
    return False
