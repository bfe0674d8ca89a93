"""Small packets that somebody waits for go twice where a way loses, the second time when a run of losses is over."""

from __future__ import annotations

import random
import select
import socket

import pytest

from edgevpn.proto.datagram_repair import CODES, REPAIRS, WHOLE, Ask, Report, Stamp
from edgevpn.proto.packet_stream import PLAIN, TAKES_TCP, TAKES_UDP
from edgevpn.tun import lone
from edgevpn.tun.repair_plan import NO_PARITY, mean_run
from edgevpn.tun.repair_receiver import RepairReceiver
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.twice import AT_ONCE, LARGEST, LATER, Twice, is_urgent
from tests.unit.test_narrow_way import MTU, Side, pair
from tests.unit.test_virtio import make

TCP, UDP = 6, 17
PUSH, ACK = 0x08, 0x10


def frame(protocol: int, *, version: int = 4, size: int = 40, flags: int = ACK) -> bytes:
    packet = bytearray(make(version, protocol, random.Random(size).randbytes(size)))
    if protocol == TCP:
        packet[(20 if version == 4 else 40) + 13] = flags
    return PLAIN + bytes(packet)


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_small_is_urgent_but_for_bare_acknowledgements(version: int) -> None:
    assert is_urgent(frame(UDP, version=version))
    assert is_urgent(frame(TCP, version=version, flags=PUSH | ACK))
    assert not is_urgent(frame(TCP, version=version))
    assert not is_urgent(frame(UDP, version=version, size=LARGEST))


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_a_frame_that_is_cut_short_is_judged_all_the_same(length: int) -> None:
    assert is_urgent(frame(TCP)[:length]) in (True, False)


def test_it_goes_again_later_and_no_more_than_so_many() -> None:
    twice = Twice()
    taken = sum(twice.add(b"%d" % k, 10.0) for k in range(1000))
    assert taken == AT_ONCE
    assert twice.due(10.0 + LATER / 2) == []
    assert twice.due(10.0 + LATER) == [b"%d" % k for k in range(int(AT_ONCE))]
    assert twice.due(20.0) == []
    assert twice.add(b"later", 10.1)


def test_nothing_goes_twice_where_nothing_is_lost() -> None:
    sender = RepairSender(1200, 0.02)
    sender.on_urgent(memoryview(b"sealed"), 10.0)
    assert sender.again(11.0) == []
    assert not sender.is_busy()


def _send(side: Side, data: bytes, *, alone: bool) -> None:
    if alone:
        side.engine.sealer.frame[: len(data)] = data
        (link,) = side.engine.links.values()
        assert lone.send_lone(side.engine, link, len(data), 1.0)
    else:
        side.send(data)


@pytest.mark.parametrize("alone", [False, True])
def test_the_same_datagram_goes_twice_and_comes_out_once(alone: bool) -> None:
    with pair(MTU, flags=TAKES_TCP | TAKES_UDP | REPAIRS | CODES, repairs=True) as (one, two):
        _send(one, frame(UDP), alone=False)
        two.take()
        ((link, session),) = one.engine.sessions.values()
        assert session.repair is not None
        session.repair.sender.on_ask(Ask({1: 1}), link.last_sent)
        assert session.repair.sender.plan != NO_PARITY
        two.frames.clear()
        _send(one, frame(UDP, size=50), alone=alone)
        sock = two.sockets[socket.AF_INET]
        assert select.select([sock], [], [], 1)[0]
        first = sock.recv(2048)
        came = []
        for _ in range(10):
            one.engine.repairs.on_timer()
            while select.select([sock], [], [], 0.003)[0]:
                came.append(sock.recv(2048))
        assert came.count(first) == 1  # parity comes, too
        one.sockets[socket.AF_INET].sendto(first, two.address)
        one.sockets[socket.AF_INET].sendto(first, two.address)
        two.take()
        assert two.frames == [frame(UDP, size=50)]
        assert session.repair.counters["sent_twice"] == 1


@pytest.mark.parametrize(
    ("wanted", "mean"),
    [({7: 0b1}, 1.0), ({7: 0b11111}, 5.0), ({7: 0b10101}, 1.0), ({7: 0, 8: 0, 9: 0b11}, 4.0), ({7: 0, 9: 0}, 1.0)],
)
def test_the_length_of_runs_is_seen_in_an_ask(wanted: dict[int, int], mean: float) -> None:
    assert mean_run(wanted, {}) == mean


def test_a_train_that_was_lost_whole_counts_as_all_its_datagrams() -> None:
    assert mean_run({7: 0b100, 8: 0, 9: 0b11}, {7: 3, 8: 3, 9: 5}) == 6.0
    assert mean_run({7: 0b010, 8: 0, 9: 0b11}, {7: 3, 8: 3, 9: 5}) == 3.0
    sender = RepairSender(1200, 0.02)
    view = memoryview(bytes(3 * 1200))
    for train in (1, 2, 3):
        sender.on_sent(train, 0, 1200, view, 10.0, each=False)
    sender.on_ask(Ask({2: WHOLE}), 10.02)
    assert sender.run == 3.0


def test_what_was_lost_of_an_unknown_train_is_counted_when_it_is_known() -> None:
    receiver = RepairReceiver(bytes(4), 1200, 0.02)
    receiver.on_run(1, 0, 3, 3, 10.0)
    receiver.on_stamp(Stamp(10_000_000, 1), 10.0)
    receiver.on_run(3, 0, 3, 3, 10.001)
    for now in (10.004, 10.02):
        receiver.tick(now)
    assert (receiver.lost, receiver.runs) == (1, 1)
    receiver.on_run(2, 0, 1, 5, 10.03)  # a copy tells how many there were
    receiver.on_run(2, 1, 4, 5, 10.03)
    assert (receiver.lost, receiver.runs) == (5, 1)
    assert not receiver.holes


def test_the_first_run_of_losses_spreads_the_parity() -> None:
    for mask, spread in ((0b1, False), (0b11111, True)):
        sender = RepairSender(1200, 0.02)
        sender.on_ask(Ask({3: mask}), 10.0)
        assert (sender.plan.step > 1) == spread


def test_a_run_that_a_queue_made_is_forgotten_at_the_next_loss() -> None:
    sender = RepairSender(1200, 0.02)
    sender.on_ask(Ask({3: 0b11111111}), 10.0)
    sender.on_report(Report(0, 0, 5000, 0, 0, 0), 10.1)  # none of it was chance
    assert sender.plan == NO_PARITY
    sender.on_ask(Ask({90: 0b1}), 20.0)
    assert sender.plan.step == 1
