"""Bytes by protocol and by peer. Bounded: a fixed number of each, what does not fit counts as "other"."""

from __future__ import annotations

from dataclasses import dataclass, field

OTHER = "other"
MAX_NAMES = 1024


@dataclass
class Traffic:
    """Bytes of stream payload."""

    received: int = 0
    sent: int = 0


# All bytes of this process's connections after their handshakes: payload, and what noise and yamux put around it.
CONNECTIONS = Traffic()


@dataclass
class Bandwidth:
    """Totals since the host started."""

    total: Traffic = field(default_factory=Traffic)
    by_protocol: dict[str, Traffic] = field(default_factory=dict)
    by_peer: dict[str, Traffic] = field(default_factory=dict)
    connections: Traffic = field(default_factory=lambda: CONNECTIONS)

    def forget_peer(self, peer_id: str) -> None:
        """The peer left: its bytes stay in the totals only."""
        self.by_peer.pop(peer_id, None)

    def meter(self, peer_id: str, protocol: str) -> Meter:
        """What a stream of `peer_id` speaking `protocol` counts on."""
        return Meter((self.total, _slot(self.by_protocol, protocol), _slot(self.by_peer, peer_id)))


def _slot(table: dict[str, Traffic], name: str) -> Traffic:
    if name not in table and len(table) >= MAX_NAMES:
        name = OTHER
    return table.setdefault(name, Traffic())


class Meter:
    """Adds to several totals at once."""

    __slots__ = ("_traffics",)

    def __init__(self, traffics: tuple[Traffic, ...] = ()) -> None:
        self._traffics = traffics

    def received(self, size: int) -> None:
        for traffic in self._traffics:
            traffic.received += size

    def sent(self, size: int) -> None:
        for traffic in self._traffics:
            traffic.sent += size
