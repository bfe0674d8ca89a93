"""Packets between two nodes of ours on one libp2p stream.

Each direction of the stream begins with a hello, then carries frames:

    0        4         5       6          8
    +--------+---------+-------+----------+
    | "EVPS" | version | flags | MTU, u16 |                    hello
    +--------+---------+-------+----------+

    0               4                        14
    +---------------+------------------------+---------------------------+
    | length, u32   | virtio_net_hdr, 10     | IP packet                 |   frame; length counts what follows it
    +---------------+------------------------+---------------------------+

All numbers are big-endian, except those of the virtio_net_hdr, which is little-endian (virtio 1.2, section 5.1.6). With
it one frame can carry a whole TCP or UDP super-packet of up to 64 KiB whose segments are cut by whoever needs them cut.
The flags say which super-packets the sender of the hello can take in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from edgevpn.errors import UntrustedDataError

VIRTIO_HEADER = 10
MAX_FRAME = VIRTIO_HEADER + 65575
TAKES_TCP = 1  # TCP super-packets
TAKES_UDP = 2  # UDP super-packets
PLAIN = bytes(VIRTIO_HEADER)  # the virtio header of a packet that is just a packet

_MAGIC = b"EVPS"
_VERSION = 1
_HELLO = struct.Struct(">4sBBH")
_LENGTH = struct.Struct(">I")
HELLO_SIZE = _HELLO.size


@dataclass(frozen=True, slots=True)
class Hello:
    """What the other end can take. `mtu` is that of its interface."""

    flags: int
    mtu: int


def write_hello(hello: Hello) -> bytes:
    return _HELLO.pack(_MAGIC, _VERSION, hello.flags, hello.mtu)


def read_hello_untrusted(data: bytes) -> Hello:
    """A hello from exactly HELLO_SIZE bytes. Raises UntrustedDataError."""
    if len(data) != HELLO_SIZE:
        raise UntrustedDataError("a packet stream's hello is cut short")
    magic, version, flags, mtu = _HELLO.unpack(data)
    if magic != _MAGIC or version != _VERSION:
        raise UntrustedDataError("a packet stream does not begin with our hello")
    return Hello(flags, mtu)


def join(frames: Iterable[bytes | memoryview]) -> bytes:
    """Frames (virtio header and packet each) as the bytes to send."""
    parts: list[bytes | memoryview] = []
    for frame in frames:
        parts.append(_LENGTH.pack(len(frame)))
        parts.append(frame)
    return b"".join(parts)


class PacketDecoder:
    """Cuts what arrives into frames; keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed_untrusted(self, data: bytes) -> list[memoryview]:
        """The frames that `data` completes. Raises UntrustedDataError: the stream is of no more use."""
        if self._rest:
            self._rest += data
            data = bytes(self._rest)
            self._rest.clear()
        view = memoryview(data)
        frames = []
        start = 0
        end = len(data)
        while end - start >= 4:
            length = int.from_bytes(view[start : start + 4], "big")
            if not VIRTIO_HEADER < length <= MAX_FRAME:
                raise UntrustedDataError(f"a packet frame states a length of {length}")
            if end - start - 4 < length:
                break
            frames.append(view[start + 4 : start + 4 + length])
            start += 4 + length
        self._rest += view[start:]
        return frames
