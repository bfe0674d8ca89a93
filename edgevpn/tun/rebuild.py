"""What a train's pieces become again: one frame of the headers of the whole, and the payload of some. Pure.

The headers are those of the super-packet that was cut (edgevpn/tun/train.py): what they say of lengths and numbers is
of the whole, so it is made right for the part. TCP: RFC 9293; IPv4's identification: RFC 6864.
"""

from __future__ import annotations

import struct

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import MAX_PIECES
from edgevpn.proto.ip import checksum
from edgevpn.proto.packet_stream import VIRTIO_HEADER
from edgevpn.tun import virtio

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_FIN_PSH, _CWR = 0x09, 0x80


def rebuild_untrusted(frame: bytearray, size: int, first: int) -> None:
    """Make a frame of frame[:size]: the headers of the whole train, and the payload of some of its datagrams.

    `first` is the index of the first of them. Changes it in place: the length, and where it is not the whole, what is
    different from segment to segment (TCP: sequence number, PSH, FIN, CWR; IPv4: identification). Raises
    UntrustedDataError, IndexError or struct.error for headers that make no sense.
    """
    flags, kind, _, segment, start, offset = virtio.HEADER.unpack_from(frame)
    together, header = frame[2] + 1, frame[3]
    is_udp = kind & 0x7F == virtio.GSO_UDP
    transport = VIRTIO_HEADER + start
    version6 = frame[VIRTIO_HEADER] >> 4 == 6
    if (
        header != transport + (8 if is_udp else frame[transport + 12] >> 4 << 2)
        or start < (40 if version6 else 20)
        or size <= header
        or not segment
        or not flags & virtio.NEEDS_CHECKSUM
        or offset != (virtio.UDP_CHECKSUM if is_udp else virtio.TCP_CHECKSUM)
    ):
        raise UntrustedDataError("a train's headers make no sense")
    struct.pack_into("<H", frame, 2, header - VIRTIO_HEADER)
    length_at = VIRTIO_HEADER + (4 if version6 else 2)
    total = VIRTIO_HEADER + (40 if version6 else 0) + _U16.unpack_from(frame, length_at)[0]
    if size == total and not first:
        return
    first *= together
    is_last = first * segment + size >= total
    _U16.pack_into(frame, length_at, size - VIRTIO_HEADER - (40 if version6 else 0))
    if not version6:
        identification = _U16.unpack_from(frame, VIRTIO_HEADER + 4)[0] + first
        _U16.pack_into(frame, VIRTIO_HEADER + 4, identification & 0xFFFF)
        frame[VIRTIO_HEADER + 10 : VIRTIO_HEADER + 12] = b"\0\0"
        _U16.pack_into(frame, VIRTIO_HEADER + 10, checksum(bytes(frame[VIRTIO_HEADER:transport])))
    if is_udp:
        _U16.pack_into(frame, transport + 4, size - transport)
    else:
        sequence = _U32.unpack_from(frame, transport + 4)[0] + first * segment
        _U32.pack_into(frame, transport + 4, sequence & 0xFFFFFFFF)
        if not is_last:
            frame[transport + 13] &= ~_FIN_PSH & 0xFF
        if first:
            frame[transport + 13] &= ~_CWR & 0xFF
    # The checksum's field holds the pseudo-header's sum, and with it the length.
    sum_at = transport + offset
    _U16.pack_into(frame, sum_at, (_U16.unpack_from(frame, sum_at)[0] + size - total) % 65535)
    if size - header <= segment:
        frame[1] = virtio.GSO_NONE
        frame[4:6] = b"\0\0"


def layout_of(piece: bytes | bytearray) -> tuple[int, int]:
    """Of a train: how long the headers are, and the payload of all its datagrams but the last."""
    return piece[3], (piece[2] + 1) * int(virtio.HEADER.unpack_from(piece)[3])


def pieces_of(frame: bytes | bytearray, header: int, segment: int) -> int:
    """How many pieces the whole train has of which this is a part, by the lengths in its headers."""
    if frame[VIRTIO_HEADER] >> 4 == 6:
        total = VIRTIO_HEADER + 40 + _U16.unpack_from(frame, VIRTIO_HEADER + 4)[0]
    else:
        total = VIRTIO_HEADER + int(_U16.unpack_from(frame, VIRTIO_HEADER + 2)[0])
    return min(MAX_PIECES, max(1, (total - header + segment - 1) // segment)) if segment else 1
