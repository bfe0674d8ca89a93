"""The life of a supervised actor, without any process."""

from __future__ import annotations

import random

import pytest

from edgevpn.actors.supervision import (
    BACK_OFF_FIRST,
    BACK_OFF_MOST,
    BUDGET,
    BUDGET_WINDOW,
    STEADY_AFTER,
    Phase,
    Supervision,
    SupervisionError,
)


def make() -> Supervision:
    return Supervision(random.Random(7))


def test_a_crashed_actor_is_started_again_after_a_growing_pause() -> None:
    life = make()
    pauses = []
    now = 0.0
    for _ in range(12):
        life.start()
        pause = life.exited(now, "signal KILL")
        assert pause is not None
        pauses.append(pause)
        now += BUDGET_WINDOW  # slow enough for the budget
    assert BACK_OFF_FIRST / 2 <= pauses[0] <= BACK_OFF_FIRST
    assert BACK_OFF_MOST / 2 <= pauses[-1] <= BACK_OFF_MOST
    assert life.restarts == 11
    assert life.last_exit == "signal KILL"


def test_a_steady_life_makes_the_pause_short_again() -> None:
    life = make()
    now = 0.0
    for _ in range(8):
        life.start()
        life.exited(now, "x")
        now += BUDGET_WINDOW
    life.start()
    life.ready(now)
    pause = life.exited(now + STEADY_AFTER, "x")
    assert pause is not None
    assert pause <= BACK_OFF_FIRST


def test_a_healthy_actor_may_be_killed_as_often_as_one_likes() -> None:
    life = make()
    now = 0.0
    for _ in range(10 * BUDGET):
        life.start()
        life.ready(now)
        now += STEADY_AFTER
        pause = life.exited(now, "killed by SIGKILL")
        assert pause is not None
        assert pause <= BACK_OFF_FIRST


def test_an_actor_over_its_budget_is_given_up_and_a_person_can_start_it_again() -> None:
    life = make()
    for n in range(BUDGET):
        life.start()
        pause = life.exited(n * 0.1, "exit 1")
    assert pause is None
    assert life.phase is Phase.FAILED
    life.start()
    assert life.phase is Phase.STARTING
    assert life.exited(10.0, "exit 1") is not None  # with a fresh budget


def test_an_actor_asked_to_stop_is_not_started_again() -> None:
    life = make()
    life.start()
    life.ready(1.0)
    life.stop()
    assert life.exited(2.0, "cancelled") is None
    assert life.phase is Phase.IDLE


def test_what_cannot_happen_is_an_error() -> None:
    life = make()
    with pytest.raises(SupervisionError, match="ready while idle"):
        life.ready(0.0)
