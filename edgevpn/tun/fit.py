"""Making a frame of the device's fit a way that carries less than the interface does. Pure; changes it in place.

    TCP, as the kernel makes it      cut finer: TCP is a stream of bytes, so its segments may be of any size. A super-
    (unfinished checksum)            packet gets a smaller segment size, a plain packet becomes a super-packet of a few
                                     segments. Nothing is lost, the connection keeps its pace, and has full segments
                                     again when the way carries them
    IPv4 that may be fragmented      fragmented, and not sent by the stream path: there it would wait for other packets'
                                     repeats, pass those sent before it or be passed, and there may be no stream
    IPv6 of up to 1280 bytes         the other path: its sender may not be told to make it smaller (RFC 8200, 5)
    all other                        refused, with an answer for the sender (edgevpn/proto/too_big.py). UDP
                                     super-packets too: a datagram is a message, and may not be cut

TCP's SYNs are given an MSS that fits (RFC 9293, 3.7.1), in both directions, so new connections need none of that.
"""

from __future__ import annotations

import ipaddress
import struct
from enum import Enum, auto

from edgevpn.proto.ip import IPV4_HEADER, IPV6_HEADER, TCP, UDP
from edgevpn.proto.packet_stream import VIRTIO_HEADER
from edgevpn.proto.too_big import MIN_IPV6, may_fragment
from edgevpn.tun import virtio

_U16 = struct.Struct(">H")
_ECN = 0x80
_SYN = 0x02
_END, _NOTHING, _MSS = 0, 1, 2
_TCP_HEADER = 20
_OFFSET = 0x1FFF
_LEAST_ROOM = 64  # bytes of payload
MAX_SYN = 256  # bytes of a frame; those with data may be larger, and keep their MSS


class Fit(Enum):
    """`FITS`: the frame may go as it is now."""

    FITS = auto()
    FRAGMENT = auto()
    ELSEWHERE = auto()
    REFUSE = auto()


def fit(frame: bytearray | memoryview, size: int, mtu: int) -> Fit:
    """What to do with frame[:size], where packets of `mtu` bytes fit. For well-formed frames of our own device."""
    flags, kind, _, segment, start, offset = virtio.HEADER.unpack_from(frame)
    packet = size - VIRTIO_HEADER
    gso = kind & ~_ECN
    if gso == virtio.GSO_NONE and packet <= mtu:
        return Fit.FITS
    if gso == virtio.GSO_UDP:
        if start + 8 + segment <= mtu:
            return Fit.FITS
    elif _is_tcp(frame, size, flags, gso, start, offset):
        header = start + (frame[VIRTIO_HEADER + start + 12] >> 4) * 4
        if gso != virtio.GSO_NONE and header + segment <= mtu:
            return Fit.FITS
        if header + _LEAST_ROOM <= mtu and header < packet:
            if gso == virtio.GSO_NONE:
                gso = virtio.GSO_TCPV4 if frame[VIRTIO_HEADER] >> 4 == 4 else virtio.GSO_TCPV6
                kind = gso | (_ECN if frame[VIRTIO_HEADER + start + 13] & _ECN else 0)
            virtio.HEADER.pack_into(frame, 0, flags, kind, header, mtu - header, start, offset)
            return Fit.FITS
    if frame[VIRTIO_HEADER] >> 4 == 6 and (packet if gso == virtio.GSO_NONE else start + 8 + segment) <= MIN_IPV6:
        return Fit.ELSEWHERE
    return Fit.FRAGMENT if may_fragment(frame[VIRTIO_HEADER : VIRTIO_HEADER + 8]) else Fit.REFUSE


