"""Repair between two ends of a session, over a link that loses, in virtual time: right, once, and at once."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.datagram import CONTROL, INDEX_BITS
from edgevpn.proto.datagram_handshake import AES_256_GCM, Agreed, Terms
from edgevpn.proto.datagram_repair import (
    REPAIRS,
    WHOLE,
    Ask,
    Parity,
    Range,
    Repair,
    Report,
    Stamp,
    is_repair,
    read_repair_untrusted,
)
from edgevpn.proto.ip import TCP, UDP
from edgevpn.tun import virtio
from edgevpn.tun.datagram_link import DatagramLink
from edgevpn.tun.repair_plan import NO_PARITY, plan, rows_needed
from edgevpn.tun.repair_receiver import GIVE_UP, TICK, RepairReceiver
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.session_repair import SessionRepair
from edgevpn.tun.train import Opener, ReceiveKey, Sealer, SendKey, datagrams, seal_beside
from tests.unit.test_virtio import frame_of, verify

THERE, BACK = bytes(range(32)), bytes(range(1, 33))
ROOM = 1400
Lose = Callable[[int, bytes], bool]  # the number of the datagram on its way, and it


class End:
    """One end: what it delivers, with times."""

    def __init__(self, send: bytes, receive: bytes, rtt: float, room: int, *, codes: bool = True) -> None:
        self.sealer, self.opener = Sealer(), Opener()
        self.send, self.receive = SendKey(AES_256_GCM, send, 7), ReceiveKey(AES_256_GCM, receive, 7)
        self.repair = SessionRepair(self.receive.head, self.receive.window, room, rtt, codes=codes)
        self.receive.arrivals = self.repair
        self.delivered: list[tuple[float, bytes]] = []


class Link:
    """Two ends, and a way with a delay that loses what `lose` says. `queue`: seconds more, as a function of time."""

    def __init__(self, lose: Lose, *, delay: float = 0.01, room: int = ROOM, seed: int = 0, codes: bool = True) -> None:
        self.now = 100.0
        self.delay = delay
        self.queue: Callable[[float], float] = lambda _: 0.0
        self.one = End(THERE, BACK, 2 * delay, room, codes=codes)
        self.two = End(BACK, THERE, 2 * delay, room, codes=codes)
        self.kinds: Counter[int] = Counter()  # of the control messages
        self._lose = lose
        self._events: list[tuple[float, int, End | None, bytes]] = []
        self._order = itertools.count()
        self._next_tick = self.now
        self.chance = random.Random(seed)
        self.sent_datagrams = self.control_datagrams = 0

    def wire(self, to: End, datagram: bytes) -> None:
        number, self.sent_datagrams = self.sent_datagrams, self.sent_datagrams + 1
        if not self._lose(number, datagram):
            at = self.now + self.delay + self.queue(self.now)
            heapq.heappush(self._events, (at, next(self._order), to, datagram))

    def other(self, end: End) -> End:
        return self.two if end is self.one else self.one

    def send(self, end: End, frame: bytes) -> None:
        """A super-packet or a plain frame of the device's."""
        end.sealer.frame[: len(frame)] = frame
        if frame[1]:
            sends, each = end.sealer.seal_train(end.send, len(frame)), False
        else:
            stop = end.sealer.seal_small(end.send, frame, 0)
            sends, each = [(end.sealer.small[:stop], stop)], True
        first, train = 0, end.send.train - 1
        for view, length in sends:
            for datagram in datagrams([(view, length)]):
                self.wire(self.other(end), datagram)
            for message in end.repair.on_sent(train, first, length, view, self.now, each=each):
                self._control(end, message)
            first += len(view) // length

    def _control(self, end: End, message: bytes) -> None:
        assert len(message) <= ROOM
        self.control_datagrams += 1
        self.kinds[message[1]] += 1
        self.wire(self.other(end), seal_beside(end.send, message))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            at = min(self._events[0][0] if self._events else self._next_tick, self._next_tick)
            if at > until:
                self.now = until
                return
            self.now = at
            if at == self._next_tick:
                self._next_tick += TICK
                for end in (self.one, self.two):
                    for message in end.repair.tick(self.now):
                        self._control(end, message)
                continue
            _, _, to, datagram = heapq.heappop(self._events)
            if to is not None:
                self._open(to, datagram)

    def _open(self, end: End, datagram: bytes) -> None:
        def write(_: ReceiveKey, frame: memoryview) -> None:
            end.delivered += [(self.now, verify(packet)) for packet in virtio.segment(bytes(frame))]

        def control(_: ReceiveKey, data: bytes) -> None:
            assert is_repair(data)
            outcome = end.repair.on_message(read_repair_untrusted(data), self.now)
            for copy in outcome.copies:
                self.wire(self.other(end), copy)
            for message in outcome.messages:
                self._control(end, message)
            for repaired in outcome.repaired:
                end.opener.open_repaired(repaired, end.receive, write, control)

        end.opener.now = self.now
        end.opener.buffer[: len(datagram)] = datagram
        end.opener.open_untrusted(len(datagram), len(datagram), {7: end.receive}, write, control)


