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
  supervisor    ActorsRequest, RestartActor, StatusRequest, Stop, Grant (its reply carries descriptors), ReadLease,
                SetAddresses
  host          Connect, Disconnect, Misbehaved, PingPeer, TrafficRequest, StreamEndRequest; pipes Dial, Take; states
                "self", "peers"; feed "inbound"
  sealer        Seal, Open, SealFrame, OpenFrame; state "windows"
  gossip        Publish, Mute; state "members"; feeds "messages", "public"
  ledger        LedgerRequest, BlockRequest, Announce, Withdraw, Leave; states "routes", "dhcp", "dns", "buckets",
                "users", "services", "files", "egress", "trust", "clock"
  trust         SetPeergate; state "trusted"
  tun           PathsRequest
  dns           NamesRequest
  api           ApiRequest
  tunnels       TunnelsRequest, Leave

The bodies stand in one module for each actor, which also names their union; a new module joins `Body` below.
`encode` and `decode_untrusted` are the only ways in and out. Validation is msgspec's, the bytes are msgpack's.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgpack  # type: ignore[import-untyped]
import msgspec

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import api, common, dns, gossip, host, ledger, sealer, supervisor, trust, tun, tunnels
from edgevpn.proto.messages.api import (
    ApiInfo as ApiInfo,
    ApiRequest as ApiRequest,
)
from edgevpn.proto.messages.base import (
    Done as Done,
    Failure as Failure,
    Message as Message,
    Scalar as Scalar,
)
from edgevpn.proto.messages.common import (
    Heartbeat as Heartbeat,
    Leave as Leave,
    OpenRepl as OpenRepl,
    QueueStatus as QueueStatus,
    Stats as Stats,
    StatsRequest as StatsRequest,
    Vitals as Vitals,
    VitalsRequest as VitalsRequest,
)
from edgevpn.proto.messages.dns import (
    DnsName as DnsName,
    NamesReply as NamesReply,
    NamesRequest as NamesRequest,
)
from edgevpn.proto.messages.gossip import (
    GossipReceived as GossipReceived,
    Member as Member,
    Mute as Mute,
    Publish as Publish,
    Published as Published,
)
from edgevpn.proto.messages.host import (
    Connect as Connect,
    Dial as Dial,
    Dialed as Dialed,
    Disconnect as Disconnect,
    HostSelf as HostSelf,
    Inbound as Inbound,
    Misbehaved as Misbehaved,
    PeerState as PeerState,
    PingPeer as PingPeer,
    Pong as Pong,
    StreamEnd as StreamEnd,
    StreamEndRequest as StreamEndRequest,
    Take as Take,
    Traffic as Traffic,
    TrafficRequest as TrafficRequest,
)
from edgevpn.proto.messages.ledger import (
    Announce as Announce,
    BlockReply as BlockReply,
    BlockRequest as BlockRequest,
    BucketMark as BucketMark,
    ClockState as ClockState,
    DhcpState as DhcpState,
    DnsPattern as DnsPattern,
    LedgerEntry as LedgerEntry,
    LedgerReply as LedgerReply,
    LedgerRequest as LedgerRequest,
    Route as Route,
    Withdraw as Withdraw,
)
from edgevpn.proto.messages.sealer import (
    NetworkFacts as NetworkFacts,
    Open as Open,
    Opened as Opened,
    OpenFrame as OpenFrame,
    Seal as Seal,
    Sealed as Sealed,
    SealFrame as SealFrame,
    Window as Window,
)
from edgevpn.proto.messages.supervisor import (
    ActorExit as ActorExit,
    Actors as Actors,
    ActorsRequest as ActorsRequest,
    ActorStatus as ActorStatus,
    Grant as Grant,
    Lease as Lease,
    NodeStatus as NodeStatus,
    ReadLease as ReadLease,
    RestartActor as RestartActor,
    SetAddresses as SetAddresses,
    StatusRequest as StatusRequest,
    Stop as Stop,
)
from edgevpn.proto.messages.trust import (
    Gate as Gate,
    SetPeergate as SetPeergate,
    Trusted as Trusted,
)
from edgevpn.proto.messages.tun import (
    Paths as Paths,
    PathsRequest as PathsRequest,
    PathState as PathState,
)
from edgevpn.proto.messages.tunnels import (
    Tunnels as Tunnels,
    TunnelsRequest as TunnelsRequest,
    TunnelState as TunnelState,
)

VERSION = 1
LENGTH = struct.Struct(">I")
MAX_FRAME = 64 * 1024 * 1024  # a whole block (20 MiB by default) as JSON, with room

Body: TypeAlias = (
    Failure
    | Done
    | common.Bodies
    | supervisor.Bodies
    | host.Bodies
    | sealer.Bodies
    | gossip.Bodies
    | ledger.Bodies
    | trust.Bodies
    | tun.Bodies
    | dns.Bodies
    | api.Bodies
    | tunnels.Bodies
)


class Hello(Message, frozen=True):
    """First frame each way: protocol version, and who speaks."""

    version: int
    actor: str


class Request(Message, frozen=True):
    body: Body


class Reply(Message, frozen=True):
    body: Body


class OpenPipe(Message, frozen=True):
    body: Body


class Subscribe(Message, frozen=True):
    topic: str
    args: list[str] = msgspec.field(default_factory=list)


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
