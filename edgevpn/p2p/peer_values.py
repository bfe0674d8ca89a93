"""What the host tells of its peers and connections. Values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ConnectionInfo:
    """One connection. `remote`: multiaddr; `opened_at`: Unix time; `rtt`: seconds, None before it was measured."""

    remote: str
    direction: Literal["inbound", "outbound"]
    opened_at: float
    rtt: float | None
    relayed: bool


@dataclass(frozen=True)
class PeerInfo:
    """A connected peer. `protocols`, `agent` and `listen_addrs` are empty until it was identified."""

    peer_id: str
    connections: tuple[ConnectionInfo, ...]
    protocols: frozenset[str]
    agent: str
    listen_addrs: tuple[str, ...]
    since: float


@dataclass(frozen=True)
class Sight:
    """How a peer sees us on a direct connection: `observed`, a multiaddr. `punched`: a hole was made for it.

    On an inbound one it is where the peer dialled us.
    """

    peer_id: str
    outbound: bool
    observed: str
    punched: bool


@dataclass(frozen=True)
class PeerEvent:
    """`connected`: a peer's first connection; `disconnected`: its last one ended; `identified`: it said who it is;
    `changed`: it has another connection more, or one less."""

    kind: Literal["connected", "disconnected", "identified", "changed"]
    peer_id: str