def is_data(datagram: bytes) -> bool:
    return not int.from_bytes(datagram[4:12], "big") & 0x300  # no message beside a train


def bulk(link: Link, seconds: float, *, rate: float = 2000.0, size: int = 1200, seed: int = 1) -> list[bytes]:
    """Trains of 1 to 20 segments at `rate` datagrams a second from one to two; the segments."""
    chance = random.Random(seed)
    segments: list[bytes] = []
    until = link.now + seconds
    while link.now < until:
        count = chance.randint(2, 20)
        body = chance.randbytes(size * (count - 1) + chance.randint(16, size))
        link.send(link.one, frame_of(chance.choice([4, 6]), chance.choice([TCP, UDP]), body, size))
        segments += [body[at : at + size] for at in range(0, len(body), size)]
        link.run(count / rate)
    return segments


def losses(fraction: float, seed: int) -> Lose:
    chance = random.Random(seed)
    return lambda _, __: chance.random() < fraction


@pytest.mark.parametrize("fraction", [0.001, 0.005, 0.01, 0.02])
def test_all_that_is_lost_at_random_comes_after_all_and_once(fraction: float) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    link = Link(losses(fraction, seed))
    sent = bulk(link, 8.0, size=300, seed=seed)
    link.run(2.0)
    got = Counter(data for _, data in link.two.delivered)
    assert max(got.values()) == 1
    assert not got - Counter(sent)
    assert sum(got.values()) >= len(sent) - 2  # copies may be lost four times, the last train has nothing after it
    assert link.two.opener.counters["datagrams_forged"] == 0


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 400), max_size=120), st.integers(300, 1400), st.integers(0, 1000))
def test_whatever_is_lost_nothing_comes_twice_or_altered(lost: set[int], size: int, seed: int) -> None:
    link = Link(lambda number, _: number in lost)
    sent = Counter(bulk(link, 0.3, rate=3000, size=size, seed=seed))
    link.run(GIVE_UP + 1.0)
    got = Counter(data for _, data in link.two.delivered)
    assert not got - sent
    counted = link.two.repair.counters
    missing = sum((sent - got).values())
    assert missing <= len(lost)
    if missing > 25:  # a whole end of it may be lost without anything after it to tell
        assert counted["given_up"] or counted["left_to_the_queue"] or link.one.repair.counters["copies_refused"]
    assert not link.two.repair.receiver.holes


def test_nothing_more_is_sent_while_nothing_is_lost() -> None:
    link = Link(losses(0.0, 0))
    sent = bulk(link, 5.0)
    link.run(1.0)
    assert link.control_datagrams == 0
    assert link.sent_datagrams == len(sent)
    assert [data for _, data in link.two.delivered] == sent


def test_the_first_loss_is_repaired_too() -> None:
    link = Link(lambda number, _: number == 50)
    sent = bulk(link, 1.0)
    link.run(1.0)
    assert Counter(data for _, data in link.two.delivered) == Counter(sent)
    assert link.two.repair.counters["repaired_by_copy"] == 1


