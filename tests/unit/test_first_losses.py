"""What a session does when it loses something for the first time, and knows nothing of the way yet."""

from __future__ import annotations

import time

from edgevpn.proto.datagram_repair import REPAIRS, Parity, Range, Stamp
from edgevpn.proto.ip import TCP, UDP
from edgevpn.tun.datagram_link import DatagramLink, Session
from edgevpn.tun.held_back import MOST_BYTES, MOST_WAIT, HeldBack
from edgevpn.tun.repair_plan import NO_PARITY
from edgevpn.tun.repair_receiver import GUARD, TICK
from edgevpn.tun.replay import TRAINS, ReplayWindow
from edgevpn.tun.session_repair import SessionRepair
from tests.unit.test_narrow_way import MTU, Side, pair
from tests.unit.test_repair import Link, bulk, is_data
from tests.unit.test_virtio import frame_of

RTT = 0.08


def repair_of(now: float, *, parity: bool = False) -> SessionRepair:
    """A session in which trains 1 and 2 have come, and then something after a hole."""
    repair = SessionRepair(b"abcd", ReplayWindow(), 1400, 0.02)
    repair.on_run(1, 0, 1, 1, now - 1)
    repair.on_run(2, 0, 1, 1, now - 1)
    if parity:
        repair.on_message(Parity(0, 0, 9, 0, 1, (Range(1, 0, 1),), b"123456789", 0, 1), now - 0.01)
    repair.on_run(4, 0, 1, 1, now)
    return repair


def test_a_second_loss_in_the_first_ones_round_trip_waits_for_no_ask_of_its_own() -> None:
    lost = (50, 90, 130)
    link = Link(lambda number, datagram: is_data(datagram) and number in lost, delay=RTT / 2)
    begin = link.now
    sent = bulk(link, 0.2, size=300)
    link.run(1.0)
    came = {data: at for at, data in link.two.delivered}
    assert len(came) == len(sent)
    assert link.two.repair.counters["repaired_by_parity"] == 2
    latest = begin + 50 / 2000 + 1.5 * RTT + 3 * TICK + GUARD  # all with the answer to the first ask
    assert all(came[sent[number]] < latest for number in lost)


def test_an_ask_that_is_lost_costs_no_round_trip() -> None:
    asks = 0

    def lose(number: int, datagram: bytes) -> bool:
        nonlocal asks
        if not is_data(datagram):
            asks += 1
            return asks == 1
        return number == 50

    link = Link(lose, delay=RTT / 2)
    begin = link.now
    sent = bulk(link, 0.1, size=300)
    link.run(1.0)
    came = {data: at for at, data in link.two.delivered}
    assert len(came) == len(sent)
    assert max(came.values()) - begin < 0.1 + 1.5 * RTT + 3 * TICK + GUARD


def test_a_loss_there_makes_this_side_protect_what_it_sends_and_calm_ends_it() -> None:
    repair = repair_of(100.0)
    assert repair.sender.plan == NO_PARITY
    assert repair.tick(100.0 + TICK + GUARD)
    assert repair.sender.plan.k
    link = Link(lambda number, datagram: is_data(datagram) and number == 50)
    bulk(link, 1.0)
    bulk(link, 12.0, rate=400, size=100)
    assert link.two.repair.sender.plan == NO_PARITY


def test_what_comes_behind_a_first_hole_waits_until_the_hole_is_asked_for() -> None:
    repair = repair_of(100.0)
    assert repair.held.takes(memoryview(frame_of(4, TCP, bytes(1000), 1400)), 100.0)
    assert repair.released(100.001) == []
    assert repair.tick(100.0 + TICK + GUARD)
    assert len(repair.released(100.0 + TICK + GUARD)) == 1
    assert not repair.held.until


def test_a_hole_that_is_filled_is_waited_for_no_longer() -> None:
    repair = repair_of(100.0)
    assert repair.held.takes(memoryview(frame_of(4, TCP, bytes(1000), 1400)), 100.0)
    repair.on_run(3, 0, 1, 1, 100.001)
    assert len(repair.released(100.001)) == 1


def test_with_parity_under_way_nothing_is_held() -> None:
    assert repair_of(100.0).held.until
    assert not repair_of(100.0, parity=True).held.until


