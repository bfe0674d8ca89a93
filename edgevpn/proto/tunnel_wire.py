"""What two nodes of ours say on a tunnel's stream before its bytes flow, and how datagrams travel on one.

`/edgevpn-py/tunnel/1`, all numbers big-endian. Who dialled says what it wants, the other side answers:

    open     "EVPT" | version, u8 = 1 | kind, u8 | port, u16 | length, u16 | name, UTF-8
    answer   status, u8 | length, u16 | why, UTF-8

Kind 1 is a TCP service of that name, 2 a UDP service (port 0 in both), 3 a TCP connection that an egress node makes to
the host `name` at `port`. After status 0 a TCP tunnel is the bytes both ways, and an end of file ends its own direction
only; a UDP tunnel is datagrams both ways:

    datagram length, u16 | bytes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from edgevpn.errors import UntrustedDataError

MAX_NAME = 255  # bytes
MAX_WHY = 500
MAX_DATAGRAM = 65507  # UDP over IPv4

_MAGIC = b"EVPT"
_VERSION = 1
_OPEN = struct.Struct(">4sBBHH")
_ANSWER = struct.Struct(">BH")
_LENGTH = struct.Struct(">H")
OPEN_HEAD = _OPEN.size
ANSWER_HEAD = _ANSWER.size


class Kind(IntEnum):
    """What a tunnel leads to."""

    TCP_SERVICE = 1
    UDP_SERVICE = 2
    EGRESS = 3


class Status(IntEnum):
    """How a wish was answered."""

    OK = 0
    NOT_HERE = 1  # no such service, or not an egress node
    STRANGER = 2  # the one who asks is not in the bucket `users`
    UNREACHABLE = 3  # the target does not answer
    FORBIDDEN = 4  # the egress node does not connect to such addresses
    BUSY = 5


@dataclass(frozen=True, slots=True)
class Open:
    """What who dialled wants. `port` is 0 but for EGRESS."""

    kind: Kind
    name: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    status: Status
    why: str = ""


def write_open(wish: Open) -> bytes:
    """Raises ValueError when the name is too long."""
    name = wish.name.encode()
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"a tunnel's name has 1 to {MAX_NAME} bytes")
    return _OPEN.pack(_MAGIC, _VERSION, wish.kind, wish.port, len(name)) + name


def open_length_untrusted(head: bytes) -> int:
    """How many bytes follow the first OPEN_HEAD of them. Raises UntrustedDataError."""
    if len(head) != OPEN_HEAD:
        raise UntrustedDataError("a tunnel's head is cut short")
    magic, version, _, _, length = _OPEN.unpack(head)
    if magic != _MAGIC or version != _VERSION or not 0 < length <= MAX_NAME:
        raise UntrustedDataError("a tunnel does not begin as it must")
    return int(length)


def read_open_untrusted(data: bytes) -> Open:
    """Head and name together. Raises UntrustedDataError."""
    length = open_length_untrusted(data[:OPEN_HEAD])
    _, _, kind, port, _ = _OPEN.unpack_from(data)
    name = data[OPEN_HEAD:]
    if len(name) != length or kind not in Kind.__members__.values() or (port != 0) != (kind == Kind.EGRESS):
        raise UntrustedDataError("a tunnel's wish makes no sense")
    return Open(Kind(kind), _text_untrusted(name), port)


def write_answer(answer: Answer) -> bytes:
    why = answer.why.encode(errors="replace")[:MAX_WHY].decode(errors="ignore").encode()
    return _ANSWER.pack(answer.status, len(why)) + why


def answer_length_untrusted(head: bytes) -> int:
    """How many bytes follow the first ANSWER_HEAD of them. Raises UntrustedDataError."""
    if len(head) != ANSWER_HEAD:
        raise UntrustedDataError("a tunnel's answer is cut short")
    length: int = _ANSWER.unpack(head)[1]
    if length > MAX_WHY:
        raise UntrustedDataError("a tunnel's answer is too long")
    return length


def read_answer_untrusted(data: bytes) -> Answer:
    """Head and text together. Raises UntrustedDataError."""
    length = answer_length_untrusted(data[:ANSWER_HEAD])
    status = data[0]
    if len(data) != ANSWER_HEAD + length or status not in Status.__members__.values():
        raise UntrustedDataError("a tunnel's answer makes no sense")
    return Answer(Status(status), _text_untrusted(data[ANSWER_HEAD:]))


def write_datagram(data: bytes) -> bytes:
    """Raises ValueError for one that UDP could not carry."""
    if len(data) > MAX_DATAGRAM:
        raise ValueError(f"a datagram of {len(data)} bytes")
    return _LENGTH.pack(len(data)) + data


class DatagramDecoder:
    """Datagrams out of a stream's bytes, which come in any pieces. Holds less than one datagram."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed_untrusted(self, data: bytes) -> list[bytes]:
        """The datagrams that `data` completes. Raises UntrustedDataError for one that UDP could not carry."""
        rest = self._rest
        rest += data
        found: list[bytes] = []
        position = 0
        while len(rest) - position >= _LENGTH.size:
            length = _LENGTH.unpack_from(rest, position)[0]
            if length > MAX_DATAGRAM:
                raise UntrustedDataError(f"a datagram of {length} bytes")
            end = position + _LENGTH.size + length
            if end > len(rest):
                break
            found.append(bytes(rest[position + _LENGTH.size : end]))
            position = end
        if position:
            del rest[:position]
        return found


def _text_untrusted(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UntrustedDataError("a tunnel's text is not UTF-8") from None
    if not text.isprintable():
        raise UntrustedDataError("a tunnel's text has characters that can't be seen")
    return text