def test_a_reordered_datagram_is_not_asked_for() -> None:
    link = Link(losses(0.0, 0))
    link.queue = lambda now: 0.0015 if int(now * 1000) % 7 == 0 else 0.0
    sent = bulk(link, 3.0)
    link.run(1.0)
    assert link.control_datagrams == 0
    assert Counter(data for _, data in link.two.delivered) == Counter(sent)


def test_a_run_over_several_trains_is_asked_for_at_once() -> None:
    """TCP is told of all of it when the first is asked for: what is asked for later comes too late."""
    receiver = RepairReceiver(bytes(4), 1200, 0.02)
    receiver.on_run(1, 0, 2, 2, 10.0)
    receiver.on_run(2, 0, 1, 2, 10.001)
    receiver.on_run(5, 0, 2, 2, 10.0029)  # no word on the queue yet
    (message,) = receiver.tick(10.0031)
    ask = read_repair_untrusted(message)
    assert ask == Ask({2: 0b10, 3: WHOLE, 4: WHOLE})
    receiver.on_run(7, 0, 2, 2, 10.0035)  # one that stands alone may be on its way
    assert receiver.tick(10.004) == []
    assert len(receiver.tick(10.006)) == 1


def test_parity_brings_back_what_a_round_trip_would_bring_late() -> None:
    link = Link(losses(0.01, 3), delay=0.04)
    bulk(link, 10.0, size=300, seed=3)
    link.run(1.0)
    counted = link.two.repair.counters
    assert counted["repaired_by_parity"] > 5 * counted["repaired_by_copy"]


def test_a_run_of_losses_is_brought_back_by_interleaved_parity() -> None:
    link = Link(lambda number, _: number % 200 < 5, delay=0.04)
    sent = bulk(link, 4.0, rate=8_000, size=200, seed=4)
    link.run(1.0)
    counted = link.two.repair.counters
    assert link.one.repair.sender.plan.step > 1
    assert counted["repaired_by_parity"] > 4 * counted["repaired_by_copy"]
    assert sum(1 for _ in link.two.delivered) > 0.995 * len(sent)


@pytest.mark.parametrize("codes", [True, False])
def test_a_peer_that_knows_no_code_gets_the_xor(codes: bool) -> None:
    link = Link(losses(0.01, 8), codes=codes)
    bulk(link, 6.0, size=300, seed=8)
    link.run(1.0)
    assert (link.kinds[7] > 0, link.kinds[4] > 0) == (codes, not codes)
    assert link.two.repair.counters["repaired_by_parity"] > 50
    assert link.two.opener.counters["datagrams_forged"] == 0


def test_two_lost_of_one_group_come_back_without_a_round_trip() -> None:
    lost = {False: 0, True: 0}
    for codes in lost:
        link = Link(lambda number, datagram: is_data(datagram) and number % 300 in (1, 4), delay=0.04, codes=codes)
        bulk(link, 8.0, rate=6000, size=300, seed=9)
        link.run(1.0)
        lost[codes] = link.two.repair.counters["repaired_by_copy"]
    assert lost[True] < 0.2 * lost[False]


def test_parity_takes_no_more_than_its_share_where_the_way_has_a_queue() -> None:
    link = Link(losses(0.05, 10))
    begin = link.now
    link.queue = lambda now: 0.0 if now < begin + 0.5 else 0.02
    sent = bulk(link, 1.0, rate=400, size=1000, seed=10)
    before = link.one.repair.counters["parity_sent"]
    sent = bulk(link, 10.0, rate=400, size=1000, seed=11)
    assert link.one.repair.counters["parity_sent"] - before <= 0.25 * len(sent) + 64


def test_an_overflow_before_anybody_has_told_of_a_queue_is_not_repaired() -> None:
    link = Link(lambda number, datagram: is_data(datagram) and 300 <= number < 500 and number % 2 == 0)
    begin = link.now
    link.queue = lambda now: 0.0 if now < begin + 0.1 else max(0.0, 0.03 - 0.1 * max(0.0, now - begin - 0.4))
    bulk(link, 1.5, size=300, seed=12)
    link.run(1.0)
    counted = link.two.repair.counters
    assert counted["repaired_by_copy"] + counted["repaired_by_parity"] < 30
    assert counted["left_to_the_queue"] > 60
    assert link.one.repair.sender.plan == NO_PARITY


