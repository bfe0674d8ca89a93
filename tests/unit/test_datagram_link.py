"""When the datagram path asks, moves and gives up: two links and a network between them, on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgevpn.proto.back_off import BackOff
from edgevpn.proto.datagram import Address, Probe, read_control_untrusted
from edgevpn.proto.datagram_handshake import AES_256_GCM, Offering, Terms, answer_untrusted
from edgevpn.tun.datagram_link import REKEY_AFTER, DatagramLink, Session

A: Address = ("192.0.2.1", 1000)
B: Address = ("192.0.2.2", 2000)
B2: Address = ("198.51.100.2", 2000)
MTU = 1200


class World:
    """`reach(source, target, size)` says whether a datagram arrives, and how late (seconds)."""

    def __init__(self, step: float = 0.05) -> None:
        self.step = step
        self.now = 1000.0
        self.one = DatagramLink("two", MTU, BackOff(0.25, 60, random.Random(1)), self.now)
        self.two = DatagramLink("one", MTU, BackOff(0.25, 60, random.Random(2)), self.now)
        self.places = {A: self.one, B: self.two, B2: self.two}
        self.speaks_from = {id(self.one): A, id(self.two): B}
        self.reach: Callable[[Address, Address, int], float | None] = lambda *_: 0.01
        self._flying: list[tuple[float, Address, Address, int, bytes]] = []
        self._numbers = iter(range(1, 10**6))
        self.lost = 0

    def shake(self, *, candidates: tuple[Address, ...] = (B,), initiator: DatagramLink | None = None) -> None:
        first = initiator or self.one
        second = self.two if first is self.one else self.one
        number, other = next(self._numbers), next(self._numbers)
        mine, theirs = ((A,), candidates) if first is self.one else (candidates, (A,))
        offering = Offering(Terms(3, AES_256_GCM, MTU, number, mine), "i", "r")
        message, agreed = answer_untrusted(offering.message, 3, MTU, other, theirs, AES_256_GCM, "i", "r")
        second.add_session(agreed, other, False, self.now)
        first.add_session(offering.finish_untrusted(message), number, True, self.now)

    def shake_both_at_once(self) -> None:
        """Each offers before it has heard the other's offer; the answers take a moment."""
        finishing = []
        for first, second, mine, theirs in ((self.one, self.two, (A,), (B,)), (self.two, self.one, (B,), (A,))):
            number, other = next(self._numbers), next(self._numbers)
            offering = Offering(Terms(3, AES_256_GCM, MTU, number, mine), "i", "r")
            message, agreed = answer_untrusted(offering.message, 3, MTU, other, theirs, AES_256_GCM, "i", "r")
            second.add_session(agreed, other, False, self.now)
            finishing.append((first, offering, message, number))
        self.now += 0.01
        for first, offering, message, number in finishing:
            first.add_session(offering.finish_untrusted(message), number, True, self.now)

    def _post(self, link: DatagramLink, session: Session, target: Address, plaintext: bytes) -> None:
        source = self.speaks_from[id(link)]
        late = self.reach(source, target, len(plaintext) + 28)
        if late is None:
            self.lost += 1
        else:
            self._flying.append((self.now + late, source, target, session.send.session, plaintext))

    def send(self, link: DatagramLink) -> bool:
        """A packet of the user's."""
        if not link.is_live or link.sending is None or link.address is None:
            link.last_sent = self.now
            return False
        link.last_sent = self.now
        self._post(link, link.sending, link.address, b"packet")
        return True

    def run(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        for _ in range(round(seconds / self.step)):
            self.now += self.step
            each()
            for link in (self.one, self.two):
                for session, address, plaintext in link.tick(self.now):
                    self._post(link, session, address, plaintext)
            for _ in range(3):  # answers in the same step
                self._deliver()

    def _deliver(self) -> None:
        arriving = [one for one in self._flying if one[0] <= self.now]
        self._flying = [one for one in self._flying if one[0] > self.now]
        for _, source, target, number, plaintext in arriving:
            link = self.places.get(target)
            session = next((s for s in link.sessions if s.number == number), None) if link else None
            if link is None or session is None:
                self.lost += 1
                continue
            link.on_received(session, source, self.now)
            if plaintext == b"packet":
                continue
            message = read_control_untrusted(plaintext)
            if isinstance(message, Probe):
                self._post(link, session, source, link.answer_to(message, source))
            else:
                link.on_answer(message, self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_a_link_knows_where_its_peer_sees_it(world: World) -> None:
    world.shake()
    world.run(1.0)
    assert world.one.observed == {False: A}
    assert world.two.observed == {False: B}


def test_after_a_handshake_both_sides_find_a_way(world: World) -> None:
    world.shake()
    assert not world.one.is_live
    world.run(0.5)
    assert (world.one.address, world.two.address) == (B, A)
    assert world.one.is_live
    assert world.two.is_live
    assert 0 < world.one.rtt < 0.2


def test_two_handshakes_at_once_leave_a_path_that_stays(world: World) -> None:
    """The two sides then send by different sessions: each must keep what the other uses."""
    world.run(1)
    world.shake_both_at_once()
    world.run(0.5)
    assert world.one.sending is not None
    assert world.two.sending is not None
    assert world.one.sending.initiated
    assert world.two.sending.initiated
    refused = 0

    def traffic() -> None:
        nonlocal refused
        refused += (not world.send(world.one)) + (not world.send(world.two))

    for idle in (0, 15, 40, 300):
        world.run(idle)
        world.run(30, traffic)
        assert (idle, refused, world.lost) == (idle, 0, 0)
    world.run(120, lambda: world.send(world.one))  # one direction only
    world.run(1, traffic)
    assert (refused, world.lost) == (0, 0)


def test_what_the_peer_does_not_use_any_more_goes(world: World) -> None:
    world.shake_both_at_once()
    world.run(1, lambda: (world.send(world.one), world.send(world.two)))
    for _ in range(20):
        world.shake()
        world.run(0.5, lambda: (world.send(world.one), world.send(world.two)))
    assert max(len(link.sessions) for link in (world.one, world.two)) <= 4
    world.run(90, lambda: (world.send(world.one), world.send(world.two)))
    assert [len(link.sessions) for link in (world.one, world.two)] == [1, 1]
    assert world.lost == 0


def test_a_side_that_only_the_other_can_reach_first_is_found_by_its_probes(world: World) -> None:
    """A NAT: nobody reaches A before A has sent there."""
    opened: set[Address] = set()

    def nat(source: Address, target: Address, _: int) -> float | None:
        if source == A:
            opened.add(target)
        return 0.01 if target != A or source in opened else None

    world.reach = nat
    world.shake()
    world.run(1.0)
    assert world.one.is_live
    assert world.two.is_live


def test_a_way_that_swallows_large_datagrams_is_used_for_smaller_ones(world: World) -> None:
    world.reach = lambda _, __, size: 0.01 if size < 1000 else None
    world.shake()
    world.run(1.5, lambda: world.send(world.one))
    assert world.one.is_live
    assert world.one.narrow
    assert world.one.mtu == 1024 - 28 - 38
    world.reach = lambda *_: 0.01
    world.run(3.0, lambda: world.send(world.one))
    assert (world.one.mtu, world.one.narrow) == (MTU, False)


def test_a_way_that_carries_small_datagrams_only_is_never_used(world: World) -> None:
    world.reach = lambda _, __, size: 0.01 if size < 500 else None
    world.shake()
    world.run(10.0)
    assert not world.one.is_live
    assert "small datagrams" in world.one.reason
    world.reach = lambda *_: 0.01
    world.run(6.0)
    assert world.one.is_live
    assert not world.one.narrow


def test_of_two_ways_the_one_that_carries_more_is_used(world: World) -> None:
    world.places[B2] = world.two
    world.reach = lambda _, target, size: (0.02 if target == B2 else 0.01) if target != B or size < 600 else None
    world.shake(candidates=(B, B2))
    world.run(3.0, lambda: world.send(world.one))
    assert world.one.address == B2
    assert world.one.mtu == MTU


def test_what_was_once_known_of_another_way_does_not_make_it_take_over(world: World) -> None:
    """The path MTU of both has fallen; after a silence both are asked, and both answer what is small."""
    world.places[B2] = world.two
    largest = 10**6
    world.reach = lambda _, target, size: (0.06 if target == B2 else 0.01) if size < largest else None
    world.shake(candidates=(B, B2))
    world.run(5.0, lambda: world.send(world.one))
    began, largest = world.now, 900
    while world.one.mtu >= largest:
        world.run(0.05, lambda: world.send(world.one))
    assert world.now - began < 2.3
    world.run(3.0, lambda: world.send(world.one))
    falls = world.reach
    world.reach = lambda *_: None
    while world.one._asked_since is None or world.now - world.one._asked_since < 0.3:
        world.run(0.05, lambda: world.send(world.one))
    world.reach = falls
    fits: list[bool] = []
    world.run(5.0, lambda: (world.send(world.one), fits.append(world.one.mtu < largest)))
    assert all(fits)


def test_a_way_taken_in_need_is_not_trusted_with_what_it_once_carried(world: World) -> None:
    for link in (world.one, world.two):
        link.__init__(link.peer, 1420, BackOff(0.25, 60, random.Random(1)), world.now)  # type: ignore[misc]
    world.places[B2] = world.two
    world.shake(candidates=(B, B2))
    world.run(5.0, lambda: world.send(world.one))
    assert (world.one.address, world.one.mtu) == (B, 1420)
    world.reach = lambda _, target, size: 0.01 if target != B and size < 1300 else None
    world.run(2.0, lambda: world.send(world.one))
    assert world.one.address == B2
    assert world.one.mtu == 1280 - 28 - 38
    world.reach = lambda *_: 0.01
    world.run(3.0, lambda: world.send(world.one))
    assert world.one.mtu == 1420


def test_a_way_that_is_silent_for_a_moment_keeps_its_size(world: World) -> None:
    world.shake()
    world.run(5.0, lambda: world.send(world.one))
    world.reach = lambda *_: None
    world.run(0.7, lambda: world.send(world.one))
    world.reach = lambda *_: 0.01
    narrow: list[bool] = []
    world.run(3.0, lambda: (world.send(world.one), narrow.append(world.one.narrow)))
    assert not any(narrow)


def test_an_idle_path_is_quiet_but_kept(world: World) -> None:
    world.shake()
    world.run(2.0)
    count = 0

    def counting(*_: object) -> float:
        nonlocal count
        count += 1
        return 0.01

    world.reach = counting
    world.run(300.0)
    assert world.one.is_live
    assert world.two.is_live
    assert 10 <= count <= 2 * 2 * 300 / 25 + 4


@pytest.mark.parametrize("needed", [False, True])
def test_a_way_that_never_answers_costs_little_while_idle_and_is_good_when_it_opens(world: World, needed: bool) -> None:
    spent = handshakes = 0

    def closed(_source: Address, _target: Address, size: int) -> None:
        nonlocal spent
        spent += size + 20

    def shake_when_wanted() -> None:
        nonlocal handshakes
        for link in (world.one, world.two):
            if link.wants_handshake(world.now):
                link.handshake_began(world.now)
                world.shake(initiator=link)
                handshakes += 1

    world.reach = closed
    world.run(600.0, shake_when_wanted)
    spent = handshakes = 0
    world.run(1200.0, shake_when_wanted)
    print(f"{spent * 8 / 1200 / 2:.0f} bit/s a side, {handshakes} handshakes")
    assert spent * 8 / 1200 / 2 < 100
    assert handshakes <= 12  # each some 2.5 kB, through the relay
    world.reach = lambda *_: 0.01
    if needed:
        world.one.look(world.now)
        world.one.last_sent = world.now
    world.run(40.0 if needed else 320.0, shake_when_wanted)
    for link in (world.one, world.two):
        assert link.is_live
        assert not link.narrow


def test_a_peer_that_moved_is_followed_within_a_second(world: World) -> None:
    world.shake()
    world.run(1.0)
    world.speaks_from[id(world.two)] = B2
    del world.places[B]
    reached_again: list[float] = []
    began = world.now

    def traffic() -> None:
        world.send(world.one)
        world.send(world.two)
        if world.one.address == B2 and world.one.is_live:
            reached_again.append(world.now)

    world.run(3.0, traffic)
    assert reached_again
    assert reached_again[0] - began < 1.0


def test_a_dead_way_is_given_up_within_a_second_and_a_half_and_a_handshake_wanted(world: World) -> None:
    world.shake()
    world.run(1.0)
    world.reach = lambda *_: None
    began = world.now
    lost: list[float] = []

    def traffic() -> None:
        if not world.send(world.one):
            lost.append(world.now)

    world.run(3.0, traffic)
    assert lost[0] - began < 1.5
    assert world.one.wants_handshake(world.now)
    world.reach = lambda *_: 0.01
    world.run(2.0, traffic)
    assert world.one.is_live


def test_a_way_that_carries_only_the_other_direction_is_given_up(world: World) -> None:
    world.shake()
    world.run(1.0)
    world.reach = lambda source, *_: None if source == A else 0.01
    world.run(2.0, lambda: (world.send(world.one), world.send(world.two)))
    assert not world.one.is_live
    assert not world.two.is_live, "two gets no answers: they would come from one"


def test_silence_without_anything_sent_is_no_fault(world: World) -> None:
    world.shake()
    world.run(1.0)
    world.run(20.0)
    assert world.one.is_live


def test_one_way_traffic_keeps_its_path(world: World) -> None:
    world.shake()
    world.run(1.0)
    failed: list[float] = []
    world.run(20.0, lambda: world.send(world.one) or failed.append(world.now))
    assert failed == []


def test_keys_are_changed_after_two_minutes_of_use_without_a_pause(world: World) -> None:
    world.shake()
    failed: list[float] = []
    shaken: list[float] = []
    world.run(1.0)

    def traffic() -> None:
        for link in (world.one, world.two):
            if not world.send(link):
                failed.append(world.now)
            if link.wants_handshake(world.now):
                link.handshake_began(world.now)
                shaken.append(world.now)
                world.shake(initiator=link)

    before = world.lost
    world.run(3.8 * REKEY_AFTER, traffic)
    assert len(shaken) == 3
    assert failed == []
    assert world.lost == before
    assert len(world.one.sessions) == len(world.two.sessions) == 1


def test_an_idle_link_does_not_change_keys(world: World) -> None:
    world.shake()
    world.run(600.0)
    assert not world.one.wants_handshake(world.now)
    assert world.one.is_live


def test_a_peer_that_lost_its_keys_gets_new_ones_into_use_at_once(world: World) -> None:
    world.shake()
    world.run(1.0)
    world.two = DatagramLink("one", MTU, BackOff(0.25, 60, random.Random(2)), world.now)
    world.places = {A: world.one, B: world.two}
    world.speaks_from[id(world.two)] = B
    assert world.two.wants_handshake(world.now)
    world.shake(initiator=world.two, candidates=(B,))
    world.run(0.2)
    assert world.one.sending is world.one.sessions[-1]
    assert world.two.is_live


def test_many_handshakes_keep_few_sessions_and_the_one_in_use(world: World) -> None:
    world.shake()
    world.run(1.0)
    in_use = world.one.sending
    world.reach = lambda *_: None
    for _ in range(50):
        world.shake(initiator=world.two)
    assert len(world.one.sessions) <= 5
    assert in_use in world.one.sessions


def test_failed_handshakes_are_tried_ever_more_seldom(world: World) -> None:
    tries = 0
    for _ in range(6000):
        world.now += 0.1
        world.one.last_sent = world.now
        if world.one.wants_handshake(world.now):
            world.one.handshake_began(world.now)
            world.one.handshake_failed(world.now, "no")
            tries += 1
    assert 10 <= tries <= 35
