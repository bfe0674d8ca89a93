"""Messages of circuit relay v2 and of hole punching: pure.

libp2p's specifications relay/circuit-v2.md and relay/DCUtR.md. Protobuf (proto3), each message after its length:

    HopMessage    1 type: 0 RESERVE, 1 CONNECT, 2 STATUS   2 peer   3 reservation   4 limit   5 status
    StopMessage   1 type: 0 CONNECT, 1 STATUS              2 peer   3 limit         4 status
    Peer          1 id (bytes)   2 addrs, ignored          Limit    1 duration, s   2 data, bytes
    Reservation   1 expire (unix time, s)   2 addrs (bytes, repeated)   3 voucher, ignored
    HolePunch     1 type: 100 CONNECT, 300 SYNC   2 addrs (bytes, repeated)

A message has MAX_MESSAGE bytes and MAX_FIELDS fields at most; fields that are not known are skipped. Addresses are
binary multiaddrs, judged by who uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edgevpn.errors import UntrustedDataError

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
DCUTR: Final = "/libp2p/dcutr"

MAX_MESSAGE: Final = 4096
MAX_FIELDS: Final = 64
MAX_ADDRS: Final = 16  # of one message; the rest is ignored
MAX_ADDR: Final = 512
MAX_PEER_ID: Final = 64
_U64: Final = 2**64 - 1


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
class Limit:
    """Of a relayed connection; 0: none. `duration` in seconds, `data` in bytes each way."""

    duration: int
    data: int


@dataclass(frozen=True)
class Hop:
    """`peer`: with CONNECT the one to connect with. `status`: the number as it came, which may be none of ours."""

    kind: HopKind
    peer: bytes = b""
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: int = 0


@dataclass(frozen=True)
class Stop:
    """`peer`: with CONNECT the one that connects."""

    kind: StopKind
    peer: bytes = b""
    limit: Limit | None = None
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


def relay_of(remotes: Sequence[str]) -> str:
    """The relay that all of a peer's connections (multiaddrs of their other ends) go through; "" if one does not."""
    relays = [text.removesuffix("/p2p-circuit").rpartition("/p2p/")[2] for text in remotes if "/p2p-circuit" in text]
    return relays[-1] if relays and len(relays) == len(remotes) else ""


# --- writing


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def with_length(body: bytes) -> bytes:
    return varint(len(body)) + body


def _number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + with_length(value)


def _peer(field: int, peer: bytes) -> bytes:
    return _bytes(field, _bytes(1, peer)) if peer else b""


def _limit(field: int, limit: Limit | None) -> bytes:
    return _bytes(field, _number(1, limit.duration) + _number(2, limit.data)) if limit is not None else b""


def write_hop(hop: Hop) -> bytes:
    """The message with its length."""
    body = _number(1, hop.kind) + _peer(2, hop.peer)
    if hop.reservation is not None:
        addrs = b"".join(_bytes(2, addr) for addr in hop.reservation.addrs[:MAX_ADDRS])
        body += _bytes(3, _number(1, hop.reservation.expire) + addrs)
    body += _limit(4, hop.limit)
    return with_length(body + (_number(5, hop.status) if hop.status else b""))


def write_stop(stop: Stop) -> bytes:
    """The message with its length."""
    body = _number(1, stop.kind) + _peer(2, stop.peer) + _limit(3, stop.limit)
    return with_length(body + (_number(4, stop.status) if stop.status else b""))


def write_punch(punch: Punch) -> bytes:
    """The message with its length."""
    return with_length(_number(1, punch.kind) + b"".join(_bytes(2, addr) for addr in punch.addrs[:MAX_ADDRS]))


# --- reading


def read_hop_untrusted(body: bytes) -> Hop:
    """A message without its length. Raises UntrustedDataError."""
    kind, peer, reservation, limit, status = 0, b"", None, None, 0
    for field, value in _fields_untrusted(body):
        match field:
            case 1:
                kind = _int(value)
            case 2:
                peer = _read_peer_untrusted(_raw(value))
            case 3:
                reservation = _read_reservation_untrusted(_raw(value))
            case 4:
                limit = _read_limit_untrusted(_raw(value))
            case 5:
                status = _int(value)
    try:
        return Hop(HopKind(kind), peer, reservation, limit, status)
    except ValueError:
        raise UntrustedDataError("relay: a message of an unknown type") from None


def read_stop_untrusted(body: bytes) -> Stop:
    """A message without its length. Raises UntrustedDataError."""
    kind, peer, limit, status = 0, b"", None, 0
    for field, value in _fields_untrusted(body):
        match field:
            case 1:
                kind = _int(value)
            case 2:
                peer = _read_peer_untrusted(_raw(value))
            case 3:
                limit = _read_limit_untrusted(_raw(value))
            case 4:
                status = _int(value)
    try:
        return Stop(StopKind(kind), peer, limit, status)
    except ValueError:
        raise UntrustedDataError("relay: a message of an unknown type") from None


def read_punch_untrusted(body: bytes) -> Punch:
    """A message without its length. Raises UntrustedDataError."""
    kind, addrs = 0, list[bytes]()
    for field, value in _fields_untrusted(body):
        if field == 1:
            kind = _int(value)
        elif field == 2:
            addrs.append(_raw(value))
    try:
        return Punch(PunchKind(kind), _few(addrs))
    except ValueError:
        raise UntrustedDataError("dcutr: a message of an unknown type") from None


def _read_peer_untrusted(body: bytes) -> bytes:
    peer = b""
    for field, value in _fields_untrusted(body):
        if field == 1:
            peer = _raw(value)
    if not 0 < len(peer) <= MAX_PEER_ID:
        raise UntrustedDataError("relay: not a peer ID")
    return peer


def _read_reservation_untrusted(body: bytes) -> Reservation:
    expire, addrs = 0, list[bytes]()
    for field, value in _fields_untrusted(body):
        if field == 1:
            expire = _int(value)
        elif field == 2:
            addrs.append(_raw(value))
    return Reservation(expire, _few(addrs))


def _read_limit_untrusted(body: bytes) -> Limit:
    duration = data = 0
    for field, value in _fields_untrusted(body):
        if field == 1:
            duration = _int(value)
        elif field == 2:
            data = _int(value)
    return Limit(duration, data)


def _few(addrs: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(addr for addr in addrs if 0 < len(addr) <= MAX_ADDR)[:MAX_ADDRS]


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise UntrustedDataError("relay: bytes where a number belongs")
    return value


def _raw(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise UntrustedDataError("relay: a number where bytes belong")
    return value


def _fields_untrusted(body: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values: numbers of varints, bytes of what has a length; the fixed ones are skipped."""
    if len(body) > MAX_MESSAGE:
        raise UntrustedDataError("relay: a message that is too long")
    position, count = 0, 0
    while position < len(body):
        count += 1
        if count > MAX_FIELDS:
            raise UntrustedDataError("relay: a message of too many fields")
        tag, position = _varint_untrusted(body, position)
        wire = tag & 7
        if wire == 0:
            number, position = _varint_untrusted(body, position)
            yield tag >> 3, number
            continue
        if wire == 2:
            size, position = _varint_untrusted(body, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise UntrustedDataError("relay: not a message")
        if position + size > len(body):
            raise UntrustedDataError("relay: a message that is cut off")
        if wire == 2:
            yield tag >> 3, body[position : position + size]
        position += size


def _varint_untrusted(body: bytes, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(body):
            break
        byte = body[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 128:
            if number > _U64:
                break
            return number, position
    raise UntrustedDataError("relay: not a number")
