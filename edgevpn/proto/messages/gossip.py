"""Messages of the gossip actor: pubsub on the topics of the network."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class Publish(Message, frozen=True):
    """Flood data on a topic that is joined ("": the current window's), or on the public one beside it.

    Answered by Published.
    """

    data: bytes
    topic: str = ""
    public: bool = False


class Published(Message, frozen=True):
    peers: int


class Mute(Message, frozen=True):
    """Neither hear nor pass on what this author publishes, for so many seconds (at most 60). Answered by Done."""

    author: str
    seconds: float


class Member(Message, frozen=True):
    """Value of the state "members", by peer ID: a connected peer that is on a topic of ours."""

    topics: list[str]


class GossipReceived(Message, frozen=True):
    """Event of the feeds "messages" and "public": data of a pubsub message, the peer that it came from, its author."""

    from_peer: str
    data: bytes
    author: str = ""


Bodies: TypeAlias = Publish | Published | Mute | Member | GossipReceived