def _is_tcp(frame: bytearray | memoryview, size: int, flags: int, gso: int, start: int, offset: int) -> bool:
    """Whether it is TCP whose checksum whoever cuts it will make."""
    if gso in (virtio.GSO_TCPV4, virtio.GSO_TCPV6):
        return True
    if not flags & virtio.NEEDS_CHECKSUM or offset != virtio.TCP_CHECKSUM or size < VIRTIO_HEADER + start + _TCP_HEADER:
        return False
    return _tcp_at(frame, size) == VIRTIO_HEADER + start


def _tcp_at(frame: bytes | bytearray | memoryview, size: int) -> int | None:
    """Where the TCP header is, if it is all there and not behind IPv6's extension headers."""
    ip = VIRTIO_HEADER
    if frame[ip] >> 4 == 4:
        at = ip + (frame[ip] & 15) * 4
        whole = not _U16.unpack_from(frame, ip + 6)[0] & (_OFFSET | 0x2000)
        is_tcp = frame[ip + 9] == TCP and whole and at >= ip + IPV4_HEADER
    else:
        at = ip + IPV6_HEADER
        is_tcp = frame[ip + 6] == TCP
    return at if is_tcp and size >= at + _TCP_HEADER else None


def clamp_mss(frame: bytearray | memoryview, size: int, mtu: int) -> bool:
    """Lower the MSS in a SYN's options to what fits packets of `mtu` bytes; whether it was lowered.

    A finished checksum is brought up to date (RFC 1624); an unfinished one does not cover the options yet. Anything
    else than a well-formed SYN stays as it is.
    """
    if size < VIRTIO_HEADER + IPV4_HEADER + _TCP_HEADER:
        return False
    tcp = _tcp_at(frame, size)
    if tcp is None or not frame[tcp + 13] & _SYN:
        return False
    most = mtu - _TCP_HEADER - (IPV4_HEADER if frame[VIRTIO_HEADER] >> 4 == 4 else IPV6_HEADER)
    at, end = tcp + _TCP_HEADER, min(size, tcp + (frame[tcp + 12] >> 4) * 4)
    while at < end and frame[at] != _END:
        if frame[at] == _NOTHING:
            at += 1
            continue
        if at + 2 > end or frame[at + 1] < 2 or at + frame[at + 1] > end:
            return False
        if frame[at] == _MSS and frame[at + 1] == 4:
            return _lower(frame, tcp, at + 2, most)
        at += frame[at + 1]
    return False


def _lower(frame: bytearray | memoryview, tcp: int, at: int, most: int) -> bool:
    old = bytes(frame[at : at + 2])
    new = _U16.pack(max(most, 0))
    if old <= new:
        return False
    frame[at : at + 2] = new
    if not frame[0] & virtio.NEEDS_CHECKSUM:
        swap = (at - tcp) % 2  # it lies across two of the words that are summed
        before, after = (int.from_bytes(one, "little" if swap else "big") for one in (old, new))
        (field,) = _U16.unpack_from(frame, tcp + virtio.TCP_CHECKSUM)
        total = (0xFFFF - field) + (0xFFFF - before) + after
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        _U16.pack_into(frame, tcp + virtio.TCP_CHECKSUM, 0xFFFF - total)
    return True


def udp_ends(frame: memoryview | bytearray) -> tuple[int, str, int] | None:
    """Source port, destination address and port of a frame's UDP datagram; None for anything else."""
    version6 = len(frame) > VIRTIO_HEADER and frame[VIRTIO_HEADER] >> 4 == 6
    at = VIRTIO_HEADER + (IPV6_HEADER if version6 else (frame[VIRTIO_HEADER] & 15) * 4)
    if len(frame) < at + 8 or frame[VIRTIO_HEADER + (6 if version6 else 9)] != UDP:
        return None
    destination = frame[VIRTIO_HEADER + 24 : at] if version6 else frame[VIRTIO_HEADER + 16 : VIRTIO_HEADER + 20]
    (source,), (port,) = _U16.unpack_from(frame, at), _U16.unpack_from(frame, at + 2)
    return source, str(ipaddress.ip_address(bytes(destination))), port
