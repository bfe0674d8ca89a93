"""Where the host listens, and which addresses it announces for that."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import UsageError
from edgevpn.p2p.address_book import network_of
from edgevpn.p2p.swarm_mends import Gate
from edgevpn.p2p.tcp import multiaddr_text


def default_listen() -> list[str]:
    """Any free port on all addresses, of both IP versions where the machine has both."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return ["/ip4/0.0.0.0/tcp/0"]
    return ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]


def expand_wildcards(bound: Sequence[str], interface_ips: Iterable[str], gate: Gate) -> list[str]:
    """The addresses to announce for the bound ones, see `Host.listen_addrs`."""
    expanded: dict[str, None] = {}
    ips = [ipaddress.ip_address(ip) for ip in interface_ips]
    for text in bound:
        parts = text.split("/")
        if len(parts) == 5 and parts[3] == "tcp":
            own = ipaddress.ip_address(parts[2])
            for ip in [i for i in ips if i.version == own.version] if own.is_unspecified else [own]:
                if not (ip.version == 6 and ip.is_link_local) and network_of(ip, gate.denied_networks) is None:
                    expanded[multiaddr_text(str(ip), int(parts[4]))] = None
    public = [text for text in expanded if not is_loopback(text.split("/")[2])]
    return public or list(expanded)


def interface_ips() -> list[str]:
    """The addresses of all interfaces, loopback too."""
    return [
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]


def is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def parse_listen(text: str) -> Multiaddr:
    try:
        return Multiaddr(text)
    except ValueError as exc:
        raise UsageError(f"cannot listen on {text}: not a multiaddr such as /ip4/0.0.0.0/tcp/4001") from exc
