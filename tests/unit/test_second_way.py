"""The second way to a peer: kept warm, taken when the first fails or costs more, and not without a reason."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgevpn.proto.datagram import Address
from edgevpn.tun.datagram_link import DatagramLink
from edgevpn.tun.path_mtu import SMALL
from edgevpn.tun.way import Way
from tests.unit.test_datagram_link import B2, MTU, A, B, World


@pytest.fixture
def world() -> World:
    """Two ways from one to two: by B (10 ms) and by B2 (20 ms)."""
    made = World(0.01)
    made.places[B2] = made.two
    made.reach = lambda _, target, __: 0.02 if target == B2 else 0.01
    made.shake(candidates=(B, B2))
    made.run(4.0, lambda: made.send(made.one))
    assert made.one.address == B
    return made


def time_until(world: World, is_so: Callable[[], object], most: float = 3.0) -> float:
    """Seconds, while one sends."""
    began = world.now
    while not is_so():
        assert world.now - began < most
        world.run(0.02, lambda: world.send(world.one))
    return world.now - began


def test_the_second_way_is_asked_each_second_while_packets_go_and_hardly_at_all_while_none_do(world: World) -> None:
    asked = large = 0

    def counting(source: Address, target: Address, size: int) -> float:
        nonlocal asked, large
        asked += source == A and target == B2
        large += source == A and target == B2 and size > 2 * SMALL
        return 0.02 if target == B2 else 0.01

    world.reach = counting
    world.run(20.0, lambda: world.send(world.one))
    assert 30 <= asked <= 64  # a small one and a large one each time
    world.run(5.0)  # until it counts as idle
    asked = large = 0
    world.run(300.0)
    assert 8 <= asked <= 20
    assert large == 0, "ten idle nodes would spend more on large probes than on all else"
    world.run(3.0, lambda: world.send(world.one))
    assert large >= 2


def test_the_second_takes_over_within_six_tenths_of_a_second_when_the_first_falls_silent(world: World) -> None:
    world.reach = lambda source, target, _: None if B in (source, target) else 0.02
    world.speaks_from[id(world.two)] = B2
    took = time_until(world, lambda: world.one.address == B2)
    assert took <= 0.6
    assert world.one.mtu == MTU
    assert "fell silent" in world.one.reason
    assert world.one.is_live


def test_it_takes_over_at_the_next_tick_when_the_system_refuses_to_send(world: World) -> None:
    world.reach = lambda _, target, __: None if target == B else 0.02
    assert world.one.refused(B, world.now)
    assert not world.one.refused(("192.0.2.99", 9), world.now)
    world.run(0.02, lambda: world.send(world.one))
    assert world.one.address == B2
    assert "system" in world.one.reason


def test_where_the_system_refuses_all_ways_the_path_is_left_at_once(world: World) -> None:
    world.reach = lambda *_: None
    began = world.now

    def refusing() -> None:
        world.send(world.one)
        for address in (B, B2):
            world.one.refused(address, world.now)

    while world.one.is_live:
        world.run(0.02, refusing)
        assert world.now - began < 0.5


def test_a_failure_in_the_moment_of_new_keys_is_noticed_all_the_same(world: World) -> None:
    world.shake(candidates=(B, B2))
    world.reach = lambda _, target, __: None if target == B else 0.02
    took = time_until(world, lambda: world.one.address == B2)
    assert took <= 1.1


def test_a_way_that_loses_is_left_for_a_longer_one_that_does_not(world: World) -> None:
    chance = random.Random(5)
    world.reach = lambda _, target, __: (
        0.02 if target == B2 else None if target == B and chance.random() < 0.2 else 0.01
    )
    took = time_until(world, lambda: world.one.address == B2, 90)
    assert "lost" in world.one.reason or "silent" in world.one.reason
    moves = world.one.moves
    world.run(60.0, lambda: world.send(world.one))
    assert world.one.address == B2
    assert world.one.moves == moves
    assert took > 1


def test_a_much_shorter_way_is_taken_though_the_one_in_use_works(world: World) -> None:
    world.reach = lambda _, target, __: {B: 0.05, B2: 0.02}.get(target, 0.01)
    took = time_until(world, lambda: world.one.address == B2, 30)
    assert "better" in world.one.reason
    assert 3 < took < 20


@pytest.mark.parametrize("seed", range(8))
def test_two_ways_that_are_alike_are_not_changed_for_each_other(world: World, seed: int) -> None:
    chance = random.Random(seed)
    world.reach = lambda *_: chance.uniform(0.008, 0.03) if chance.random() > 0.01 else None
    world.run(30.0, lambda: world.send(world.one))
    before = world.one.moves
    world.run(300.0, lambda: world.send(world.one))
    assert world.one.moves - before <= 3


def test_a_way_that_comes_and_goes_is_not_trusted_each_time_it_is_back(world: World) -> None:
    def flapping(_: Address, target: Address, __: int) -> float | None:
        return 0.02 if target == B2 else 0.001 if world.now % 8 < 4 else None

    world.reach = flapping
    world.run(200.0, lambda: world.send(world.one))
    assert world.one.moves <= 12  # of 25 times that it was gone and 25 that it was back


def test_a_peer_that_sends_from_elsewhere_is_followed_when_the_old_place_is_silent(world: World) -> None:
    moved = ("203.0.113.9", 4000)
    world.places = {A: world.one, moved: world.two}
    world.speaks_from[id(world.two)] = moved

    def both() -> None:
        world.send(world.one)
        world.send(world.two)

    began = world.now
    while world.one.address != moved:
        world.run(0.02, both)
        assert world.now - began < 0.5
    assert world.one.is_live


def test_a_peer_that_sends_from_one_place_and_listens_at_another_does_not_make_us_move(world: World) -> None:
    world.speaks_from[id(world.two)] = B2
    before = world.one.moves
    asked = world.one._outstanding._probes
    most = 0

    def both() -> None:
        nonlocal most
        world.send(world.one)
        world.send(world.two)
        most = max(most, len(asked))

    world.run(60.0, both)
    assert world.one.moves == before
    assert most < 16


def test_our_own_change_of_address_is_told_to_the_peer_at_once(world: World) -> None:
    """A side that only receives: its probes tell where it is now."""
    moved = ("203.0.113.7", 1000)
    world.places = {moved: world.one, B: world.two, B2: world.two}
    world.speaks_from[id(world.one)] = moved
    world.two.last_sent = world.now
    world.one.last_sent = world.now - 100
    world.one.look(world.now)
    began = world.now
    while world.two.address != moved:
        world.run(0.02, lambda: world.send(world.two))
        assert world.now - began < 0.5


def test_while_packets_wait_for_a_way_it_is_looked_for_every_few_seconds(world: World) -> None:
    world.reach = lambda *_: None
    world.run(120.0, lambda: world.send(world.one))
    assert not world.one.is_live
    world.reach = lambda *_: 0.01
    assert time_until(world, lambda: world.one.is_live, 6.0) <= 5.2


def test_candidates_that_are_no_host_are_left_out() -> None:
    link: DatagramLink = World().one
    link.add_candidates([("224.0.0.1", 9), ("0.0.0.0", 9), ("ff02::1", 9), ("fe80::1", 9), ("::", 9), ("192.0.2.1", 0)])  # noqa: S104
    assert not link._ways


def test_one_or_two_lost_probes_are_no_loss_and_many_are() -> None:
    way = Way(A, 1300)
    for number in range(31):
        way.on_answer(64, number, number + 0.01)
    way.on_unanswered(64)
    assert way.loss == 0
    way.on_unanswered(1300)
    assert way.loss == 0
    for _ in range(4):
        way.on_unanswered(64)
    assert way.loss == pytest.approx(3 / 32)
    assert way.cost == pytest.approx(0.01 + 0.25 * 3 / 32)
