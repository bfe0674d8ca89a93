"""Every message between actors: a frozen typed class each, msgpack on the wire.

An actor serves one Unix stream socket. What travels on it is a sequence of frames,

    0      4                          4 + length
    +------+--------------------------+
    | length, u32 big-endian | msgpack |
    +------+--------------------------+

whose msgpack is a map with a "type" (the class name) and the class's fields. A connection begins with a `Hello` each
way (same VERSION, else it ends), then the client says what it is, once:

  `Request(body)`          answered by one `Reply(body)` or `Failure`; the connection ends.
  `Subscribe(topic, args)` a state: one `Snapshot`, then `Change`s for ever. Changes coalesce: a slow reader gets the
                           newest value of each key, never a queue. A feed: `Event`s; a slow reader loses the oldest.
  `OpenPipe(body)`         answered by `Reply` or `Failure`; after a `Reply` the socket carries plain bytes both ways.

Who answers what:

  every actor   Heartbeat, StatsRequest, VitalsRequest (the supervisor too); pipes OpenRepl, Heartbeat
  supervisor    ActorsRequest, RestartActor, StatusRequest, Stop, Grant (its reply carries descriptors)
  host          Connect, Disconnect, PingPeer; pipes Dial, Take; states "self", "peers"; feed "inbound"
  sealer        Seal, Open; state "windows"
  gossip        Publish; state "members"; feed "messages"
  ledger        LedgerRequest, Announce, Withdraw; state "routes"
  tun           PathsRequest

`encode` and `decode_untrusted` are the only ways in and out. Validation is msgspec's, the bytes are msgpack's.
"""

from __future__ import annotations

import struct
from typing import ClassVar, TypeAlias

import msgpack  # type: ignore[import-untyped]
import msgspec

from edgevpn.errors import UntrustedDataError

VERSION = 1
LENGTH = struct.Struct(">I")
MAX_FRAME = 64 * 1024 * 1024  # a whole block (20 MiB by default) as JSON, with room

Scalar: TypeAlias = bool | int | float | str | None


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


# --- the connection itself ----------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First frame each way: protocol version, and who speaks."""

    version: int
    actor: str


class Failure(Message, frozen=True):
    """A request was refused or failed: `kind` for programs, `text` (one line) for people."""

    kind: str
    text: str


class Done(Message, frozen=True):
    """The request was carried out; there is nothing to say."""


# --- every actor --------------------------------------------------------------------------------------------------


class Heartbeat(Message, frozen=True):
    """Answered by Done while the actor's loop runs. Pipe: each byte comes back."""


class StatsRequest(Message, frozen=True):
    """Answered by Stats."""


class Stats(Message, frozen=True):
    """Counters and gauges of an actor, by name."""

    values: dict[str, Scalar]


class VitalsRequest(Message, frozen=True):
    """Answered by Vitals."""


class QueueStatus(Message, frozen=True):
    """`depth` of at most `limit` wait now, `dropped` were lost since the actor began; `unit`: "" (items) or "bytes"."""

    name: str
    depth: int
    limit: int
    dropped: int
    unit: str


class Vitals(Message, frozen=True):
    """What passes through an actor's mailbox, since it began: connections served (requests, subscriptions, pipes),
    updates sent to subscribers, pipes open now, messages (served or sent) a second of late; and its queues."""

    requests: int
    updates: int
    pipes: int
    messages_per_s: float
    queues: list[QueueStatus]


class OpenRepl(Message, frozen=True):
    """Pipe: a Python prompt inside the actor (same user or root only), with the frames of prompt_frames.py."""


# --- supervisor ---------------------------------------------------------------------------------------------------


class ActorsRequest(Message, frozen=True):
    """Answered by Actors."""


class ActorStatus(Message, frozen=True):
    """One supervised process. Times in seconds, sizes in bytes; pid 0 when it is not running.

    `pss_bytes`: its memory, of what it shares with others its part (proc_pid_smaps(5)); 0 where that can't be read.
    """

    name: str
    pid: int
    state: str
    restarts: int
    uptime_s: float
    rss_bytes: int
    last_exit: str
    pss_bytes: int = 0


class Actors(Message, frozen=True):
    actors: list[ActorStatus]


class RestartActor(Message, frozen=True):
    """Stop the actor and start it again. Answered by Done once the new one is ready."""

    name: str


class StatusRequest(Message, frozen=True):
    """Answered by NodeStatus."""


class NodeStatus(Message, frozen=True):
    """The node at a glance. `peers`: members of this network that are connected now."""

    peer_id: str
    state: str
    interface: str
    address: list[str]
    listen: list[str]
    peers: list[str]
    uptime_s: float
    version: str
    waiting_for: str


class Stop(Message, frozen=True):
    """Take the node down. Answered by Done before it goes."""


class Grant(Message, frozen=True):
    """An actor asks for its descriptors ("token", "identity", "tun") with the ticket of its own start."""

    __secrets__: ClassVar = ("ticket",)

    ticket: str
    what: str

    def __repr__(self) -> str:
        return f"Grant(ticket=<secret>, what={self.what!r})"


# --- host ---------------------------------------------------------------------------------------------------------


class HostSelf(Message, frozen=True):
    """Value of the state "self" at key "host": our peer ID and the addresses others can dial."""

    peer_id: str
    listen: list[str]


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
    protocol: str


class Inbound(Message, frozen=True):
    """Event of the feed "inbound" (args: protocols served): a stream waits to be taken by its number."""

    number: int
    peer_id: str
    protocol: str


