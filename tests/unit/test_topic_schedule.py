"""Being on the right gossip topics around a change of windows."""

from __future__ import annotations

from hypothesis import given, strategies as st

from edgevpn.proto.topic_schedule import JOIN_EARLY, LEAVE_LATE, TopicWindow, schedule

WINDOWS = [TopicWindow(f"t{n}", n * 60.0, n * 60.0 + 60.0) for n in range(3)]


def test_in_the_middle_of_a_window_only_its_topic_is_joined() -> None:
    now = schedule(WINDOWS, 90.0)
    assert (now.publish, now.join) == ("t1", {"t1"})
    assert now.until == 120.0 - JOIN_EARLY


def test_around_a_change_both_topics_are_joined_and_one_is_published_on() -> None:
    assert schedule(WINDOWS, 119.0).publish == "t1"
    assert schedule(WINDOWS, 119.0).join == {"t1", "t2"}
    assert schedule(WINDOWS, 121.0).publish == "t2"
    assert schedule(WINDOWS, 121.0).join == {"t1", "t2"}
    assert schedule(WINDOWS, 120.0 + LEAVE_LATE).join == {"t2"}


@given(st.floats(0, 180, exclude_max=True, allow_subnormal=False))
def test_the_published_topic_is_joined_and_the_next_look_is_ahead(now: float) -> None:
    found = schedule(WINDOWS, now)
    assert found.publish in found.join
    assert found.until > now


def test_outside_all_windows_nothing_is_published() -> None:
    assert schedule(WINDOWS, 1000.0).publish is None