@given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 300))
def test_more_members_and_more_loss_never_need_fewer_rows(members: int, most: int, per_mille: int) -> None:
    rows = rows_needed(members, most, per_mille)
    assert 1 <= rows <= most
    assert rows <= rows_needed(members + 1, most, per_mille)
    assert rows <= rows_needed(members, most, per_mille + 1)


def test_a_small_packet_is_delivered_at_once_whatever_waits_for_repair() -> None:
    link = Link(losses(0.02, 5))
    small: dict[bytes, float] = {}
    chance = random.Random(5)
    for _ in range(400):
        payload = chance.randbytes(100)
        frame = frame_of(4, UDP, payload, 1000)
        small[payload] = link.now
        link.send(link.one, frame)
        bulk(link, 0.005, seed=chance.randrange(10**6))
    late = [at - small[data] - link.delay for at, data in link.two.delivered if data in small]
    assert len(late) > 390
    assert sum(one > 1e-9 for one in late) < 0.05 * len(late)  # those that were lost themselves


def test_losses_that_a_full_queue_makes_are_left() -> None:
    link = Link(lambda number, datagram: is_data(datagram) and link.queue(link.now) > 0.028 and number % 3 == 0)
    begin = link.now

    def queue(now: float) -> float:
        """After a second without: 30 ms in 0.8 s, and down again in 0.2 s."""
        phase = (now - begin) % 1.0
        return 0.0 if now < begin + 1 else 0.03 * min(phase / 0.8, (1 - phase) / 0.2)

    link.queue = queue
    lose_one = link._lose
    link._lose = lambda number, datagram: number == 20 or lose_one(number, datagram)
    bulk(link, 8.0)
    counted = link.two.repair.counters
    assert counted["left_to_the_queue"] > 3 * (counted["repaired_by_parity"] + counted["repaired_by_copy"])


def test_a_parity_larger_than_a_datagram_comes_in_two_pieces() -> None:
    link = Link(losses(0.01, 6), room=1200, delay=0.04)  # segments of 1200 bytes and headers do not fit in this
    bulk(link, 10.0, seed=6)
    link.run(1.0)
    assert link.two.repair.counters["repaired_by_parity"] > 50
    assert link.two.opener.counters["datagrams_forged"] == 0


def test_calm_ends_parity_and_a_minute_of_it_all_messages() -> None:
    link = Link(lambda number, _: number == 30)
    bulk(link, 15.0, rate=300, size=100)
    assert link.one.repair.sender.plan == NO_PARITY
    bulk(link, 50.0, rate=100, size=100)
    before = link.control_datagrams
    bulk(link, 5.0, rate=300, size=100)
    assert link.control_datagrams == before


def test_many_datagrams_without_a_loss_end_parity_sooner() -> None:
    link = Link(lambda number, _: number == 30)
    bulk(link, 4.0, rate=6000, size=100)
    assert link.one.repair.sender.plan == NO_PARITY
    seldom = Link(lambda number, _: number % 1000 == 30)
    bulk(seldom, 4.0, rate=6000, size=100)
    assert seldom.one.repair.sender.plan.k


def test_long_runs_that_are_seldom_do_not_cost_as_if_they_were_many() -> None:
    seldom, often = plan(0.001, 20.0, codes=True), plan(0.02, 20.0, codes=True)
    assert (seldom.step, seldom.rows) == (1, 1)
    assert often.step > 1
    assert often.rows > 1


def test_memory_is_bounded_in_bytes_and_time() -> None:
    link = Link(losses(0.01, 7))
    bulk(link, 2.0, rate=8000)
    sender, receiver = link.one.repair.sender, link.two.repair.receiver
    assert 0 < sender._kept_bytes < 8 << 20
    assert len(receiver._kept) < 2000
    link.run(5.0)
    bulk(link, 0.01)
    assert sender._kept_bytes < 200_000


def test_control_messages_take_no_train_and_no_counter_twice() -> None:
    key = SendKey(AES_256_GCM, THERE, 7)
    seen = {int.from_bytes(seal_beside(key, bytes((CONTROL, 9)))[4:12], "big") for _ in range(3000)}
    assert len(seen) == 3000
    assert max(seen) >> INDEX_BITS < 10
    assert key.train > max(seen) >> INDEX_BITS


