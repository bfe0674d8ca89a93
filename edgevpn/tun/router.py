"""Which peer a packet goes to, and which sources a peer may use. Pure: tables of packed addresses.

A peer speaks for the addresses that the routes give it and for nothing else. The longest prefix wins; today's routes
are single machines (/32, /128), announced networks fit in the same table. With a gateway (`--router`), packets to
unknown destinations go to the machine of that address, which may then send from any address that is nobody's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping


class Router:
    """An immutable routing table; a change of routes makes a new one."""

    def __init__(self, routes: Mapping[str, str], own: Iterable[str] = (), gateway: str = "") -> None:
        """`routes`: address or CIDR to peer ID. `own`: our interface's CIDRs. `gateway`: a VPN address, or ""."""
        self.machines: dict[bytes, str] = {}  # packed address -> peer; to look in first
        by_length: dict[tuple[int, int], dict[int, str]] = {}
        for text, peer in routes.items():
            network = ipaddress.ip_network(text, strict=False)
            if network.prefixlen == network.max_prefixlen:
                self.machines[network.network_address.packed] = peer
            else:
                width = network.max_prefixlen
                key = int(network.network_address) >> (width - network.prefixlen)
                by_length.setdefault((width, network.prefixlen), {})[key] = peer
        self._networks = sorted(by_length.items(), key=lambda item: -item[0][1])
        interfaces = [ipaddress.ip_interface(text) for text in own]
        self.own = frozenset(interface.ip.packed for interface in interfaces)
        self._never = frozenset(
            interface.network.broadcast_address.packed for interface in interfaces if interface.version == 4
        )
        self._gateway = routes.get(gateway) if gateway else None

    def is_machine(self, destination: bytes) -> bool:
        """Whether this packed address is a machine's own: no network's, and nothing that the gateway gets."""
        return destination in self.machines

    def lookup(self, destination: bytes) -> str | None:
        """The peer for a packed destination address, or None."""
        peer = self.machines.get(destination)
        if peer is not None or destination in self._never or _is_multicast(destination):
            return peer
        return self._by_prefix(destination) or self._gateway

    def allows(self, peer: str, source: bytes) -> bool:
        """Whether `peer` may send packets from this packed source address."""
        owner = self.machines.get(source)
        if owner is not None:
            return owner == peer
        if source in self.own:
            return False
        owner = self._by_prefix(source)
        return owner == peer if owner is not None else self._gateway == peer

    def knows(self, peer: str) -> bool:
        """Whether any route leads to `peer`."""
        return peer in self.machines.values() or any(peer in table.values() for _, table in self._networks)

    def _by_prefix(self, address: bytes) -> str | None:
        width = len(address) * 8
        number = int.from_bytes(address, "big")
        for (table_width, length), table in self._networks:
            if table_width == width:
                peer = table.get(number >> (width - length))
                if peer is not None:
                    return peer
        return None


def _is_multicast(address: bytes) -> bool:
    return address[0] == 0xFF if len(address) == 16 else 224 <= address[0] <= 239 or address == b"\xff\xff\xff\xff"
