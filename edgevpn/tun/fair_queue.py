"""Packets that wait for this machine: each flow has a queue, all get the same share, none waits long. Pure.

As in FQ-CoDel (RFC 8290): a flow that begins to send is served before those that have waited, for one quantum; then
all take turns, a quantum of bytes each. So ping, DNS and the like pass a transfer's megabytes. Each flow's packets keep
their order. CoDel (RFC 8289) sees to it that no flow has a queue that stays: when packets have waited longer than
TARGET for INTERVAL, one is dropped (or marked, where both ends know ECN: RFC 3168), the next ones at growing rate,
until TCP inside has understood. When all queues together have MAX_BYTES or MAX_PACKETS the longest loses its oldest.
"""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import Final

from edgevpn.proto.ip import checksum
from edgevpn.proto.packet_stream import VIRTIO_HEADER

TARGET: Final = 0.005  # seconds
INTERVAL: Final = 0.1
QUANTUM: Final = 60_000  # bytes
MAX_BYTES: Final = 3 << 20
MAX_PACKETS: Final = 4096
_ECT, _CE = 3, 3


class Codel:
    """Whether to drop what has waited, RFC 8289, section 5."""

    __slots__ = ("_above_since", "_count", "_dropping", "_last_count", "_next")

    def __init__(self) -> None:
        self._above_since = 0.0
        self._dropping = False
        self._count = self._last_count = 0
        self._next = 0.0

    def wants_drop(self, waited: float, now: float, *, is_last: bool) -> bool:
        """Of a packet that waited so many seconds. `is_last`: nothing waits behind it."""
        if waited < TARGET or is_last:
            self._above_since = 0.0
            self._dropping = False
            return False
        if not self._above_since:
            self._above_since = now + INTERVAL
            return False
        if self._dropping:
            if now < self._next:
                return False
            self._count += 1
            self._next += INTERVAL / sqrt(self._count)
            return True
        if now < self._above_since:
            return False
        self._dropping = True
        lately = now - self._next < 16 * INTERVAL
        since = self._count - self._last_count
        self._count = since if lately and since > 1 else 1
        self._last_count = self._count
        self._next = now + INTERVAL / sqrt(self._count)
        return True


class _Flow:
    __slots__ = ("codel", "credit", "key", "packets", "size")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.packets: deque[tuple[str, bytearray, int, float]] = deque()  # peer, buffer, size, since when
        self.credit = QUANTUM
        self.size = 0
        self.codel = Codel()


class FairQueue:
    """Frames (virtio header and packet) for peers. `dropped`: packets; `marked`: with congestion experienced."""

    def __init__(self) -> None:
        self._flows: dict[bytes, _Flow] = {}
        self._new: deque[_Flow] = deque()
        self._old: deque[_Flow] = deque()
        self.size = self.count = 0
        self.dropped = self.marked = 0
        self.freed: list[bytearray] = []  # buffers of what was dropped, for whoever wants them back

    def push(self, key: bytes, peer: str, buffer: bytearray, size: int, now: float) -> None:
        """Append the frame buffer[:size] to its flow."""
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(key)
            self._new.append(flow)
        flow.packets.append((peer, buffer, size, now))
        flow.size += size
        self.size += size
        self.count += 1
        while self.size > MAX_BYTES or self.count > MAX_PACKETS:
            longest = max(self._flows.values(), key=lambda one: one.size)
            self.freed.append(self._take(longest)[1])
            self.dropped += 1

    def pop(self, now: float) -> tuple[str, bytearray, int] | None:
        """The next frame: peer, buffer, size."""
        while True:
            flows = self._new or self._old
            if not flows:
                return None
            flow = flows[0]
            if flow.credit <= 0:
                flow.credit += QUANTUM
                self._old.append(flows.popleft())
                continue
            if not flow.packets:
                flows.popleft()
                if flows is self._new and self._old:  # or it would be a new one again and again (RFC 8290, 4.2)
                    self._old.append(flow)
                else:
                    del self._flows[flow.key]
                continue
            peer, buffer, size, since = self._take(flow)
            flow.credit -= size
            if flow.codel.wants_drop(now - since, now, is_last=not flow.packets):
                if not mark(buffer):
                    self.dropped += 1
                    self.freed.append(buffer)
                    continue
                self.marked += 1
            return peer, buffer, size

    def _take(self, flow: _Flow) -> tuple[str, bytearray, int, float]:
        taken = flow.packets.popleft()
        flow.size -= taken[2]
        self.size -= taken[2]
        self.count -= 1
        return taken


def flow_of(frame: bytes | bytearray | memoryview) -> bytes:
    """What packets of one flow have in common: addresses, protocol, ports. For frames of our own device."""
    if frame[VIRTIO_HEADER] >> 4 == 4:
        start = VIRTIO_HEADER + (frame[VIRTIO_HEADER] & 15) * 4
        ports = b"" if frame[16] & 0x3F or frame[17] else frame[start : start + 4]  # fragments have none
        return bytes(frame[19:20]) + bytes(frame[22:30]) + bytes(ports)
    return bytes(frame[16:17]) + bytes(frame[18:54])


def mark(frame: bytearray) -> bool:
    """Say "congestion experienced" in a packet whose ends know ECN (RFC 3168); False: they don't."""
    ip = VIRTIO_HEADER
    if frame[ip] >> 4 == 4:
        if not frame[ip + 1] & _ECT:
            return False
        frame[ip + 1] |= _CE
        length = (frame[ip] & 15) * 4
        frame[ip + 10 : ip + 12] = b"\0\0"
        frame[ip + 10 : ip + 12] = checksum(bytes(frame[ip : ip + length])).to_bytes(2, "big")
        return True
    if not frame[ip + 1] >> 4 & _ECT:
        return False
    frame[ip + 1] |= _CE << 4
    return True