@pytest.mark.parametrize(("ours", "theirs", "repairs"), [(True, 7, True), (False, 7, False), (True, 3, False)])
def test_repair_needs_the_wish_of_both_sides(ours: bool, theirs: int, repairs: bool) -> None:
    link = DatagramLink("two", 1420, BackOff(0.25, 60, random.Random(1)), 0.0, repairs=ours)
    agreed = Agreed(Terms(theirs, AES_256_GCM, 1420, 9), AES_256_GCM, THERE, BACK)
    session, _ = link.add_session(agreed, 5, initiated=True, now=0.0)
    assert (session.repair is not None) == repairs
    assert (link.repairs() is not None) == repairs


def test_a_new_session_with_a_peer_that_has_forgotten_the_code_sends_the_xor() -> None:
    old, new = RepairSender(ROOM, 0.02, codes=True), RepairSender(ROOM, 0.02, codes=False)
    old.on_ask(Ask({3: 1}), 1.0)
    new.inherit(old)
    assert (old.plan.rows, new.plan.rows) == (3, 1)
    assert new.plan.k


def test_a_new_session_goes_on_with_what_the_old_one_knew_of_the_way() -> None:
    link = DatagramLink("two", 1420, BackOff(0.25, 60, random.Random(1)), 0.0, repairs=True)
    agreed = Agreed(Terms(REPAIRS, AES_256_GCM, 1420, 9), AES_256_GCM, THERE, BACK)
    old, _ = link.add_session(agreed, 5, initiated=True, now=0.0)
    link.sending = old
    assert old.repair is not None
    old.repair.sender.on_ask(Ask({3: 1}), 1.0)
    new, _ = link.add_session(agreed, 6, initiated=True, now=2.0)
    assert new.repair is not None
    assert new.repair.sender.plan == old.repair.sender.plan != NO_PARITY


@given(st.binary(max_size=200), st.integers(3, 7))
def test_any_bytes_are_a_repair_message_or_refused(data: bytes, kind: int) -> None:
    end = End(THERE, BACK, 0.02, ROOM)
    with suppress(UntrustedDataError):
        end.repair.on_message(read_repair_untrusted(bytes((CONTROL, kind)) + data), 100.0)
    end.repair.tick(100.0)
    end.repair.tick(100.1)


_ranges = st.lists(st.builds(Range, st.integers(1, 30), st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=6)
_parities = st.builds(
    lambda ranges, step, size, offset, data, lengths: Parity(
        5, lengths, max(size, offset + len(data)), offset, step, tuple(ranges), data
    ),
    _ranges,
    st.integers(1, 8),
    st.integers(1, 60),
    st.integers(0, 20),
    st.binary(min_size=1, max_size=40),
    st.integers(0, 100),
)
_asks = st.dictionaries(st.integers(1, 30), st.integers(0, 2**20), min_size=1, max_size=8).map(Ask)
_stamps = st.builds(Stamp, st.integers(0, 2**32 - 1), st.integers(0, 2**54 - 1))
_rows = st.builds(
    lambda parity, row, more: replace(parity, row=row, rows=min(3, row + more), lengths=0),
    _parities,
    st.integers(0, 2),
    st.integers(1, 3),
)
_reports = st.builds(Report, *[st.integers(0, 2**32 - 1)] * 6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(_parities, _rows, _asks, _stamps, _reports), max_size=30), st.integers(0, 1000))
def test_a_peer_that_says_anything_spoils_nothing_but_its_own(messages: list[Repair], seed: int) -> None:
    link = Link(losses(0.2, seed))
    sent = Counter(bulk(link, 0.05, size=100, seed=seed))
    for message in messages:
        for end in (link.one, link.two):
            outcome = end.repair.on_message(message, link.now)
            for repaired in outcome.repaired:
                end.opener.open_repaired(repaired, end.receive, lambda *_: None, lambda *_: None)
        link.run(0.01)
    link.run(1.5)
    assert not Counter(data for _, data in link.two.delivered) - sent
