"""Messages of the tun actor: how packets reach peers."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from edgevpn.proto.messages.base import Message


class PathsRequest(Message, frozen=True):
    """Answered by Paths."""


class PathState(Message, frozen=True):
    """How packets reach a peer: `kind` "datagram", "stream", "edgevpn-stream" or "none".

    `address`: where datagrams go; `rtt_s`: their round trip; `why`: why it is this kind. `repair`: what became of
    lost datagrams, empty where there is no repair. Counters since the tun actor began.
    """

    peer_id: str
    kind: str
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    dropped: int
    address: str = ""
    rtt_s: float = 0.0
    why: str = ""
    repair: dict[str, int] = msgspec.field(default_factory=dict)


class Paths(Message, frozen=True):
    """`beside`: bytes of datagrams that are no packets, probes and repair, as [received, sent]."""

    paths: list[PathState]
    beside: list[int] = msgspec.field(default_factory=lambda: [0, 0])


Bodies: TypeAlias = PathsRequest | Paths