class Take(Message, frozen=True):
    """Pipe: the inbound stream of that number. Answered by Done."""

    number: int


# --- sealer -------------------------------------------------------------------------------------------------------


class Window(Message, frozen=True):
    """Value of the state "windows" at "previous", "current", "next": names derived from the one-time passwords.

    `topic` holds from `topic_start` to `topic_end`, `rendezvous` from `rendezvous_start` to `rendezvous_end`
    (unix seconds). `rendezvous_key` is the multihash that the DHT is asked for.
    """

    topic: str
    topic_start: float
    topic_end: float
    rendezvous: str
    rendezvous_start: float
    rendezvous_end: float
    rendezvous_key: bytes


class NetworkFacts(Message, frozen=True):
    """Value of the state "windows" at "network": what does not rotate."""

    mdns: str
    max_message_size: int


class Seal(Message, frozen=True):
    """Seal a compressed block under the current key. Answered by Sealed."""

    plaintext: bytes


class Sealed(Message, frozen=True):
    """The data of a pubsub message, as the Go program writes it."""

    data: bytes


class Open(Message, frozen=True):
    """Open the data of a pubsub message with the current, previous or next key. Answered by Opened or Failure."""

    data: bytes


class Opened(Message, frozen=True):
    """`window`: which key opened it: "current", "previous" or "next"."""

    plaintext: bytes
    window: str


# --- gossip -------------------------------------------------------------------------------------------------------


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


# --- ledger -------------------------------------------------------------------------------------------------------


class LedgerRequest(Message, frozen=True):
    """Entries of one bucket, or of all ("")."""

    bucket: str = ""


class LedgerEntry(Message, frozen=True):
    bucket: str
    key: str
    value: str
    owner: str
    version: int
    updated_at: int
    deleted: bool


class LedgerReply(Message, frozen=True):
    entries: list[LedgerEntry]


class Announce(Message, frozen=True):
    """Write and sign an entry; it is gossiped at once and kept alive. Answered by Done."""

    bucket: str
    key: str
    value: str


class Withdraw(Message, frozen=True):
    """Delete an entry by a tombstone. Answered by Done."""

    bucket: str
    key: str


class Route(Message, frozen=True):
    """Value of the state "routes", by VPN address: the peer that may use that address."""

    peer_id: str
    hostname: str


# --- tun ----------------------------------------------------------------------------------------------------------


class PathsRequest(Message, frozen=True):
    """Answered by Paths."""


class PathState(Message, frozen=True):
    """How packets reach a peer: `kind` "datagram", "stream", "edgevpn-stream" or "none".

    `address`: where datagrams go; `rtt_s`: their round trip; `why`: why it is this kind. Counters since the tun actor
    began.
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


class Paths(Message, frozen=True):
    paths: list[PathState]


Body: TypeAlias = (
    Failure
    | Done
    | Heartbeat
    | StatsRequest
    | Stats
    | VitalsRequest
    | Vitals
    | OpenRepl
    | ActorsRequest
    | Actors
    | RestartActor
    | StatusRequest
    | NodeStatus
    | Stop
    | Grant
    | HostSelf
    | PeerState
    | Connect
    | Disconnect
    | PingPeer
    | Pong
    | Dial
    | Dialed
    | Inbound
    | Take
    | Window
    | NetworkFacts
    | Seal
    | Sealed
    | Open
    | Opened
    | Publish
    | Published
    | Member
    | GossipReceived
    | LedgerRequest
    | LedgerReply
    | Announce
    | Withdraw
    | Route
    | PathsRequest
    | Paths
)


class Request(Message, frozen=True):
    body: Body


class Reply(Message, frozen=True):
    body: Body


class OpenPipe(Message, frozen=True):
    body: Body


class Subscribe(Message, frozen=True):
    topic: str
    args: list[str] = []


class Snapshot(Message, frozen=True):
    """The whole state, by key."""

    items: dict[str, Body]


class Change(Message, frozen=True):
    """What changed since the last Snapshot or Change: new values, and keys that are gone."""

    put: dict[str, Body]
    gone: list[str]


class Event(Message, frozen=True):
    """One item of a feed; `dropped` counts those that this subscriber lost before it."""

    body: Body
    dropped: int = 0


Frame: TypeAlias = Hello | Request | Reply | Failure | OpenPipe | Subscribe | Snapshot | Change | Event


def encode(frame: Frame) -> bytes:
    """The frame with its length before it. Raises ValueError when it is over MAX_FRAME."""
    payload: bytes = msgpack.packb(msgspec.to_builtins(frame, builtin_types=(bytes,)), use_bin_type=True)
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a {type(frame).__name__} of {len(payload)} bytes is over the limit of {MAX_FRAME}")
    return LENGTH.pack(len(payload)) + payload


def length_untrusted(header: bytes) -> int:
    """The payload's length from its 4 bytes. Raises UntrustedDataError when over MAX_FRAME."""
    length: int = LENGTH.unpack(header)[0]
    if length > MAX_FRAME:
        raise UntrustedDataError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
    return length


def decode_untrusted(payload: bytes) -> Frame:
    """A frame from its msgpack. Raises UntrustedDataError for anything that is not exactly one valid frame."""
    try:
        value = msgpack.unpackb(payload, raw=False, strict_map_key=True)
        return msgspec.convert(value, Frame, builtin_types=(bytes,))  # type: ignore[no-any-return]
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException, msgspec.ValidationError) as exc:
        raise UntrustedDataError(f"not a message between actors: {exc}") from exc
