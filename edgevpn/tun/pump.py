"""Between the TUN device and the paths: the loop that every packet passes.

Out: read until there is nothing more (or a batch is full), look each packet's peer up, hand each peer its batch. In:
check that the peer may use the packet's source, write it to the device. Both run in the packet thread and never wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.ip import addresses_untrusted
from edgevpn.proto.packet_stream import MAX_FRAME, VIRTIO_HEADER
from edgevpn.tun import virtio
from edgevpn.tun.path import Path
from edgevpn.tun.router import Router

BATCH_BYTES = 512 * 1024
BATCH_PACKETS = 128


class Pump:
    """Moves packets between the device `descriptor` and paths."""

    def __init__(
        self,
        descriptor: int,
        paths: Mapping[str, Path],
        unknown: Callable[[str, list[bytes]], None],
        *,
        takes_udp: bool = True,
    ) -> None:
        """`paths`: by peer. `unknown` is given what is for a peer that has no path yet."""
        self._descriptor = descriptor
        self._paths = paths
        self._unknown = unknown
        self._takes_udp = takes_udp
        self.router = Router({})
        self.counters = {
            "read_packets": 0,
            "written_packets": 0,
            "dropped_no_route": 0,
            "refused_source": 0,
            "refused_malformed": 0,
            "refused_by_device": 0,
        }

    def on_readable(self) -> None:
        """Take in a batch from the device. Called by the packet thread, again while there is more."""
        for peer, frames in self._read_batch().items():
            path = self._paths.get(peer)
            if path is None:
                self._unknown(peer, frames)
            else:
                path.send(frames)

    def _read_batch(self) -> dict[str, list[bytes]]:
        """What the device has now, by peer."""
        batches: dict[str, list[bytes]] = {}
        size = count = 0
        while size < BATCH_BYTES and count < BATCH_PACKETS:
            try:
                frame = os.read(self._descriptor, MAX_FRAME)
            except BlockingIOError:
                break
            count += 1
            size += len(frame)
            try:
                _, destination = addresses_untrusted(memoryview(frame)[VIRTIO_HEADER:])
            except UntrustedDataError:
                self.counters["dropped_no_route"] += 1
                continue
            peer = self.router.lookup(destination)
            if peer is None:
                self.counters["dropped_no_route"] += 1
            else:
                batches.setdefault(peer, []).append(frame)
        self.counters["read_packets"] += count
        return batches

    def write_frames(self, peer: str, frames: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Write a peer's frames (virtio header and packet each) to the device: packets and bytes that were taken."""
        packets = size = 0
        allows = self.router.allows
        for frame in frames:
            try:
                virtio.check_untrusted(frame, takes_udp=self._takes_udp)
                source, _ = addresses_untrusted(frame[VIRTIO_HEADER : VIRTIO_HEADER + 40])
            except UntrustedDataError:
                self.counters["refused_malformed"] += 1
                continue
            if not allows(peer, source):
                self.counters["refused_source"] += 1
                continue
            try:
                os.write(self._descriptor, frame)
            except OSError:
                # EINVAL for a header that the kernel does not like, EAGAIN where it has no room: a lost packet
                self.counters["refused_by_device"] += 1
                continue
            packets += 1
            size += len(frame) - VIRTIO_HEADER
        self.counters["written_packets"] += packets
        return packets, size


def plain_frames(packets: Sequence[bytes]) -> list[bytes]:
    """Frames of plain packets."""
    return [bytes(VIRTIO_HEADER) + packet for packet in packets]
