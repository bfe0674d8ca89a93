"""The virtio_net_hdr before each packet of the TUN device, and what to do where the other end has no use for it.

    0       1          2           4          6            8             10
    +-------+----------+-----------+----------+------------+-------------+
    | flags | gso type | hdr len   | gso size | csum start | csum offset |   little-endian (virtio 1.2, 5.1.6)
    +-------+----------+-----------+----------+------------+-------------+

The kernel hands over super-packets (gso type and size: cut the payload into pieces of that size) and unfinished
checksums (flag 1: sum from csum start to the end, put it at csum start + csum offset; the field already holds the sum
of the pseudo-header). `segment` does both for a peer that wants plain packets.
"""

from __future__ import annotations

import struct

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.ip import IPV6_HEADER, TCP, UDP, checksum, ones_complement_sum, packet_length_untrusted
from edgevpn.proto.packet_stream import VIRTIO_HEADER

HEADER = struct.Struct("<BBHHHH")
NEEDS_CHECKSUM = 1
TCP_CHECKSUM, UDP_CHECKSUM = 16, 6  # where in a header it is
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP = 0, 1, 4, 5
_ECN = 0x80
_FIN_PSH = 0x09
_CWR = 0x80


def check_untrusted(frame: bytes | memoryview, *, takes_tcp: bool = True, takes_udp: bool = True) -> None:
    """Refuse a frame of a peer that the device would refuse or that does not fit its own packet.

    Raises UntrustedDataError. What passes may be written to the device as it is.
    """
    if len(frame) < VIRTIO_HEADER + 20:
        raise UntrustedDataError("a frame is shorter than any packet")
    flags, gso, _, size, start, offset = HEADER.unpack_from(frame)
    packet_length = len(frame) - VIRTIO_HEADER
    kind = gso & ~_ECN
    if packet_length_untrusted(frame, VIRTIO_HEADER) != packet_length:
        raise UntrustedDataError("a frame's packet has another length than it states")
    if flags & NEEDS_CHECKSUM and start + offset + 2 > packet_length:
        raise UntrustedDataError("a frame's checksum is beyond its packet")
    if kind == GSO_NONE:
        return
    if kind == GSO_UDP:
        fits = takes_udp
    else:
        fits = takes_tcp and kind == (GSO_TCPV4 if frame[VIRTIO_HEADER] >> 4 == 4 else GSO_TCPV6)
    if not fits or size == 0 or not flags & NEEDS_CHECKSUM:
        raise UntrustedDataError("a frame's offload does not fit its packet")


def segment(frame: bytes | memoryview) -> list[bytes]:
    """The plain packets of a frame from our own device: cut to its segment size, checksums finished.

    Raises UntrustedDataError for a super-packet whose headers make no sense.
    """
    flags, gso, _, size, start, offset = HEADER.unpack_from(frame)
    packet = bytes(frame[VIRTIO_HEADER:])
    kind = gso & ~_ECN
    if kind == GSO_NONE:
        return [_finish_checksum(packet, start, offset) if flags & NEEDS_CHECKSUM else packet]
    protocol = TCP if kind in (GSO_TCPV4, GSO_TCPV6) else UDP
    header_end = start + ((packet[start + 12] >> 4) * 4 if protocol == TCP and len(packet) > start + 12 else 8)
    if not size or start < 20 or header_end >= len(packet):
        raise UntrustedDataError("a super-packet without payload")
    return _cut(packet, start, header_end, size, protocol)


def _finish_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """The field holds the pseudo-header's sum; the finished checksum covers everything from `start` on."""
    at = start + offset
    if at + 2 > len(packet):
        raise UntrustedDataError("a checksum beyond its packet")
    value = checksum(packet[start:])
    if offset == UDP_CHECKSUM:
        value = value or 0xFFFF  # 0 means "no checksum" to UDP (RFC 768, RFC 8200 section 8.1)
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def _cut(packet: bytes, start: int, header_end: int, size: int, protocol: int) -> list[bytes]:
    """TCP (RFC 9293) or UDP segments with `size` bytes of payload each, under IPv4 or IPv6."""
    version6 = packet[0] >> 4 == 6
    addresses = packet[8:40] if version6 else packet[12:20]
    pieces = [packet[at : at + size] for at in range(header_end, len(packet), size)]
    identification = 0 if version6 else int.from_bytes(packet[4:6], "big")
    sequence = int.from_bytes(packet[start + 4 : start + 8], "big") if protocol == TCP else 0
    field = start + (TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM)
    out = []
    for number, piece in enumerate(pieces):
        header = bytearray(packet[:header_end])
        total = header_end + len(piece)
        if version6:
            header[4:6] = (total - IPV6_HEADER).to_bytes(2, "big")
        else:
            header[2:4] = total.to_bytes(2, "big")
            header[4:6] = (identification + number & 0xFFFF).to_bytes(2, "big")
            header[10:12] = b"\0\0"
            header[10:12] = checksum(bytes(header[: (header[0] & 15) * 4])).to_bytes(2, "big")
        if protocol == TCP:
            header[start + 4 : start + 8] = (sequence + number * size & 0xFFFFFFFF).to_bytes(4, "big")
            if number < len(pieces) - 1:
                header[start + 13] &= ~_FIN_PSH & 0xFF
            if number:
                header[start + 13] &= ~_CWR & 0xFF
        else:
            header[start + 4 : start + 6] = (total - start).to_bytes(2, "big")
        header[field : field + 2] = b"\0\0"
        pseudo = ones_complement_sum(addresses, protocol + total - start)
        value = checksum(bytes(header[start:]) + piece, pseudo)
        header[field : field + 2] = (value or (0xFFFF if protocol == UDP else 0)).to_bytes(2, "big")
        out.append(bytes(header) + piece)
    return out
