"""The path over streams, on memory streams."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from edgevpn.errors import EdgevpnError
from edgevpn.fast_stream import FastStream
from edgevpn.proto.packet_stream import HELLO_SIZE, PLAIN, TAKES_TCP, TAKES_UDP, Hello, PacketDecoder, write_hello
from edgevpn.proto.protocols import EDGEVPN_PACKETS, PACKET_STREAM
from edgevpn.tun.path import MAX_QUEUE
from edgevpn.tun.stream_path import Stream, StreamPath
from tests.unit.test_virtio import TCP, frame_of, verify

OURS = Hello(TAKES_TCP | TAKES_UDP, 1420)


class Lab:
    """A path whose dials end at `theirs`, newest last."""

    def __init__(self, protocol: str = PACKET_STREAM) -> None:
        self.protocol = protocol
        self.theirs: list[trio.StapledStream] = []
        self.received: list[bytes] = []
        self.complaints: list[str] = []
        self.refuse = False
        self.path = StreamPath(self._dial, self._receive, OURS, self.complaints.append)

    async def _dial(self) -> tuple[str, Stream]:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            raise EdgevpnError("not connected")
        ours, theirs = trio.testing.memory_stream_pair()
        self.theirs.append(theirs)
        return self.protocol, ours

    def _receive(self, frames: Sequence[bytes | memoryview]) -> tuple[int, int]:
        self.received += [bytes(frame) for frame in frames]
        return len(frames), sum(map(len, frames))


async def read(stream: trio.StapledStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


async def test_frames_go_out_on_one_stream_after_a_hello(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    frames = [frame_of(4, TCP, bytes(n), 2000) for n in (10, 20)]
    lab.path.send(frames)
    await trio.testing.wait_all_tasks_blocked()
    assert lab.path.kind == "stream"
    assert await read(lab.theirs[0], HELLO_SIZE) == write_hello(OURS)
    got = PacketDecoder().feed_untrusted(await lab.theirs[0].receive_some())
    assert [bytes(frame) for frame in got] == frames
    lab.path.send(frames)
    await trio.testing.wait_all_tasks_blocked()
    assert len(lab.theirs) == 1
    assert lab.path.stats.sent_packets == 4


async def test_super_packets_are_cut_until_the_peer_said_that_it_takes_them(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    big = frame_of(4, TCP, bytes(3000), 1000)
    lab.path.send([big])
    await trio.testing.wait_all_tasks_blocked()
    await read(lab.theirs[0], HELLO_SIZE)
    got = PacketDecoder().feed_untrusted(await lab.theirs[0].receive_some())
    assert b"".join(verify(bytes(frame[10:])) for frame in got) == bytes(3000)
    await lab.theirs[0].send_all(write_hello(OURS))
    await trio.testing.wait_all_tasks_blocked()
    lab.path.send([big])
    await trio.testing.wait_all_tasks_blocked()
    assert [bytes(f) for f in PacketDecoder().feed_untrusted(await lab.theirs[0].receive_some())] == [big]


async def test_a_go_node_gets_plain_packets(nursery: trio.Nursery) -> None:
    lab = Lab(EDGEVPN_PACKETS)
    nursery.start_soon(lab.path.run)
    lab.path.send([frame_of(6, TCP, bytes(2500), 1000)])
    await trio.testing.wait_all_tasks_blocked()
    assert lab.path.kind == "edgevpn-stream"
    data = await lab.theirs[0].receive_some()
    assert data[0] >> 4 == 6
    await lab.theirs[0].send_all(data)
    await trio.testing.wait_all_tasks_blocked()
    assert [frame[:10] for frame in lab.received] == [PLAIN] * 3
    assert b"".join(verify(frame[10:]) for frame in lab.received) == bytes(2500)


async def test_a_stream_that_the_peer_dialled_is_used_for_answers(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(lab.path.adopt, PACKET_STREAM, ours)
    await theirs.send_all(write_hello(OURS))
    await trio.testing.wait_all_tasks_blocked()
    lab.path.send([frame_of(4, TCP, b"x", 100)])
    await trio.testing.wait_all_tasks_blocked()
    assert lab.theirs == []
    assert len(await theirs.receive_some()) > HELLO_SIZE


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", write_hello(OURS) + b"\xff" * 20])
async def test_garbage_ends_its_stream_and_the_path_goes_on(nursery: trio.Nursery, garbage: bytes) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(lab.path.adopt, PACKET_STREAM, ours)
    await theirs.send_all(garbage)
    await trio.testing.wait_all_tasks_blocked()
    assert len(lab.complaints) == 1
    lab.path.send([frame_of(4, TCP, b"x", 100)])
    await trio.testing.wait_all_tasks_blocked()
    assert len(lab.theirs) == 1


async def test_a_broken_stream_is_dialled_again(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    frame = frame_of(4, TCP, b"x", 100)
    lab.path.send([frame])
    await trio.testing.wait_all_tasks_blocked()
    await lab.theirs[0].aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert lab.path.kind == "none"
    lab.path.send([frame])
    await trio.testing.wait_all_tasks_blocked()
    assert len(lab.theirs) == 2


async def test_a_peer_that_resets_what_we_dialled_before_a_byte_went_ends_just_that(nursery: trio.Nursery) -> None:
    lab = Lab()
    dialled = []

    async def dial() -> tuple[str, Stream]:
        await trio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()  # on a real socket the first write fails at once, before whoever reads has begun
        dialled.append(FastStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours))))
        return PACKET_STREAM, dialled[-1]

    path = StreamPath(dial, lab._receive, OURS, lab.complaints.append)
    nursery.start_soon(path.run)
    for number in range(1, 4):
        path.send([frame_of(4, TCP, b"x", 100)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(dialled) == path.stats.dropped == number
        assert path.kind == "none"
    assert lab.complaints == []


async def test_a_stream_that_the_peer_dialled_and_reset_at_once_ends_just_that(nursery: trio.Nursery) -> None:
    lab = Lab()
    nursery.start_soon(lab.path.run)
    ours, theirs = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(theirs)
    await lab.path.adopt(PACKET_STREAM, ours)
    lab.path.send([frame_of(4, TCP, b"x", 100)])
    await trio.testing.wait_all_tasks_blocked()
    assert len(lab.theirs) == 1


async def test_what_can_not_be_sent_is_dropped_and_counted(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    lab = Lab()
    lab.refuse = True
    nursery.start_soon(lab.path.run)
    frame = frame_of(4, TCP, bytes(1000), 2000)
    lab.path.send([frame] * 10)
    await trio.sleep(0.01)
    assert lab.path.stats.dropped == 10
    assert lab.path.queued_bytes == 0
    lab.refuse = False
    await trio.sleep(5)  # the pause after a failure
    lab.path.send([frame])
    await trio.sleep(0.01)
    assert len(lab.theirs) == 1


def test_a_full_queue_drops_the_newest() -> None:
    lab = Lab()
    frame = bytes(60_000)
    lab.path.send([frame] * 100)
    assert lab.path.queued_bytes <= MAX_QUEUE
    assert lab.path.stats.dropped == 100 - lab.path.queued_bytes // 60_000
