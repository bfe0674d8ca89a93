"""What comes from the device: datagrams joined on the way, large packets queued by flow. Two engines on loopback."""

from __future__ import annotations

import random
import select
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from edgevpn.proto.ip import TCP, UDP, checksum
from edgevpn.proto.packet_stream import VIRTIO_HEADER
from edgevpn.tun import virtio
from edgevpn.tun.fair_queue import INTERVAL, MAX_BYTES, MAX_PACKETS, QUANTUM, TARGET, Codel, FairQueue, flow_of, mark
from edgevpn.tun.pump import Pump
from edgevpn.tun.router import Router
from tests.unit.test_narrow_way import MTU, Side, pair
from tests.unit.test_virtio import frame_of, verify

SUPER = 40_000


class Sending:
    """A pump whose device is a socket, and the other side of its path."""

    def __init__(self, one: Side, two: Side) -> None:
        self.two = two
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.kernel.setblocking(False)
        device.setblocking(False)
        self.device = device
        self.streamed: list[bytes] = []
        self.pump = Pump(device.fileno(), {}, lambda _, frames: self.streamed.extend(frames), engine=one.engine)
        self.pump.router = Router({"10.1.0.2": "two", "fd42::2": "two"})

    def put(self, frames: Sequence[bytes]) -> int:
        """As many of the frames as the device's queue has room for."""
        for number, frame in enumerate(frames):
            try:
                self.kernel.send(frame)
            except BlockingIOError:
                return number
        return len(frames)

    def move(self) -> list[bytes]:
        """The packets that come out at the other side."""
        self.two.frames.clear()
        while select.select([self.device], [], [], 0)[0]:  # as the packet thread does
            self.pump.on_readable()
        while self.pump.on_timer() is not None:  # without a pause: what waits long is dropped
            pass
        self.two.take()
        return [packet for frame in self.two.frames for packet in virtio.segment(frame)]


@contextmanager
def sending() -> Iterator[Sending]:
    with pair(MTU) as (one, two):
        link = one.engine.links["two"]
        assert link.sending is not None
        link.sending.takes |= 8  # SEVERAL
        made = Sending(one, two)
        try:
            yield made
        finally:
            made.kernel.close()
            made.device.close()


def datagram(version: int, port: int, payload: bytes, ident: int = 7, flags: int = 0x40) -> bytes:
    """A frame with one UDP packet from the kernel: the checksum is of the pseudo-header only."""
    frame = bytearray(frame_of(version, UDP, payload, 9000))
    start = VIRTIO_HEADER + (20 if version == 4 else 40)
    frame[start : start + 2] = port.to_bytes(2, "big")
    if version == 4:
        frame[14:16] = ident.to_bytes(2, "big")
        frame[16] = flags
        frame[20:22] = b"\0\0"
        frame[20:22] = checksum(bytes(frame[10:30])).to_bytes(2, "big")
    return bytes(frame)


