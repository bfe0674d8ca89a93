"""Datagrams of one flow, read from the device one by one, made into the super-packet that they could have been.

The kernel joins TCP segments before the device sees them, and what an application sends by UDP_SEGMENT; what it sends
datagram by datagram comes so. But the device scatters (readv): once two in a row looked alike the next ones are read
with the headers to one place and the payload to where it lies in the super-packet, so each costs one system call and
nothing else. What was read is alike if all headers are, but for IPv4's identification, which means nothing in packets
that may not be fragmented (RFC 6864, 4.1), and its checksum.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from edgevpn.proto.ip import UDP, checksum
from edgevpn.proto.packet_stream import MAX_FRAME, VIRTIO_HEADER
from edgevpn.tun import virtio

MOST: Final = 64  # datagrams of a run, as many as the kernel makes
MAX_RUN: Final = 59_000  # bytes
_U16 = struct.Struct(">H")
_TABLES = 64
_UDP_HEADER, _SUM_AT = 8, 6
_DF = 0x40

_Vectors = list[tuple[memoryview, memoryview, memoryview]]


class UdpRun:
    """Collects; `frame` is where frames are read to otherwise, and where the super-packet is made."""

    def __init__(self, frame: memoryview) -> None:
        self._frame = frame
        self._headers = memoryview(bytearray(MOST * (VIRTIO_HEADER + 40 + _UDP_HEADER)))
        self._payload = memoryview(bytearray(MAX_FRAME))
        self._rest = memoryview(bytearray(MAX_FRAME))
        self._tables: dict[tuple[int, int], _Vectors] = {}
        self._last = b""  # of the datagram before: what makes it one of its flow
        self._odd_at: tuple[memoryview, memoryview, memoryview] | None = None
        self.count = 0  # of those that were read for the last frame

    def forget(self) -> None:
        """What comes next does not follow what came."""
        self._last = b""

    def follows(self, size: int) -> bool:
        """Whether frame[:size] looks like the one before, of which this was asked, too."""
        frame = self._frame
        if frame[0] != virtio.NEEDS_CHECKSUM or frame[1] or frame[8] != _SUM_AT or frame[9]:
            self._last = b""
            return False
        start = frame[6]
        if frame[VIRTIO_HEADER] == 0x45:  # addresses and ports; no options, may not be fragmented
            fits = start == 20 and frame[16] & ~_DF == 0 and frame[16] and not frame[17] and frame[19] == UDP
            flow = frame[22:34]
        else:
            fits = start == 40 and frame[10] >> 4 == 6 and frame[16] == UDP
            flow = frame[18:54]
        if not fits or size <= VIRTIO_HEADER + start + _UDP_HEADER:
            self._last = b""
            return False
        before, self._last = self._last, bytes(flow) + size.to_bytes(4, "big")
        return before == self._last

    def read(self, descriptor: int, size: int) -> tuple[int, int, list[bytes]]:
        """Read what follows frame[:size] from the device, while it is alike.

        (size of the frame that is in `frame` then, size of the frame that was read and is not alike, or 0, other
        frames to be sent before). Ask `odd` for the frame that is not alike when `frame` has been used.
        """
        frame, header = self._frame, VIRTIO_HEADER + frame_start(self._frame) + _UDP_HEADER
        length = size - header
        most = min(MOST, (MAX_RUN - header) // length)
        table = self._tables.get((header, length))
        if table is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            table = self._tables[header, length] = [
                (
                    self._headers[i * header : i * header + header],
                    self._payload[i * length : i * length + length],
                    self._rest,
                )
                for i in range(most)
            ]
        headers, payload, _ = table[0]
        headers[:] = frame[:header]
        payload[:] = frame[header:size]
        count, odd, readv = 1, 0, os.readv
        try:
            while count < most:
                got = readv(descriptor, table[count])
                if got != size:
                    odd = got
                    break
                count += 1
        except BlockingIOError:
            pass
        self._odd_at = table[count] if odd else None
        self.count = count
        if count == 1:
            return size, odd, []
        block = bytes(self._headers[: count * header])
        if not _are_alike(block, header, count):
            pieces = [
                block[i * header : i * header + header] + bytes(self._payload[i * length : i * length + length])
                for i in range(count)
            ]
            last = pieces.pop()
            frame[:size] = last
            self._last = b""
            return size, odd, pieces
        total = count * length
        frame[:header] = block[:header]
        frame[header : header + total] = self._payload[:total]
        _make_super(frame, header, length, total)
        return header + total, odd, []

    def odd(self, size: int) -> None:
        """Put the frame of `size` bytes that was read and is not alike into `frame`."""
        self._last = b""
        at = 0
        for part in self._odd_at or ():
            piece = min(len(part), size - at)
            self._frame[at : at + piece] = part[:piece]
            at += piece


def frame_start(frame: memoryview) -> int:
    """Where the UDP header is, in the packet."""
    return frame[6]


def _are_alike(block: bytes, header: int, count: int) -> bool:
    """Whether `count` headers of `header` bytes each differ only in what may differ."""
    if block[VIRTIO_HEADER] >> 4 == 4:
        work = bytearray(block)
        for at in (14, 15, 20, 21):
            work[at::header] = bytes(count)
        return work == work[:header] * count
    return block == block[:header] * count


def _make_super(frame: memoryview, header: int, length: int, total: int) -> None:
    """Headers of one datagram with `length` bytes of payload become those of a super-packet with `total`."""
    start = frame[6]
    virtio.HEADER.pack_into(
        frame, 0, virtio.NEEDS_CHECKSUM, virtio.GSO_UDP, header - VIRTIO_HEADER, length, start, _SUM_AT
    )
    if frame[VIRTIO_HEADER] >> 4 == 4:
        _U16.pack_into(frame, VIRTIO_HEADER + 2, header - VIRTIO_HEADER + total)
        _U16.pack_into(frame, VIRTIO_HEADER + 10, 0)
        _U16.pack_into(frame, VIRTIO_HEADER + 10, checksum(bytes(frame[VIRTIO_HEADER : VIRTIO_HEADER + start])))
    else:
        _U16.pack_into(frame, VIRTIO_HEADER + 4, _UDP_HEADER + total)
    udp = VIRTIO_HEADER + start
    _U16.pack_into(frame, udp + 4, _UDP_HEADER + total)
    # The field holds the sum of the pseudo-header, and with it the length.
    _U16.pack_into(frame, udp + _SUM_AT, (_U16.unpack_from(frame, udp + _SUM_AT)[0] + total - length) % 65535)
