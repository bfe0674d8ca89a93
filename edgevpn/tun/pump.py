"""Between the TUN device and the paths: the loop that every packet passes.

Out: read what there is, look each packet's peer up, send it. A large frame that is not alone waits in a queue of its
flow (edgevpn/tun/fair_queue.py), and while any waits all do: the device's own queue is read before each few of them are
sent, so it is always short, and the order in which packets go is ours to choose. Datagrams that look alike are joined
(edgevpn/tun/udp_run.py). When much comes it waits a moment first (edgevpn/tun/pace.py). In: check that the peer may use
the packet's source, write it to the device. Both run in the packet thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import readv, write
from time import monotonic, sleep

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.ip import IPV4_HEADER, IPV6_HEADER
from edgevpn.proto.packet_stream import MAX_FRAME, TAKES_UDP, VIRTIO_HEADER
from edgevpn.tun import virtio
from edgevpn.tun.datagram_engine import DatagramEngine
from edgevpn.tun.fair_queue import FairQueue, flow_of
from edgevpn.tun.lone import APART, send_lone
from edgevpn.tun.pace import Pace
from edgevpn.tun.path import Path
from edgevpn.tun.router import Router
from edgevpn.tun.udp_run import UdpRun

BATCH_BYTES = 3 << 20  # all that the device has, or what stays there waits unseen
BATCH_PACKETS = 256
SERVED_BYTES = 100_000  # sent before the device is asked again
_OFTEN = 64  # packets in a spell; who waits for each answer sends fewer
_LARGE = 4096  # bytes of a frame that takes time
_LEAST = VIRTIO_HEADER + IPV4_HEADER
_SPARE = 48  # buffers
_TO_IPV4, _TO_IPV6 = slice(26, 30), slice(34, 50)  # of a frame: where it goes
_FROM_IPV4, _FROM_IPV6 = slice(22, 26), slice(18, 34)
_PLAIN_IPV4 = 0, 0, 0x45  # flags, kind of offload; version and header length


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
        self._into = [self._buffer]
        self._run = UdpRun(self._buffer)
        self.queue = FairQueue()
        self._spare: list[bytearray] = []
        self._batches: dict[str, list[bytes]] = {}  # for streams, of this turn
        self._turn_at = 0.0
        self._pace = Pace(_OFTEN)  # of what goes out
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

    # --- out

    def on_readable(self) -> None:
        """Take in what the device has. Called by the packet thread, again while there is more."""
        now = monotonic()
        before, self._turn_at = self._turn_at, now
        if now - before < APART:
            pause = self._pace.pause
            if pause and not self.queue.count:
                sleep(pause)
            self._take_in(0)
        else:
            self.on_answer(now)

    def on_answer(self, now: float) -> None:
        """Take in what is likely to be one packet, for example the answer to what was just written: the short way."""
        engine = self._engine
        if engine is None or self.queue.count:
            self._take_in(0)
            return
        try:
            length = readv(self._descriptor, self._into)
        except BlockingIOError:
            return
        frame = self._buffer
        if _LEAST <= length <= _LARGE and not frame[1]:
            at = _TO_IPV4 if frame[VIRTIO_HEADER] >> 4 == 4 else _TO_IPV6
            link = engine.live.get(self.router.machines.get(bytes(frame[at]), ""))
            if link is not None and send_lone(engine, link, length, now):
                self.counters["read_packets"] += 1
                return
        self._take_in(length)

    def _take_in(self, length: int) -> None:
        """A batch from the device, of which the first `length` bytes, if any, were read."""
        self._read(length)
        self._serve()
        if self._engine is not None:
            self._engine.flush()
        if self._batches:
            batches, self._batches = self._batches, {}
            for peer, frames in batches.items():
                if self._engine is not None:
                    self._engine.wanted(peer)
                path = self._paths.get(peer)
                if path is None:
                    self._unknown(peer, frames)
                else:
                    path.send(frames)

    def on_timer(self) -> float | None:
        """Go on with what waits. Called by the packet thread each turn."""
        if not self.queue.count:
            return None
        self._take_in(0)
        return 0.0 if self.queue.count else None

    def _read(self, odd: int) -> None:
        """What the device has now: send it, or have it wait. `odd`: bytes of a frame that is in the buffer.

        The first large frame stays where it was read, and is sent when all that came with it is in the queue.
        """
        held = size = count = 0
        descriptor, into, queue = self._descriptor, self._into, self.queue
        try:
            while size < BATCH_BYTES and count < BATCH_PACKETS:
                if odd:
                    length, odd = odd, 0
                elif held or queue.count:
                    if not self._spare:
                        self._spare.append(bytearray(MAX_FRAME))
                    length = readv(descriptor, [self._spare[-1]])
                    self._wait(self._spare.pop(), length)
                    size, count = size + length, count + 1
                    continue
                else:
                    length = readv(descriptor, into)
                size, count = size + length, count + 1
                if length > _LARGE and self._engine is not None:
                    held = length
                    continue
                peer = self._peer_of(self._buffer, length)
                if peer is None:
                    continue
                length, odd, more = self._join(peer, length)
                count += more
                if more:
                    self._send(length)
                else:
                    self._send_to(peer, length)
                if count == 1 and self._engine is not None:  # what comes now and then is not kept for company
                    self._engine.flush()
                if odd:
                    self._run.odd(odd)
        except BlockingIOError:
            pass
        if held:
            self._send(held)
        if odd:  # it is in the buffer
            count += 1
            self._send(odd)
        self.counters["read_packets"] += count
        if count:
            self._pace.note(count, size, monotonic())

    def _join(self, peer: str, length: int) -> tuple[int, int, int]:
        """Join what is in the buffer, for `peer`, with what follows, if they look alike.

        (the frame's length now, that of the next one if it was read, too, how many were read more)
        """
        run, engine = self._run, self._engine
        if engine is None or not run.follows(length):
            return length, 0, 0
        link = engine.live.get(peer)
        if link is None or link.sending is None or not link.sending.takes & TAKES_UDP:
            return length, 0, 0
        length, odd, others = run.read(self._descriptor, length)
        if others:
            last = bytes(self._buffer[:length])
            for frame in others:
                self._buffer[: len(frame)] = frame
                self._send(len(frame))
            self._buffer[:length] = last
        return length, odd, run.count - 1

    def _peer_of(self, frame: memoryview | bytearray, length: int) -> str | None:
        """Where a frame goes; None, counted, if there is no such place."""
        engine = self._engine
        destination = b""
        if length >= VIRTIO_HEADER + IPV4_HEADER and frame[VIRTIO_HEADER] >> 4 == 4:
            destination = bytes(frame[26:30])
        elif length >= VIRTIO_HEADER + IPV6_HEADER and frame[VIRTIO_HEADER] >> 4 == 6:
            destination = bytes(frame[34:50])
        peer = self.router.lookup(destination) if destination else None
        if peer is None:
            self.counters["dropped_no_route"] += 1
        elif engine is not None and not self.router.is_machine(destination) and engine.is_own(frame[:length]):
            self.counters["own_datagrams_dropped"] += 1  # a route leads the tunnel into itself
            return None
        return peer

    def _send(self, length: int) -> None:
        """Send what is in the buffer."""
        peer = self._peer_of(self._buffer, length)
        if peer is not None:
            self._send_to(peer, length)

    def _send_to(self, peer: str, length: int) -> None:
        engine = self._engine
        link = engine.live.get(peer) if engine is not None else None
        if link is None or engine is None or not engine.send(link, length):
            self._batches.setdefault(peer, []).append(bytes(self._buffer[:length]))

    # --- what waits

    def _wait(self, buffer: bytearray, length: int) -> None:
        peer = self._peer_of(buffer, length)
        if length <= _LARGE or peer is None:
            self._spare.append(buffer)
        if peer is None:
            return
        now = monotonic()
        if length <= _LARGE:
            buffer = buffer[:length]
        self.queue.push(flow_of(buffer), peer, buffer, length, now)

    def _serve(self) -> None:
        """Send some of what waits."""
        queue, sent = self.queue, 0
        while sent < SERVED_BYTES:
            found = queue.pop(monotonic())
            if found is None:
                break
            peer, buffer, length = found
            self._buffer[:length] = memoryview(buffer)[:length]
            sent += length
            self._send_to(peer, length)
            self._keep(buffer)
        while queue.freed:
            self._keep(queue.freed.pop())

    def _keep(self, buffer: bytearray) -> None:
        """For the next frame."""
        if len(buffer) == MAX_FRAME and len(self._spare) < _SPARE:
            self._spare.append(buffer)

    # --- in

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
        counters, size = self.counters, len(frame)
        if (
            size < _LEAST
            or (frame[0], frame[1], frame[10]) != _PLAIN_IPV4
            or frame[12] << 8 | frame[13] != size - VIRTIO_HEADER
        ):  # else it is known to be fine
            try:
                virtio.check_untrusted(frame, takes_udp=self._takes_udp)
                if size < VIRTIO_HEADER + IPV6_HEADER and frame[VIRTIO_HEADER] >> 4 == 6:
                    raise UntrustedDataError("a packet is shorter than its header")
            except UntrustedDataError:
                counters["refused_malformed"] += 1
                return False
        source = bytes(frame[_FROM_IPV4 if frame[VIRTIO_HEADER] >> 4 == 4 else _FROM_IPV6])
        router = self.router
        if router.machines.get(source) != peer and not router.allows(peer, source):
            counters["refused_source"] += 1
            return False
        try:
            write(self._descriptor, frame)
        except OSError:
            # EINVAL for a header that the kernel does not like, EAGAIN where it has no room: a lost packet
            counters["refused_by_device"] += 1
            return False
        counters["written_packets"] += 1
        return True


def plain_frames(packets: Sequence[bytes]) -> list[bytes]:
    """Frames of plain packets."""
    return [bytes(VIRTIO_HEADER) + packet for packet in packets]