def test_small_packets_and_those_of_other_protocols_are_never_held() -> None:
    held = HeldBack()
    held.begin(1.0)
    for version in (4, 6):
        assert not held.takes(memoryview(frame_of(version, UDP, bytes(1000), 1400)), 1.0)
        assert not held.takes(memoryview(frame_of(version, TCP, bytes(60), 1400)), 1.0)
        assert held.takes(memoryview(frame_of(version, TCP, bytes(1000), 1400)), 1.0)
    assert len(held.end()) == 2


def test_what_is_held_is_bounded_in_time_and_bytes() -> None:
    held = HeldBack()
    frame = memoryview(frame_of(4, TCP, bytes(1000), 1400))
    held.begin(1.0)
    held.begin(1.005)  # another hole: the first one's time counts
    assert not held.takes(frame, 1.0 + MOST_WAIT)
    count = 0
    while held.takes(frame, 1.0):
        count += 1
    assert count * len(frame) < MOST_BYTES + 2 * len(frame)


def test_the_window_reaches_further_back_from_the_first_parity_on() -> None:
    window = ReplayWindow()
    repair = SessionRepair(b"abcd", window, 1400, 0.02)
    window.mark(1, 1)
    repair.on_message(Parity(0, 0, 9, 0, 1, (Range(1, 0, 1),), b"123456789", 0, 1), 1.0)
    window.mark(TRAINS + 100, 1)
    assert window.is_fresh(50, 1)
    repair.on_message(Stamp(0, 1), 1.0)


def test_the_engine_asks_first_and_then_gives_the_device_what_waited() -> None:
    with pair(MTU, flags=3 | REPAIRS, repairs=True) as (one, two):
        for payload in (b"a", b"b"):
            one.send(frame_of(4, TCP, payload * 1000, 1400))
        two.take()
        link = one.engine.links["two"]
        assert link.sending is not None
        link.sending.send.train += 1  # one is lost
        before = len(two.frames)
        began = time.monotonic()
        one.send(frame_of(4, TCP, b"c" * 1000, 1400))
        one.send(frame_of(4, UDP, b"d" * 1000, 1400))
        take_one(two)
        assert [frame[-1:] for frame in two.frames[before:]] == [b"d"]
        order: list[str] = []
        sent, written = two.engine.repairs._send, two.engine.write

        def send(link: DatagramLink, session: Session, messages: list[bytes]) -> None:
            order.append("ask")
            sent(link, session, messages)

        def write(peer: str, frame: memoryview) -> bool:
            order.append("frame")
            return written(peer, frame)

        two.engine.repairs._send = send  # type: ignore[method-assign]
        two.engine.write = write
        while not order and time.monotonic() < began + 1:
            two.engine.repairs.on_timer()
        assert order[:2] == ["ask", "frame"]
        assert two.frames[-1][-1:] == b"c"


def test_a_frame_that_the_device_refuses_is_tried_once() -> None:
    with pair(MTU, flags=3 | REPAIRS, repairs=True) as (one, two):
        one.send(frame_of(4, TCP, b"a" * 1000, 1400))
        two.take()
        repair = two.engine.links["one"].sessions[-1].repair
        assert repair is not None
        repair.held.begin(time.monotonic())
        tried: list[int] = []

        def refuse(_: str, frame: memoryview) -> bool:
            tried.append(len(frame))
            return False

        two.engine.write = refuse
        one.send(frame_of(4, TCP, b"b" * 1000, 1400))
        two.take()
        assert len(tried) == 1


def test_what_is_brought_back_for_a_session_that_has_just_ended_is_dropped() -> None:
    with pair(MTU, flags=3 | REPAIRS, repairs=True) as (one, two):
        one.send(frame_of(4, TCP, b"a" * 1000, 1400))
        two.take()
        before = len(two.frames)
        key = two.engine.links["one"].sessions[-1].receive
        two.engine.remove("one")
        two.engine.repairs._on_mended(key, memoryview(frame_of(4, TCP, b"b" * 1000, 1400)))
        assert len(two.frames) == before


def take_one(side: Side) -> None:
    """What is there, without waiting for more: holding back ends by itself."""
    time.sleep(0.001)
    for sock in side.sockets:
        side.engine.on_readable(sock)
