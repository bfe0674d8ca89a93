"""What the API shows and changes, as the application sees it: one interface, kept by the api actor.

The states of other actors are held as last told (law 3: each subscription starts with a snapshot); what is asked for
seldom is asked when it is needed. Methods that ask raise EdgevpnError: NodeUnreachableError when an actor is away,
others (with a `kind`) when it refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from edgevpn.proto.messages import (
    ActorStatus,
    LedgerEntry,
    NodeStatus,
    PathState,
    PeerState,
    QueueStatus,
    Route,
    Traffic,
)
from edgevpn.web.hub import Hub


class Facts(NamedTuple):
    """What does not change. `longest_silence`: seconds after which a node without a heartbeat is offline."""

    peer_id: str
    version: str
    hostname: str
    ownership: str
    longest_silence: float


class Rates(NamedTuple):
    """Bytes a second, of late: received, sent."""

    received: float
    sent: float


NO_RATES = Rates(0.0, 0.0)


class Metered(NamedTuple):
    """Bytes that libp2p streams carried, and packets as datagrams (named DATAGRAMS) beside them, with rates."""

    traffic: Traffic
    total: Rates
    by_protocol: Mapping[str, Rates]
    by_peer: Mapping[str, Rates]


DATAGRAMS = "/edgevpn-py/datagram/1/udp"


class Source(Protocol):
    """A running node."""

    facts: Facts
    hub: Hub

    @property
    def peers(self) -> Mapping[str, PeerState]: ...
    @property
    def members(self) -> Sequence[str]: ...
    @property
    def routes(self) -> Mapping[str, Route]: ...
    async def entries(self, bucket: str = "") -> Sequence[LedgerEntry]: ...
    async def block(self) -> bytes: ...
    async def announce(self, bucket: str, key: str, value: str) -> None: ...
    async def withdraw(self, bucket: str, key: str) -> bool:
        """False: there was nothing to delete."""
        ...

    async def peergate(self) -> bool | None:
        """Whether gossip of unknown peers is refused now; None where there is no peer guard."""
        ...

    async def set_peergate(self, on: bool) -> None: ...
    async def status(self) -> NodeStatus: ...
    async def actors(self) -> Sequence[ActorStatus]: ...
    async def queues(self) -> Mapping[str, Sequence[QueueStatus]]: ...
    async def paths(self) -> Sequence[PathState]: ...
    async def metered(self) -> Metered: ...
    async def freshen(self) -> None:
        """Bring the hub's sections up to date, which else happens every few seconds while nobody watches."""
        ...
