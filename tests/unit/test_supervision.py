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


@pytest.mark.parametrize("before", ["starting", "ready", "backing-off", "idle"])
def test_what_lacks_another_actor_is_held_from_any_phase_and_started_when_that_is_back(before: str) -> None:
    life = make()
    if before != "idle":
        life.start()
    if before in ("ready", "backing-off"):
        life.ready(0.0)
    if before == "backing-off":
        life.exited(0.1, "killed by SIGKILL")
    life.hold("host")
    if before in ("starting", "ready"):
        assert life.phase is Phase.HOLDING
        assert life.exited(0.2, "stopped") is None
    assert life.phase is Phase.HELD
    assert life.lacks == "host"
    life.start()
    assert life.phase is Phase.STARTING
    assert life.lacks == ""


def test_an_actor_that_is_given_up_is_not_held_besides() -> None:
    life = make()
    for number in range(BUDGET):
        life.start()
        life.exited(number * 0.1, "exception")
    assert life.phase is Phase.FAILED
    assert not life.can_be_held


def test_the_last_exits_are_kept_with_their_times() -> None:
    life = make()
    for number in range(20):
        life.start()
        life.ready(10.0 * number)
        life.exited(10.0 * number + 5, f"reason {number}", at=1000.0 + number)
    assert [reason for _, reason in life.exits] == [f"reason {number}" for number in range(12, 20)]
    assert life.exits[-1] == (1019.0, "reason 19")


def test_the_budget_is_spent_in_less_than_its_window_whatever_the_pauses_are() -> None:
    """Else an actor that can't live would be started for ever, at the longest pause."""
    for seed in range(50):
        life, now = Supervision(random.Random(seed)), 0.0
        for _ in range(BUDGET):
            life.start()
            pause = life.exited(now, "exception")
            now += (pause or 0.0) + 0.5  # a slow start
        assert life.phase is Phase.FAILED, seed
