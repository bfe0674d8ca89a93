"""Messages of the host actor: connections and streams."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from edgevpn.proto.messages.base import Message


class HostSelf(Message, frozen=True):
    """Value of the state "self" at key "host": our peer ID and where others can dial us, through relays last.

    `observed`: IP addresses that peers on the other side of a NAT see us under.
    """

    peer_id: str
    listen: list[str]
    observed: list[str] = msgspec.field(default_factory=list)


class PeerState(Message, frozen=True):
    """Value of the state "peers", by peer ID: a connected peer.

    `remotes`: the other ends of its connections; `listen`: where it says it listens. `listen`, `protocols` and `agent`
    are empty until it is identified.
    """

    remotes: list[str]
    listen: list[str]
    protocols: list[str]
    agent: str
    direction: str
    since: float
    rtt_s: float


class Connect(Message, frozen=True):
    """Remember the addresses (multiaddrs without /p2p) of a peer and connect to it. Answered by Done."""

    peer_id: str
    addrs: list[str]
    source: str


class Disconnect(Message, frozen=True):
    peer_id: str


class Misbehaved(Message, frozen=True):
    """A peer did what no honest program does; `offence` is one of p2p/conduct.py. Answered by Done."""

    peer_id: str
    offence: str


class PingPeer(Message, frozen=True):
    """/ipfs/ping/1.0.0 round trip. Answered by Pong."""

    peer_id: str
    timeout_s: float


class Pong(Message, frozen=True):
    rtt_s: float


class Dial(Message, frozen=True):
    """Pipe: a new libp2p stream to a connected (or dialable) peer, by the first of `protocols` that it speaks."""

    peer_id: str
    protocols: list[str]


class Dialed(Message, frozen=True):
    """`number`: what StreamEndRequest calls the stream."""

    protocol: str
    number: int = 0


class Inbound(Message, frozen=True):
    """Event of the feed "inbound" (args: protocols served): a stream waits to be taken by its number."""

    number: int
    peer_id: str
    protocol: str


class Take(Message, frozen=True):
    """Pipe: the inbound stream of that number. Answered by Done."""

    number: int


class TrafficRequest(Message, frozen=True):
    """Answered by Traffic."""


class Traffic(Message, frozen=True):
    """Bytes of stream payload since the host began `seconds` ago, as [received, sent]: in all, by protocol, by
    connected peer; and bytes of the connections, with what noise and yamux add (`wire`).
    """

    total: list[int]
    by_protocol: dict[str, list[int]]
    by_peer: dict[str, list[int]]
    wire: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    seconds: float = 0.0


class StreamEndRequest(Message, frozen=True):
    """How what the peer sent on a stream ended, asked when its pipe is at its end. Answered by StreamEnd.

    `number`: that of Dialed or Take. A pipe can't tell by itself: a Unix socket that was closed reads as one that was
    ended in order.
    """

    number: int


class StreamEnd(Message, frozen=True):
    """`clean`: the peer ended its direction; False: the stream broke, or nothing is known of it (any more)."""

    clean: bool


Bodies: TypeAlias = (
    HostSelf
    | PeerState
    | Connect
    | Disconnect
    | Misbehaved
    | PingPeer
    | Pong
    | Dial
    | Dialed
    | Inbound
    | Take
    | TrafficRequest
    | Traffic
    | StreamEndRequest
    | StreamEnd
)
