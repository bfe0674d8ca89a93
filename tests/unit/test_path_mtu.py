"""Path MTU discovery of one way: a simulated way, asked on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from edgevpn.tun.path_mtu import LADDER, SMALL, PathMtu, Phase

HEADER = 28
FULL = 1420 + 10 + 28  # a datagram for an inner MTU of 1420
PATIENCE = 0.15
STEP = 0.1  # as often as the link ticks


class Way:
    """Carries datagrams of up to `carries` bytes; `loses` says of each probe, and each answer, whether it is lost."""

    def __init__(self, full: int = FULL, carries: int = 10**6, rtt: float = 0.02) -> None:
        self.now = 100.0
        self.state = PathMtu(full, HEADER)
        self.carries = carries
        self.refuses = 10**6  # the system does, above this
        self.rtt = rtt
        self.loses: Callable[[], bool] = lambda: False
        self.unlucky: Callable[[int], bool] = lambda _: False
        self.probes = 0
        self._answers: list[tuple[float, int, float]] = []
        self._ask([*self.state.first(), SMALL])

    def _ask(self, sizes: list[int]) -> None:
        for size in sizes:
            self.probes += 1
            if size > self.refuses:
                self.state.too_big(size, self.now)
            elif size <= self.carries and not self.unlucky(size) and not self.loses() and not self.loses():
                self._answers.append((self.now + self.rtt, size, self.now))

    def run(self, seconds: float, *, active: bool = True) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now += STEP
            due = [one for one in self._answers if one[0] <= self.now]
            self._answers = [one for one in self._answers if one[0] > self.now]
            for _, size, asked_at in due:
                self.state.on_answer(size, asked_at, self.now)
            size = self.state.step(self.now, max(PATIENCE, 2 * self.rtt), active)
            if size is not None:
                self._ask([size, SMALL])


def largest(carries: int) -> int:
    return max(size for size in PathMtu(FULL, HEADER).sizes if size <= carries)


def test_a_way_that_carries_all_is_at_the_full_size_with_the_first_answer() -> None:
    way = Way()
    assert way.state.size == 0
    way.run(STEP)
    assert (way.state.size, way.state.phase) == (FULL, Phase.COMPLETE)


@given(st.integers(548, FULL), st.sampled_from([0.001, 0.08]))
def test_the_size_found_is_the_largest_rung_that_is_carried(carries: int, rtt: float) -> None:
    way = Way(carries=carries, rtt=rtt)
    way.run(3.0)
    assert way.state.size == largest(carries)


@given(st.integers(548, FULL - 1))
def test_after_a_fall_what_is_used_fits_within_three_seconds_and_soon_is_the_most(to: int) -> None:
    way = Way()
    way.run(5.0)
    way.carries = to
    way.run(3.0 if to < 1280 - HEADER else 2.3)  # below the base size, that does not fit either
    assert way.state.size <= to
    way.run(1.5)
    assert way.state.size == largest(to)


def test_a_fall_to_1280_and_the_rise_after_it_take_less_than_three_seconds_each() -> None:
    way = Way()
    way.run(5.0)
    for _ in range(10):
        way.carries = 1280 - HEADER
        began = way.now
        while way.state.size != 1280 - HEADER:
            way.run(STEP)
        assert way.now - began < 2.3
        way.run(random.Random(1).uniform(0, 5))
        assert way.state.size == 1280 - HEADER
        way.carries = 10**6
        began = way.now
        while way.state.size != FULL:
            way.run(STEP)
        assert way.now - began < 3.0
        way.run(2.0)


def test_what_the_system_refuses_is_too_large_at_once() -> None:
    way = Way()
    way.run(5.0)
    way.state.too_big(FULL, way.now)
    assert way.state.size == 1280 - HEADER
    way.refuses = 1400 - HEADER
    way.run(1.5)
    assert way.state.size == 1400 - HEADER
    way.state.too_big(1400 - HEADER, way.now)
    way.refuses = 700
    way.run(1.0)
    assert way.state.size == 576 - HEADER


@pytest.mark.parametrize("seed", range(5))
def test_random_loss_is_no_black_hole(seed: int) -> None:
    """5 % each way: what is asked is lost now and then; five in a row, with their small ones answered, almost never."""
    chance = random.Random(seed)
    way = Way()
    way.run(1.0)
    way.loses = lambda: chance.random() < 0.05
    low = 0
    for _ in range(600):
        way.run(1.0)
        low += way.state.size < FULL
    print("seed", seed, "seconds below the full size", low)
    assert low <= 10


@pytest.mark.parametrize("seed", range(5))
def test_a_queue_that_drops_large_datagrams_first_is_seldom_taken_for_a_black_hole(seed: int) -> None:
    """It is overfull, counted in bytes, and drops a quarter of them: for ten minutes."""
    chance = random.Random(seed)
    way = Way()
    way.run(1.0)
    low = 0
    for _ in range(600):
        way.run(1.0)
        way.unlucky = lambda size: size > SMALL and chance.random() < 0.25
        low += way.state.size < FULL
    print("seed", seed, "seconds below the full size", low)
    assert low <= 30


def test_a_way_that_is_silent_altogether_says_nothing_about_sizes() -> None:
    way = Way()
    way.run(5.0)
    way.loses = lambda: True
    way.run(30.0)
    assert way.state.size == FULL


def test_a_late_answer_from_before_the_black_hole_does_not_count() -> None:
    way = Way()
    way.run(5.0)
    asked_at = way.now
    way.carries = 1280 - HEADER
    way.run(3.0)
    way.state.on_answer(FULL, asked_at, way.now)
    assert way.state.size == 1280 - HEADER


def test_a_way_that_carries_nothing_of_use_has_no_size_and_is_asked_seldom() -> None:
    way = Way(carries=100)
    way.run(10.0)
    assert (way.state.size, way.state.phase) == (0, Phase.ERROR)
    before = way.probes
    way.run(60.0)
    assert way.probes - before <= 2 * 60 / 5 + 2
    way.carries = 10**6
    way.run(6.0)
    assert way.state.size == FULL


def test_while_no_packets_go_nothing_is_asked() -> None:
    way = Way(carries=1300)
    way.run(5.0)
    before = way.probes
    way.run(600.0, active=False)
    assert way.probes == before


def test_while_packets_go_it_costs_a_few_small_probes_a_second() -> None:
    way = Way(carries=1300)
    way.run(5.0)
    before = way.probes
    way.run(60.0)
    assert way.probes - before <= 2 * 2 * 60 + 2


def test_an_interface_with_a_small_mtu_has_one_size() -> None:
    way = Way(full=68 + 38)
    way.run(1.0)
    assert way.state.sizes == (106,)
    assert way.state.size == 106


@settings(max_examples=300)
@given(st.data())
def test_whatever_comes_in_whatever_order_the_size_is_a_rung_or_none(data: st.DataObject) -> None:
    now = 0.0
    state = PathMtu(FULL, HEADER)
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.1, 0.2, 1.0, 6.0]))
        what = data.draw(st.sampled_from(["answer", "step", "refuse"]))
        size = data.draw(st.sampled_from([*state.sizes, SMALL, 1300, 10000]))
        if what == "answer":
            state.on_answer(size, now - data.draw(st.sampled_from([0.0, 0.1, 1.0])), now)
        elif what == "step":
            asked = state.step(now, 0.15, data.draw(st.booleans()))
            assert asked is None or asked in state.sizes
        else:
            state.too_big(size, now)
            assert state.size < size or size > FULL
        assert state.size == 0 or state.size in state.sizes


def test_the_ladder_rises() -> None:
    assert list(LADDER) == sorted(set(LADDER))


@pytest.mark.parametrize(("suspected", "tries"), [(False, 4), (True, 2)])
def test_a_black_hole_is_believed_sooner_where_much_was_sent_and_nothing_came(suspected: bool, tries: int) -> None:
    way = PathMtu(FULL, 28)
    way.on_answer(FULL, 0.0, 0.0)
    assert way.phase is Phase.COMPLETE
    now = 0.7
    if suspected:
        now = 0.1
        way.suspect()
        way.suspect()
    asked = 0
    while way.size == FULL:
        assert way.step(now, 0.15, active=True) in (FULL, way.sizes[way._base])
        asked += way.size == FULL
        way.on_answer(SMALL, now, now)
        now += 0.16
    assert asked == tries
    assert way.size == 1280 - 28


def test_a_suspicion_that_was_wrong_costs_a_probe() -> None:
    way = PathMtu(FULL, 28)
    way.on_answer(FULL, 0.0, 0.0)
    way.suspect()
    assert way.step(0.1, 0.15, active=True) == FULL
    way.on_answer(FULL, 0.1, 0.12)
    assert way.step(0.3, 0.15, active=True) is None
    assert way.size == FULL
