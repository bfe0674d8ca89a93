"""The wire format of yamux (HashiCorp's specification, as libp2p uses it under `/yamux/1.0.0`). Pure.

A frame is a 12-byte header, big-endian: version (0), type, flags (2 bytes), stream id (4), length (4); after the header
of a data frame come `length` bytes. Pings and GoAway are on stream 0, data and window updates on any other.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from edgevpn.errors import UntrustedDataError

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR, GO_AWAY_INTERNAL_ERROR = range(3)

INITIAL_WINDOW = 256 * 1024  # both sides start every stream with it
MAX_WINDOW = 16 * 1024 * 1024

HEADER = struct.Struct("!BBHII")


class Frame(NamedTuple):
    """One frame; `length` is the header's field (bytes, window delta, ping value or GoAway code by `kind`)."""

    kind: int
    flags: int
    stream_id: int
    length: int
    data: bytes


def parse_frames_untrusted(buffer: bytearray) -> list[Frame]:
    """Take all whole frames off the front of `buffer`; what is left is the beginning of the next one.

    Raises UntrustedDataError for an unknown version, type or flag, a stream frame for stream 0, or a data frame longer
    than any window.
    """
    frames: list[Frame] = []
    position, end = 0, len(buffer)
    with memoryview(buffer) as view:
        while end - position >= 12:
            version, kind, flags, stream_id, length = HEADER.unpack_from(buffer, position)
            if version != 0 or kind > GO_AWAY or flags > 15:
                raise UntrustedDataError("yamux: not a frame")
            if (stream_id == 0) is (kind <= WINDOW_UPDATE):
                raise UntrustedDataError("yamux: frame on the wrong stream")
            position += 12
            data = b""
            if kind == DATA and length:
                if length > MAX_WINDOW:
                    raise UntrustedDataError("yamux: frame longer than any window")
                if end - position < length:
                    position -= 12
                    break
                data = bytes(view[position : position + length])
                position += length
            frames.append(Frame(kind, flags, stream_id, length, data))
    if position:
        del buffer[:position]
    return frames
