"""Messages of the sealer actor: windows and keys."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from edgevpn.proto.messages.base import Message


class Window(Message, frozen=True):
    """Value of the state "windows" at "previous", "current", "next": names derived from the one-time passwords.

    `topic`, and `public_topic` beside it, hold from `topic_start` to `topic_end`, `rendezvous` from `rendezvous_start`
    to `rendezvous_end` (unix seconds). `rendezvous_key` is the multihash that the DHT is asked for.
    """

    topic: str
    topic_start: float
    topic_end: float
    rendezvous: str
    rendezvous_start: float
    rendezvous_end: float
    rendezvous_key: bytes
    public_topic: str = ""


class NetworkFacts(Message, frozen=True):
    """Value of the state "windows" at "network": what does not rotate.

    `ledger_tag`, `lease_name`: the network's names on disk (edgevpn/proto/network_tag.py).
    """

    mdns: str
    max_message_size: int
    ledger_tag: bytes = b""
    lease_name: str = ""


class Seal(Message, frozen=True):
    """Seal a compressed block, or a word for the public topic, under the key of the window that `topic` is of ("": the
    current). Answered by Sealed.

    `annotations` go beside it, readable by all.
    """

    plaintext: bytes
    topic: str = ""
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Sealed(Message, frozen=True):
    """The data of a pubsub message, as the Go program writes it, or a sealed frame."""

    data: bytes


class Open(Message, frozen=True):
    """Open the data of a pubsub message with the current, previous or next key. Answered by Opened or Failure."""

    data: bytes


class Opened(Message, frozen=True):
    """`window`: which key opened it: "current", "previous" or "next". `annotations`: those that are texts."""

    plaintext: bytes
    window: str
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class SealFrame(Message, frozen=True):
    """Seal bytes under the current key, bound to `additional` (seal.seal_raw). Answered by Sealed."""

    plaintext: bytes
    additional: bytes


class OpenFrame(Message, frozen=True):
    """Open what SealFrame gave, with the current, previous or next key. Answered by Opened or Failure."""

    data: bytes
    additional: bytes


Bodies: TypeAlias = Window | NetworkFacts | Seal | Sealed | Open | Opened | SealFrame | OpenFrame
