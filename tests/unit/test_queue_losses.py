"""Which losses are a full queue's: told by delay and by rate, whatever the clocks say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from edgevpn.tun.queue_losses import FLOOR, WINDOW, QueueLosses

EACH = 0.005  # seconds between stamps
PACE = 80  # datagrams between stamps


class Way:
    """Stamps over a way with a queue, and datagrams that are lost on it."""

    def __init__(self, offset: float = 0.0) -> None:
        self.now = 50.0
        self.offset = offset
        self.losses = QueueLosses()
        self.left = self.random = 0

    def go(self, seconds: float, queue: float, lost: float = 0.0, seed: int = 1) -> None:
        chance = random.Random(seed)
        for _ in range(round(seconds / EACH)):
            self.now += EACH
            self.losses.on_stamp(int((self.now - queue + self.offset) * 1e6) & 0xFFFFFFFF, self.now)
            for _ in range(PACE):
                if chance.random() >= lost:
                    self.losses.received(1)
                elif self.losses.made(1):
                    self.left += 1
                else:
                    self.random += 1


@settings(max_examples=50, deadline=None)
@given(st.floats(-5000, 5000), st.floats(0.01, 0.3))
def test_the_length_of_the_queue_needs_no_common_clock(offset: float, queue: float) -> None:
    way = Way(offset)
    way.go(0.1, 0.0)
    way.go(0.1, queue)
    assert way.losses.now == pytest.approx(queue, abs=1e-5)
    assert way.losses.is_full
    way.go(0.1, queue / 2)
    assert not way.losses.is_full


def test_where_nothing_is_lost_at_random_a_full_queue_made_it_all() -> None:
    way = Way()
    way.go(2.0, 0.002)
    way.go(0.05, 0.03)  # it fills before it loses
    way.go(0.5, 0.03, lost=0.01)
    assert way.random == 0
    assert way.left > 50


def test_what_is_lost_at_random_is_random_at_a_full_queue_too() -> None:
    way = Way()
    way.go(2.0, 0.002, lost=0.01)
    before = way.random
    way.go(1.0, 0.03, lost=0.01)
    assert way.left == 0
    assert way.random > 1.3 * before


def test_an_overflow_is_the_queues_also_on_a_way_that_loses() -> None:
    way = Way()
    way.go(2.0, 0.002, lost=0.01)
    before = way.random
    way.go(0.05, 0.03)
    way.go(0.1, 0.03, lost=0.3)
    assert way.left > 5 * (way.random - before)


def test_an_overflow_is_forgotten_when_the_queue_is_gone() -> None:
    way = Way()
    way.go(2.0, 0.002, lost=0.01)
    way.go(0.1, 0.03, lost=0.5)
    way.go(0.1, 0.005, lost=0.01)
    before = way.left
    way.go(0.2, 0.03, lost=0.01)
    assert way.left == before


def test_a_machine_that_stood_still_for_a_moment_was_no_queue() -> None:
    way = Way()
    way.go(1.0, 0.002)
    way.go(EACH, 0.2)  # one stamp that came late
    assert way.losses.now < FLOOR
    way.go(1.0, 0.002)
    way.go(2 * WINDOW, 0.03, lost=0.2)
    assert way.left > 0


def test_an_answer_to_an_ask_tells_of_the_queue_at_once() -> None:
    losses = QueueLosses()
    losses.on_stamp(0, 50.0, 0.03)
    assert losses.is_full
    assert losses.made(10)


def test_what_a_queue_made_is_judged_as_its_own_when_it_has_emptied() -> None:
    way = Way()
    way.go(2.0, 0.0, lost=0.01)
    before = way.random
    way.go(0.1, 0.03)
    way.go(0.05, 0.03, lost=0.4)  # an overflow; its last losses are confirmed a little later
    way.go(0.02, 0.0)
    assert not way.losses.is_full
    assert all(way.losses.made(1, was_full=True) for _ in range(100))
    assert way.random - before <= 2 * PACE  # what it took before two stamps had told


def test_chance_stays_chance_though_the_queue_was_full_a_moment_ago() -> None:
    way = Way()
    way.go(2.0, 0.0, lost=0.02)
    way.go(1.0, 0.03, lost=0.02)
    way.go(0.01, 0.0)
    assert not any(way.losses.made(1, was_full=True) for _ in range(3))
