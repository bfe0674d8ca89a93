"""Messages of circuit relay v2 and of hole punching (libp2p's specs, relay/circuit-v2.md and relay/DCUtR.md).

Pure, over libp2p's protobuf messages. Each goes over the wire with its length in front (varint). What comes has
MAX_MESSAGE bytes at most. Addresses are binary multiaddrs, judged by who uses them. A relay's limits and vouchers are
not read: nothing here depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from libp2p.utils.varint import encode_varint_prefixed

from edgevpn.errors import UntrustedDataError

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
DCUTR: Final = "/libp2p/dcutr"

MAX_MESSAGE: Final = 4096
MAX_ADDRS: Final = 16  # of one message; the rest is ignored
MAX_ADDR: Final = 512
MAX_PEER_ID: Final = 64

_Kind = TypeVar("_Kind", bound=IntEnum)


class HopKind(IntEnum):
    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopKind(IntEnum):
    CONNECT = 0
    STATUS = 1


class PunchKind(IntEnum):
    CONNECT = 100
    SYNC = 300


class Status(IntEnum):
    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True)
class Reservation:
    """`expire`: unix time, s; `addrs`: where the relay is reached, with its peer ID."""

    expire: int
    addrs: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Hop:
    """`peer`: with CONNECT the one to connect with. `status`: the number as it came, which may be none of ours."""

    kind: HopKind
    peer: bytes = b""
    reservation: Reservation | None = None
    status: int = 0


@dataclass(frozen=True)
class Stop:
    """`peer`: with CONNECT the one that connects."""

    kind: StopKind
    peer: bytes = b""
    status: int = 0


@dataclass(frozen=True)
class Punch:
    """`addrs`: where the sender may be seen from outside."""

    kind: PunchKind
    addrs: tuple[bytes, ...] = ()


def status_text(status: int) -> str:
    """The few words a user reads."""
    try:
        return Status(status).name.lower().replace("_", " ")
    except ValueError:
        return f"status {status}"


def write_hop(hop: Hop) -> bytes:
    """The message with its length."""
    message = HopMessage(type=int(hop.kind), status=hop.status or None)  # type: ignore[arg-type]
    if hop.peer:
        message.peer.id = hop.peer
    if hop.reservation is not None:
        message.reservation.expire = hop.reservation.expire
        message.reservation.addrs.extend(hop.reservation.addrs[:MAX_ADDRS])
    return encode_varint_prefixed(message.SerializeToString())


def write_stop(stop: Stop) -> bytes:
    """The message with its length."""
    message = StopMessage(type=int(stop.kind), status=stop.status or None)  # type: ignore[arg-type]
    if stop.peer:
        message.peer.id = stop.peer
    return encode_varint_prefixed(message.SerializeToString())


def write_punch(punch: Punch) -> bytes:
    """The message with its length."""
    message = HolePunch(type=int(punch.kind), ObsAddrs=punch.addrs[:MAX_ADDRS])  # type: ignore[arg-type]
    return encode_varint_prefixed(message.SerializeToString())


def read_hop_untrusted(body: bytes) -> Hop:
    """A message without its length. Raises UntrustedDataError."""
    message = _parsed_untrusted(HopMessage(), body)
    reservation = None
    if message.HasField("reservation"):
        reservation = Reservation(message.reservation.expire, _few(message.reservation.addrs))
    return Hop(_kind_untrusted(HopKind, message), _peer_untrusted(message), reservation, message.status)


def read_stop_untrusted(body: bytes) -> Stop:
    """A message without its length. Raises UntrustedDataError."""
    message = _parsed_untrusted(StopMessage(), body)
    return Stop(_kind_untrusted(StopKind, message), _peer_untrusted(message), message.status)


def read_punch_untrusted(body: bytes) -> Punch:
    """A message without its length. Raises UntrustedDataError."""
    message = _parsed_untrusted(HolePunch(), body)
    return Punch(_kind_untrusted(PunchKind, message), _few(message.ObsAddrs))


def _parsed_untrusted(message: Any, body: bytes) -> Any:
    if len(body) > MAX_MESSAGE:
        raise UntrustedDataError("relay: a message that is too long")
    try:
        message.ParseFromString(body)
    except (DecodeError, ValueError):
        raise UntrustedDataError("relay: not a message") from None
    return message


def _kind_untrusted(kinds: type[_Kind], message: Any) -> _Kind:
    try:
        return kinds(message.type)
    except ValueError:
        raise UntrustedDataError("relay: a message of an unknown type") from None


def _peer_untrusted(message: Any) -> bytes:
    if not message.HasField("peer"):
        return b""
    peer: bytes = message.peer.id
    if not 0 < len(peer) <= MAX_PEER_ID:
        raise UntrustedDataError("relay: not a peer ID")
    return peer


def _few(addrs: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(addr for addr in addrs if 0 < len(addr) <= MAX_ADDR)[:MAX_ADDRS]
