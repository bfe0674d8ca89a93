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
from edgevpn.tun.datagram_engine import DatagramEngine
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
        engine: DatagramEngine | None = None,
    ) -> None:
        """`paths`: by peer. `unknown` is given what is for a peer that has no path yet.

        With an `engine` frames are read into its buffer, and go its way to the peers it reaches.
        """
        self._descriptor = descriptor
        self._paths = paths
        self._unknown = unknown
        self._takes_udp = takes_udp
        self._engine = engine
        self._buffer = memoryview(bytearray(MAX_FRAME)) if engine is None else engine.sealer.frame
        self.router = Router({})
        self.counters = {
            "read_packets": 0,
            "written_packets": 0,
            "dropped_no_route": 0,
            "own_datagrams_dropped": 0,
            "refused_source": 0,
            "refused_malformed": 0,
            "refused_by_device": 0,
        }

    def on_readable(self) -> None:
        """Take in a batch from the device. Called by the packet thread, again while there is more."""
        batches = self._read_batch()
        if self._engine is not None:
            self._engine.flush()
        for peer, frames in batches.items():
            if self._engine is not None:
                self._engine.wanted(peer)
            path = self._paths.get(peer)
            if path is None:
                self._unknown(peer, frames)
            else:
                path.send(frames)

    def _read_batch(self) -> dict[str, list[bytes]]:
        """What the device has now for streams, by peer. What can go as datagrams goes at once."""
        batches: dict[str, list[bytes]] = {}
        size = count = 0
        buffer, into, engine = self._buffer, [self._buffer], self._engine
        live = engine.live if engine is not None else {}
        while size < BATCH_BYTES and count < BATCH_PACKETS:
            try:
                length = os.readv(self._descriptor, into)
            except BlockingIOError:
                break
            count += 1
            size += length
            try:
                _, destination = addresses_untrusted(buffer[VIRTIO_HEADER : min(length, VIRTIO_HEADER + 40)])
            except UntrustedDataError:
                self.counters["dropped_no_route"] += 1
                continue
            peer = self.router.lookup(destination)
            if peer is None:
                self.counters["dropped_no_route"] += 1
                continue
            if engine is not None and not self.router.is_machine(destination) and engine.is_own(buffer[:length]):
                self.counters["own_datagrams_dropped"] += 1  # a route leads the tunnel into itself
                continue
            link = live.get(peer)
            if link is None or engine is None or not engine.send(link, length):
                batches.setdefault(peer, []).append(bytes(buffer[:length]))
        self.counters["read_packets"] += count
        return batches

    def write_frames(self, peer: str, frames: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Write a peer's frames (virtio header and packet each) to the device: packets and bytes that were taken."""
        packets = size = 0
        for frame in frames:
            if self.write_frame(peer, frame):
                packets += 1
                size += len(frame) - VIRTIO_HEADER
        return packets, size

    def write_frame(self, peer: str, frame: bytes | memoryview) -> bool:
        """Write one; whether it was taken."""
        counters = self.counters
        try:
            virtio.check_untrusted(frame, takes_udp=self._takes_udp)
            source, _ = addresses_untrusted(frame[VIRTIO_HEADER : VIRTIO_HEADER + 40])
        except UntrustedDataError:
            counters["refused_malformed"] += 1
            return False
        if not self.router.allows(peer, source):
            counters["refused_source"] += 1
            return False
        try:
            os.write(self._descriptor, frame)
        except OSError:
            # EINVAL for a header that the kernel does not like, EAGAIN where it has no room: a lost packet
            counters["refused_by_device"] += 1
            return False
        counters["written_packets"] += 1
        return True


def plain_frames(packets: Sequence[bytes]) -> list[bytes]:
    """Frames of plain packets."""
    return [bytes(VIRTIO_HEADER) + packet for packet in packets]
