"""The short way of a packet that comes alone comes to the same as the long one: two engines on loopback sockets."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterator

import pytest

from edgevpn.cli.traffic import BESIDE, rows_of
from edgevpn.proto.datagram_repair import CODES, REPAIRS
from edgevpn.proto.messages import Paths, Traffic
from edgevpn.proto.packet_stream import PLAIN, TAKES_TCP, TAKES_UDP
from edgevpn.tun import lone
from edgevpn.tun.datagram_engine import ALL, LEFT, TAKEN, Lone
from edgevpn.tun.datagram_link import Session
from edgevpn.tun.pump import Pump
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.router import Router
from tests.unit.test_narrow_way import MTU, Side, narrow, pair
from tests.unit.test_virtio import make


def frame(size: int = 60) -> bytes:
    return PLAIN + make(4, 17, random.Random(size).randbytes(size))


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side, list[bool]]]:
    """Two engines, and what became of each try to receive by the short way."""
    tries: list[bool] = []

    def watched(*args: object) -> Lone:
        became = lone.receive_lone(two.engine, *args)  # type: ignore[arg-type]
        tries.append(became is not LEFT)
        return became

    with pair(MTU) as (one, two):
        one.send(frame())  # the first makes the session the one to answer with
        two.take()
        two.frames.clear()
        two.engine.take_lone = watched
        yield one, two, tries


def send(side: Side, data: bytes) -> bool:
    side.engine.sealer.frame[: len(data)] = data
    (link,) = side.engine.links.values()
    return lone.send_lone(side.engine, link, len(data), time.monotonic())


def session_of(side: Side) -> Session:
    ((_, session),) = side.engine.sessions.values()
    return session


def test_a_packet_alone_arrives_and_is_counted(sides: tuple[Side, Side, list[bool]]) -> None:
    one, two, tries = sides
    answered: list[int] = []
    two.engine.on_small = lambda _: answered.append(len(two.frames))
    before = two.engine.links["one"].stats.received_packets
    for size in (1, 60, 200, 1000):
        assert send(one, frame(size))
        two.take()
        assert two.frames == [frame(size)]
        assert answered == [1]  # asked for the answer when the packet had been written
        two.frames.clear()
        answered.clear()
    assert tries == [True] * 3  # a large one may stand behind a hole
    assert two.engine.links["one"].stats.received_packets == before + 4
    assert sum(two.engine.opener.counters.values()) == 0


def test_no_other_is_looked_for_after_a_pause_unless_one_is_missing() -> None:
    became: list[Lone] = []

    def watched(*args: object) -> Lone:
        became.append(lone.receive_lone(two.engine, *args))  # type: ignore[arg-type]
        return became[-1]

    def after(pause: float, *, lost: int = 0) -> Lone:
        two.engine.now = time.monotonic() - pause
        session_of(one).send.train += lost
        assert send(one, frame())
        two.take()
        return became[-1]

    with pair(MTU, flags=TAKES_TCP | TAKES_UDP | REPAIRS | CODES, repairs=True) as (one, two):
        one.send(frame())
        two.take()
        two.engine.take_lone = watched
        two.engine._gathering = True  # since many came, before the pause
        assert after(1.0) is ALL
        assert not two.engine._gathering
        assert after(0.0) is TAKEN
        assert after(1.0) is ALL
        assert after(1.0, lost=1) is TAKEN
        assert len(two.frames) == 5


def test_a_copy_of_it_is_refused_and_a_forged_one_counted_once(sides: tuple[Side, Side, list[bool]]) -> None:
    one, two, tries = sides
    assert send(one, frame())
    sock = two.sockets[socket.AF_INET]
    assert select.select([sock], [], [], 1)[0]
    datagram = sock.recv(2048, socket.MSG_PEEK)
    two.take()
    assert len(two.frames) == 1
    own = one.sockets[socket.AF_INET]
    own.sendto(datagram, two.address)
    two.take()
    assert two.engine.opener.counters["datagrams_replayed"] == 1
    forged = bytearray(datagram)
    forged[9] += 1  # a later train
    own.sendto(forged, two.address)
    two.take()
    assert two.engine.opener.counters["datagrams_forged"] == 1
    assert tries == [True, False, True]
    assert len(two.frames) == 1
    assert send(one, frame())  # the forged number is not taken
    two.take()
    assert len(two.frames) == 2


def test_a_stranger_s_datagram_and_one_from_elsewhere_go_the_long_way(sides: tuple[Side, Side, list[bool]]) -> None:
    one, two, tries = sides
    one.sockets[socket.AF_INET].sendto(bytes(100), two.address)
    two.take()
    assert two.engine.opener.counters["datagrams_unknown"] == 1
    assert send(one, frame())
    sock = two.sockets[socket.AF_INET]
    assert select.select([sock], [], [], 1)[0]
    datagram = sock.recv(2048)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:  # the peer's address has changed
        other.sendto(datagram, two.address)
        two.take()
    assert two.frames == [frame()]
    assert tries == [False, False]


def test_a_control_message_that_comes_first_is_answered(sides: tuple[Side, Side, list[bool]]) -> None:
    one, two, tries = sides
    (link,) = one.engine.links.values()
    link.look(time.monotonic())
    one.engine.tick()
    two.take()
    assert tries
    assert all(tries)
    before = link.last_received
    one.take()
    assert link.last_received > before
    assert two.frames == []


def test_a_narrow_way_is_not_for_the_short_one(sides: tuple[Side, Side, list[bool]]) -> None:
    one, _, _ = sides
    narrow(one)
    train = session_of(one).send.train
    assert not send(one, frame())
    assert session_of(one).send.train == train


def test_after_a_pause_the_device_s_packet_is_sent_the_short_way(sides: tuple[Side, Side, list[bool]]) -> None:
    one, two, tries = sides
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        device.setblocking(False)
        streamed: list[bytes] = []
        pump = Pump(device.fileno(), {}, lambda _, frames: streamed.extend(frames), engine=one.engine)
        first = frame()
        pump.router = Router({".".join(map(str, first[26:30])): "two"})
        kernel.send(first)
        kernel.send(frame(70))
        pump.on_readable()
        two.take()
        assert two.frames == [first]
        assert tries == [True]
        pump.on_readable()  # at once: there may be more, so the long way
        two.take()
        assert two.frames == [first, frame(70)]
        assert pump.counters["read_packets"] == 2
        elsewhere = bytearray(first)
        elsewhere[26:30] = bytes((203, 0, 113, 1))
        kernel.send(elsewhere)
        pump.on_answer(time.monotonic())
        assert pump.counters["dropped_no_route"] == 1
        pump.on_answer(time.monotonic())  # there is nothing
    assert streamed == []


def test_what_went_alone_is_kept_for_repair_as_anything() -> None:
    sender = RepairSender(1200, 0.02)
    assert sender.on_lone(7, memoryview(b"sealed"), 1.0)
    (kept,) = sender._kept
    assert (kept.train, kept.last, bytes(kept.data), kept.each) == (7, 7, b"sealed", True)
    sender.expire(10.0)
    assert not sender._kept
    sender.active_until = 20.0
    assert not sender.on_lone(8, memoryview(b"sealed"), 10.0)  # parity may be due: on_sent is to be told


def test_answers_to_a_quick_stream_are_not_kept() -> None:
    """A way that fast has no random loss worth the work; acknowledgements are a good part of it."""
    arrived = 0
    sender = RepairSender(1200, 0.02, arrived=lambda: arrived)
    now = 1.0
    for each, kept in ((4_000, True), (12_000, False), (4_000, True)):  # datagrams in a tenth of a second
        for step in range(30):
            arrived += each // 10
            now += 0.01
            sender.on_sent(step + 1, 0, 100, memoryview(bytes(100)), now, each=True)
        assert bool(sender._kept) is kept
        assert sender.is_quick is not kept
    now, arrived = now + 60, arrived + 20_000  # in a minute: that is not quick
    sender.on_sent(99, 0, 100, memoryview(bytes(100)), now, each=True)
    assert not sender.is_quick


def test_a_quick_stream_need_not_be_told_of_and_is_kept_again_when_it_has_slowed_down() -> None:
    sender, now, told = RepairSender(1200, 0.02), 1.0, []
    for each in (1_000_000, 20_000_000, 1_000_000):  # bytes in a tenth of a second
        before = len(told)
        for _ in range(100):
            now += 0.01
            if not sender.passes(each // 10, now):
                told.append(sender.on_sent(len(told) + 1, 0, 100, memoryview(bytes(each // 10)), now, each=True))
        assert (len(told) - before < 20) is (each > 1_000_000)
        assert bool(sender._kept) is not sender.is_quick


def test_what_goes_beside_packets_is_counted_and_told() -> None:
    with pair(MTU) as (one, two):
        there, here = (side.engine.counters["beside_sent_bytes"] for side in (one, two))
        assert min(there, here) > 100
        assert two.engine.counters["beside_received_bytes"] == there
        assert one.engine.counters["beside_received_bytes"] == here
    rows = rows_of(Traffic([0, 0], {}, {}, seconds=8.0), Paths([], [1000, 3000]))
    (row,) = [row for row in rows if row["protocol"] == BESIDE]
    assert (row["sent_bytes"], row["received_bytes"], row["sent_kbit_s"]) == (3000, 1000, 3.0)
