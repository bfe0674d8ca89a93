"""Copies that do not arrive, however often they are asked for, lead to the question whether their size still passes."""

from __future__ import annotations

import pytest

from edgevpn.proto.datagram_repair import WHOLE, Ask
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.session_repair import SessionRepair
from tests.unit.test_datagram_link import MTU, World
from tests.unit.test_repair import Link, bulk, losses

LARGE, SMALL = 1400, 400


def asked(size: int, *pauses: float) -> RepairSender:
    """What is known after asks for one datagram, with these pauses between them."""
    sender = RepairSender(1200, 0.02)
    sender.on_sent(1, 0, size, memoryview(bytes(size)), 10.0, each=True)
    now = 10.1
    sender.on_ask(Ask({1: WHOLE}), now)
    for pause in pauses:
        now += pause
        sender.on_ask(Ask({1: WHOLE}), now)
    return sender


def test_who_asks_a_fourth_time_did_not_get_the_copies() -> None:
    assert not asked(LARGE, 0.023, 0.023).is_stuck
    assert asked(LARGE, 0.023, 0.023, 0.023).is_stuck
    assert asked(LARGE, 0.002, 0.003, 0.002).is_stuck  # a round trip of 1 ms


def test_asks_of_one_moment_are_one() -> None:
    assert not asked(LARGE, 0.001, 0.001, 0.001, 0.023).is_stuck
    assert asked(LARGE, 0.002, 0.023, 0.023).is_stuck


def test_small_datagrams_tell_nothing_of_the_size() -> None:
    assert not asked(SMALL, 0.023, 0.023, 0.023).is_stuck


def test_nor_does_what_is_not_there_any_more() -> None:
    sender = RepairSender(1200, 0.02)
    for k in range(4):
        sender.on_ask(Ask({1: WHOLE}), 10.0 + 0.03 * k)
    assert not sender.is_stuck


def test_what_was_asked_for_is_not_remembered_without_end() -> None:
    sender = RepairSender(1200, 0.02)
    for train in range(1, 5000):
        sender.on_sent(train, 0, LARGE, memoryview(bytes(LARGE)), 10.0 + train / 100, each=True)
        sender.on_ask(Ask({train: WHOLE}), 10.0 + train / 100)
    assert len(sender._asked) <= 512


@pytest.mark.parametrize("seed", range(4))
def test_losses_at_random_are_not_taken_for_it(seed: int) -> None:
    link = Link(losses(0.02, seed), seed=seed)
    bulk(link, 2.0, seed=seed)
    assert not link.one.repair.sender.is_stuck


@pytest.mark.parametrize(("told", "most"), [(True, 0.7), (False, 1.5)])
def test_a_black_hole_that_lets_something_through_is_found_soon(world: World, told: bool, most: float) -> None:
    world.shake()
    both = (world.one, world.two)
    world.run(2.0, lambda: [world.send(link) for link in both])
    assert world.one.mtu == MTU
    assert world.one.sending is not None
    repair = world.one.sending.repair = SessionRepair(bytes(4), world.one.sending.receive.window, MTU, 0.02)
    world.reach = lambda _, __, size: 0.01 if size < 1000 else None
    repair.sender.is_stuck = told
    began = world.now
    while world.one.mtu == MTU:
        world.run(world.step, lambda: [world.send(link) for link in both])
        assert world.now - began < most
    assert told == (world.now - began < 0.7)
    assert not repair.sender.is_stuck


@pytest.fixture
def world() -> World:
    return World()
