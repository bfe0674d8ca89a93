"""Names in addresses to dial: `/dns`, `/dns4`, `/dns6` by the system's resolver, `/dnsaddr` by its TXT records."""

from __future__ import annotations

import socket

import trio

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.address_book import DialAddr, parse_addr_untrusted

MAX_RESOLVED = 8
TIMEOUT = 5.0
_FAMILY = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


async def resolve(addr: DialAddr, peer_id: str) -> list[tuple[str, int]]:
    """(ip, port) pairs of an address that does not go through a relay; none if its name is unknown."""
    parts = addr.text.split("/")
    if addr.ip is not None:
        return [(str(addr.ip), int(parts[4]))]
    with trio.move_on_after(TIMEOUT):
        if parts[1] == "dnsaddr":
            return await _resolve_dnsaddr(addr.text, peer_id)
        return await _resolve_host(parts[2], int(parts[4]), _FAMILY[parts[1]])
    return []


async def _resolve_host(name: str, port: int, family: int) -> list[tuple[str, int]]:
    try:
        found = await trio.socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [(str(address[0]), port) for *_, address in found][:MAX_RESOLVED]


async def _resolve_dnsaddr(text: str, peer_id: str) -> list[tuple[str, int]]:
    from multiaddr import Multiaddr  # type: ignore[import-untyped]
    from multiaddr.exceptions import Error  # type: ignore[import-untyped]
    from multiaddr.resolvers import DNSResolver  # type: ignore[import-untyped]

    try:
        found = await DNSResolver().resolve(Multiaddr(f"{text}/p2p/{peer_id}"))
    except Error:
        return []
    pairs: list[tuple[str, int]] = []
    for one in found:
        try:
            addr = parse_addr_untrusted(str(one), peer_id)
        except UntrustedDataError:
            continue
        parts = addr.text.split("/")
        if addr.relay is None and addr.ip is not None:
            pairs.append((str(addr.ip), int(parts[4])))
        elif addr.relay is None and parts[1] in _FAMILY:
            pairs += await _resolve_host(parts[2], int(parts[4]), _FAMILY[parts[1]])
    return pairs[:MAX_RESOLVED]
