"""Being on the right gossip topics around a change of windows."""

from __future__ import annotations

from hypothesis import given, strategies as st

from edgevpn.proto.topic_schedule import JOIN_EARLY, LEAVE_LATE, TopicWindow, publish_topics, schedule

WINDOWS = [TopicWindow(f"t{n}", n * 60.0, n * 60.0 + 60.0) for n in range(3)]


INTERVAL = 600.0
LONG = [TopicWindow(f"t{n}", n * INTERVAL, (n + 1) * INTERVAL) for n in range(3)]


def test_only_the_topic_of_the_current_window_is_published_on() -> None:
    assert [schedule(WINDOWS, now).publish for now in (60.0, 119.9, 120.0)] == ["t1", "t1", "t2"]


def test_around_a_change_both_topics_are_joined() -> None:
    for now in (1199.0, 1201.0):
        assert schedule(LONG, now).join == {"t1", "t2"}


def test_the_old_topic_is_left_and_the_next_joined_in_the_middle_of_a_window() -> None:
    assert schedule(LONG, 600.0 + INTERVAL / 2 - JOIN_EARLY - 1).join == {"t0", "t1"}
    assert schedule(LONG, 600.0 + INTERVAL / 2 + LEAVE_LATE + 1).join == {"t1", "t2"}
    assert schedule(LONG, 100.0).until == INTERVAL / 2 - JOIN_EARLY


@given(st.floats(600, 1200, exclude_max=True), st.floats(-INTERVAL / 2, INTERVAL / 2))
def test_whoever_is_off_by_up_to_half_an_interval_hears_us_and_is_heard(now: float, off: float) -> None:
    def at(clock: float) -> list[TopicWindow]:
        """What a node knows whose clock shows this: its previous, current and next window."""
        number = int(clock // INTERVAL)
        return [TopicWindow(f"t{n}", n * INTERVAL, (n + 1) * INTERVAL) for n in range(number - 1, number + 2)]

    ours, theirs = schedule(at(now), now), schedule(at(now + off), now + off)
    assert ours.publish in theirs.join
    assert theirs.publish in ours.join


@given(st.floats(0, 180, exclude_max=True, allow_subnormal=False))
def test_the_published_topic_is_joined_and_the_next_look_is_ahead(now: float) -> None:
    found = schedule(WINDOWS, now)
    assert found.publish in found.join
    assert found.until > now


def test_a_go_node_whose_clock_is_off_is_published_to_on_the_topic_it_is_on() -> None:
    assert publish_topics(WINDOWS, [], 90.0) == ["t1"]
    assert publish_topics(WINDOWS, [["t1"], ["t0", "t1"]], 90.0) == ["t1"]
    assert publish_topics(WINDOWS, [["t1"], ["t2"], ["t2"]], 90.0) == ["t1", "t2"]
    assert publish_topics(WINDOWS, [["t0"]], 90.0) == ["t1", "t0"]
    assert publish_topics(WINDOWS, [["of another network"]], 90.0) == ["t1"]
    assert publish_topics(WINDOWS, [], 1000.0) == []


def test_outside_all_windows_nothing_is_published() -> None:
    assert schedule(WINDOWS, 1000.0).publish is None