def by_flow(packets: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """Payloads, every checksum verified, in their order, by flow."""
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for packet in packets:
        found[flow_of(bytes(VIRTIO_HEADER) + packet)].append(verify(packet))
    return dict(found)


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_one_flow_travel_together_and_arrive_as_they_were(version: int) -> None:
    with sending() as lab:
        bodies = [random.Random(i).randbytes(100) for i in range(200)]
        frames = [datagram(version, 1000, body, ident=65500 + i & 0xFFFF) for i, body in enumerate(bodies)]
        assert lab.put(frames) == 200
        assert list(map(verify, lab.move())) == bodies
        assert len(lab.two.frames) < 12
        assert lab.pump.counters["read_packets"] == 200
        assert sum(lab.two.engine.opener.counters.values()) == 0


def test_what_is_sent_in_a_turn_is_little_so_that_the_device_is_asked_often() -> None:
    with sending() as lab:
        assert lab.put([frame_of(4, TCP, bytes(SUPER), 1372)] * 12) == 12
        lab.pump.on_readable()
        assert lab.pump.queue.count > 6


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([4, 6]),
            st.integers(1, 3),  # flow
            st.sampled_from([1, 2, 100, 100, 100, 101, 700, 1372]),
            st.integers(1, 20),  # as many of them
            st.sampled_from([0x40, 0x40, 0]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_whatever_comes_each_packet_arrives_once_and_in_its_flows_order(
    plan: list[tuple[int, int, int, int, int]], shuffled: bool
) -> None:
    chance = random.Random(len(plan))
    frames = [
        datagram(version, port, chance.randbytes(size), chance.randrange(65536), flags)
        for version, port, size, count, flags in plan
        for _ in range(count)
    ]
    if shuffled:
        chance.shuffle(frames)
    with sending() as lab:
        assert lab.put(frames) == len(frames)
        wanted = by_flow([packet for frame in frames for packet in virtio.segment(frame)])
        assert by_flow(lab.move()) == wanted


def test_a_datagram_beside_super_packets_does_not_wait_for_all_of_them() -> None:
    with sending() as lab:
        bulk = [frame_of(4, TCP, bytes([i]) * SUPER, 1000) for i in range(12)]
        assert lab.put([*bulk, datagram(4, 53, b"small")]) == 13
        packets = lab.move()
        place = [packet[9] for packet in packets].index(UDP)
        assert place < 5 * 40  # of 12 x 40
        bulk_out = b"".join(verify(one) for one in packets if one[9] == TCP)
        assert bulk_out == b"".join(bytes([i]) * SUPER for i in range(12))
        assert lab.pump.queue.dropped == 0
        assert lab.pump.queue.count == lab.pump.queue.size == 0


def test_flows_of_super_packets_take_turns() -> None:
    with sending() as lab:
        flows = []
        for port in (1, 2):
            frame = bytearray(frame_of(4, TCP, bytes([port]) * SUPER, 1000))
            frame[30:32] = port.to_bytes(2, "big")
            flows += [bytes(frame)] * 8
        assert lab.put(flows) == 16
        order = [packet[-1] for packet in lab.move()]
        assert len(order) == 16 * 40
        assert 2 in order[: 5 * 40]
        assert 1 in order[8 * 40 :]


def test_what_is_for_a_stream_goes_there_whole_and_in_order() -> None:
    with sending() as lab:
        lab.pump._engine.live.clear()  # type: ignore[union-attr]
        frames = [datagram(4, 5, bytes(100)), frame_of(4, TCP, bytes(SUPER), 1000), datagram(4, 5, b"last")]
        assert lab.put(frames) == 3
        assert lab.move() == []
        assert sorted(lab.streamed) == sorted(frames)


# --- the queue by itself


def frame_from(port: int, size: int = 1000, *, ecn: int = 0) -> bytearray:
    frame = bytearray(frame_of(4, TCP, bytes(size), 5000))
    frame[30:32] = port.to_bytes(2, "big")
    frame[11] = ecn
    frame[20:22] = b"\0\0"
    frame[20:22] = checksum(bytes(frame[10:30])).to_bytes(2, "big")
    return frame


def drive(queue: FairQueue, seconds: float, make: Callable[[], bytearray], load: float) -> tuple[int, float]:
    """Push `load` frames for each that is popped, one in 0.1 ms; how many came out, the longest wait at the end."""
    now, due, out, waits = 100.0, 0.0, 0, []
    while now < 100 + seconds:
        due += load
        while due >= 1:
            frame = make()
            queue.push(flow_of(frame), f"{now}", frame, len(frame), now)
            due -= 1
        found = queue.pop(now)
        if found is not None:
            out += 1
            if now > 100 + seconds - 0.2:
                waits.append(now - float(found[0]))
        now += 0.0001
    return out, max(waits, default=0.0)


def test_a_queue_that_stays_is_cut_and_one_that_goes_is_not() -> None:
    queue = FairQueue()
    assert drive(queue, 1.0, lambda: frame_from(1), 0.9)[1] < TARGET
    assert queue.dropped == 0
    queue = FairQueue()
    out, _ = drive(queue, 2.0, lambda: frame_from(1), 1.02)
    assert queue.dropped > 20
    assert out > 19_000


def test_a_flow_that_knows_ecn_is_marked_instead() -> None:
    queue = FairQueue()
    marked = 0
    for i in range(3000):
        now = 100 + i * 0.001
        frame = frame_from(1, ecn=2)
        queue.push(flow_of(frame), "", frame, len(frame), now)
        queue.push(flow_of(frame), "", frame_from(1, ecn=2), len(frame), now)
        found = queue.pop(now)
        assert found is not None
        if found[1][11] & 3 == 3:
            marked += 1
            verify(virtio.segment(bytes(found[1]))[0])  # the header's checksum is right again
        if queue.size > MAX_BYTES // 2:
            break
    assert marked == queue.marked > 10
    assert queue.dropped == 0


def test_ipv6_is_marked_too() -> None:
    frame = bytearray(frame_of(6, TCP, bytes(100), 1000))
    assert not mark(frame)
    frame[11] |= 0x10
    assert mark(frame)
    assert frame[11] & 0x30 == 0x30


def test_the_queue_is_bounded_and_the_longest_flow_pays() -> None:
    queue = FairQueue()
    small = frame_from(9, 10)
    queue.push(flow_of(small), "", small, len(small), 0.0)
    for _ in range(MAX_BYTES // 50_000 + 20):
        frame = frame_from(1, 50_000)
        queue.push(flow_of(frame), "", frame, len(frame), 0.0)
        assert queue.size <= MAX_BYTES
    assert queue.dropped > 0
    assert len(queue.freed) == queue.dropped
    assert any(len(found[1]) == len(small) for found in iter(lambda: queue.pop(0.0), None))
    for i in range(MAX_PACKETS + 100):
        frame = frame_from(i % 5000, 1)
        queue.push(flow_of(frame), "", frame, len(frame), 0.0)
        assert queue.count <= MAX_PACKETS
    while queue.pop(0.0):
        pass
    assert (queue.count, queue.size, len(queue._flows)) == (0, 0, 0)


def test_a_new_flow_is_served_before_those_that_have_waited() -> None:
    queue = FairQueue()
    for _ in range(10):
        queue.push(b"bulk", "bulk", bytearray(QUANTUM), QUANTUM, 0.0)
    assert queue.pop(0.0)[0] == "bulk"  # type: ignore[index]
    queue.push(b"ping", "ping", bytearray(100), 100, 0.0)
    assert queue.pop(0.0)[0] == "ping"  # type: ignore[index]


def test_codel_lets_bursts_pass() -> None:
    codel = Codel()
    now = 50.0
    for _ in range(20):  # 20 ms above, then empty
        assert not codel.wants_drop(10 * TARGET, now, is_last=False)
        now += 0.001
    assert not codel.wants_drop(10 * TARGET, now, is_last=True)
    now += INTERVAL
    assert not codel.wants_drop(10 * TARGET, now, is_last=False)


def test_nothing_waits_when_there_is_one_packet_at_a_time() -> None:
    with sending() as lab:
        for i in range(5):
            body = bytes([i]) * SUPER
            assert lab.put([frame_of(4, TCP, body, 1000)]) == 1
            began = time.monotonic()
            assert b"".join(map(verify, lab.move())) == body
            assert time.monotonic() - began < 5
            assert lab.pump._spare == [] or len(lab.pump._spare) == 1


def test_after_a_small_packet_the_device_is_asked_at_once() -> None:
    """What the kernel answers is there when the write returns."""
    with sending() as lab:
        asked: list[int] = []
        lab.two.engine.on_small = lambda _: asked.append(len(lab.two.frames))
        assert lab.put([datagram(4, 7, b"ping")]) == 1
        assert len(lab.move()) == 1
        assert asked == [1]
        assert lab.put([frame_of(4, TCP, bytes(SUPER), 1000)]) == 1
        assert len(lab.move()) == 40
        assert asked == [1]
