"""The Trickle timer, RFC 6206."""

import random

import pytest
from hypothesis import given, strategies as st

from edgevpn.ledger.trickle import Trickle


def timer(seed=1, redundancy=1, now=0.0):
    return Trickle(1.0, 16.0, redundancy, random.Random(seed), now)


def run(trickle, until, heard_at=()):
    """The moments at which it transmits; `heard_at`: when someone says the same."""
    sent, heard = [], sorted(heard_at)
    while (now := trickle.next_wakeup()) <= until:
        while heard and heard[0] <= now:
            heard.pop(0)
            trickle.on_consistent()
        if trickle.expire(now):
            sent.append(now)
    return sent


@given(st.integers())
def test_alone_it_transmits_once_an_interval_in_its_second_half(seed):
    trickle, now = timer(seed), 0.0
    for _ in range(10):
        interval = trickle.interval
        fires = trickle.next_wakeup()
        assert now + interval / 2 <= fires <= now + interval
        assert trickle.expire(fires)
        now = trickle.next_wakeup()
        assert not trickle.expire(now)
        assert trickle.interval == min(2 * interval, 16.0)


def test_it_keeps_quiet_when_others_said_the_same():
    trickle = timer()
    trickle.on_consistent()
    assert not trickle.expire(trickle.next_wakeup())


def test_hearing_others_counts_for_one_interval_only():
    trickle = timer()
    trickle.on_consistent()
    trickle.expire(trickle.next_wakeup())
    trickle.expire(trickle.next_wakeup())
    assert trickle.expire(trickle.next_wakeup())


def test_without_redundancy_it_always_speaks():
    trickle = timer(redundancy=0)
    for _ in range(9):
        trickle.on_consistent()
    assert trickle.expire(trickle.next_wakeup())


def test_news_begin_the_shortest_interval():
    trickle = timer()
    run(trickle, 100.0)
    assert trickle.interval == 16.0
    trickle.on_inconsistent(100.0)
    assert trickle.interval == 1.0
    assert 100.5 <= trickle.next_wakeup() <= 101.0


def test_more_news_do_not_put_the_shortest_interval_off():
    trickle = timer()
    trickle.on_inconsistent(0.0)
    due = trickle.next_wakeup()
    trickle.on_inconsistent(0.4)
    assert trickle.next_wakeup() == due


def test_after_a_long_sleep_one_transmission_is_due_not_many():
    trickle = timer()
    assert trickle.expire(10_000.0)
    assert not trickle.expire(10_000.0)
    assert trickle.next_wakeup() > 10_000.0


def test_a_network_of_any_size_speaks_a_few_times_an_interval():
    """Fifty nodes that all hear each other, an hour of virtual time: about one message an interval, not fifty."""
    seed = 7
    print("seed", seed)
    chance = random.Random(seed)
    timers = [Trickle(1.0, 16.0, 2, chance, 0.0) for _ in range(50)]
    sent = 0
    while (now := min(trickle.next_wakeup() for trickle in timers)) < 3600.0:
        for trickle in timers:
            if trickle.next_wakeup() <= now and trickle.expire(now):
                sent += 1
                for other in timers:
                    if other is not trickle:
                        other.on_consistent()
    assert sent < 5 * 3600 / 16


@pytest.mark.parametrize(("shortest", "longest"), [(0, 1), (-1, 1), (2, 1)])
def test_intervals_that_make_no_sense_are_refused(shortest, longest):
    with pytest.raises(ValueError, match="interval"):
        Trickle(shortest, longest, 1, random.Random(1), 0)
