"""Who was lost is tried again."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from edgevpn.p2p.redial import KEEP, MOST, SELDOM, SOON, WHILE, Redial


def tries(redial: Redial, until: float, now: float = 0.0) -> list[tuple[float, str]]:
    found = []
    while (at := redial.next_wakeup()) <= until:
        now = max(now, at)
        found += [(now, peer) for peer in redial.take_due(now)]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_who_was_lost_is_tried_within_half_a_second_and_then_every_few_seconds_for_a_while(seed: int) -> None:
    redial = Redial(random.Random(seed))
    redial.lost("A", 0.0)
    moments = [at for at, _ in tries(redial, WHILE)]
    assert moments[0] < 0.5
    assert max(b - a for a, b in pairwise(moments)) <= SOON
    assert len(moments) < 2 * WHILE / SOON + 10


def test_later_it_is_tried_seldom_and_after_a_day_no_more() -> None:
    redial = Redial(random.Random(1))
    redial.lost("A", 0.0)
    late = [at for at, _ in tries(redial, 2 * KEEP) if at > 2 * WHILE]
    assert max(late) <= KEEP + SELDOM
    assert len(late) < 2 * KEEP / SELDOM + 10
    assert len(redial) == 0


def test_when_one_comes_back_or_after_sleep_all_are_tried_at_once() -> None:
    redial = Redial(random.Random(1))
    for peer in "ABC":
        redial.lost(peer, 0.0)
    tries(redial, 4000.0)
    redial.found("A", 4000.0)
    assert {peer for _, peer in tries(redial, 4000.5, 4000.0)} == {"B", "C"}
    tries(redial, 8000.0)
    redial.hurry(8000.0)
    assert {peer for _, peer in tries(redial, 8000.5, 8000.0)} == {"B", "C"}


def test_a_peer_that_comes_and_goes_does_not_make_us_dial_the_others_all_the_time() -> None:
    redial = Redial(random.Random(1))
    for peer in "ABC":
        redial.lost(peer, 0.0)
    tries(redial, 4000.0)
    found = []
    for number in range(100):  # within 10 s
        now = 4000.0 + number / 10
        redial.found("A", now)
        redial.lost("A", now)
        found += [peer for _, peer in tries(redial, now, now) if peer == "B"]
    assert len(found) < 8


def test_who_is_found_or_unwanted_is_not_dialled_and_the_list_is_bounded() -> None:
    redial = Redial(random.Random(1))
    redial.lost("A", 0.0)
    redial.lost("B", 0.0)
    redial.found("A", 0.1)
    redial.forget("B")
    assert tries(redial, 100.0) == []
    for number in range(2 * MOST):
        redial.lost(str(number), 0.0)
    assert len(redial) == MOST
    redial.forget("0")
    assert len(redial) == MOST, "it was the first to go"
