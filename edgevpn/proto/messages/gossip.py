"""Messages of the gossip actor: pubsub on the topics of the network."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class Publish(Message, frozen=True):
    """Flood data on the current topic. Answered by Published."""

    data: bytes


class Published(Message, frozen=True):
    peers: int


class Member(Message, frozen=True):
    """Value of the state "members", by peer ID: a connected peer that is on a topic of ours."""

    topics: list[str]


class GossipReceived(Message, frozen=True):
    """Event of the feed "messages": data of a pubsub message and the peer that it came from (not its author)."""

    from_peer: str
    data: bytes


Bodies: TypeAlias = Publish | Published | Member | GossipReceived
