"""Telling whose clock is off."""

from __future__ import annotations

from edgevpn.ledger.clock_watch import MAX_PEERS, REMEMBERED, ClockWatch

WALL = 1_786_528_800.0


def watch(*offsets: float, interval: float = 360.0) -> ClockWatch:
    """One that has heard peers whose clocks are ahead of ours by `offsets`."""
    made = ClockWatch(interval)
    for number, offset in enumerate(offsets):
        made.heard_time(f"p{number}", WALL + offset, WALL, 0.0)
    return made


def test_alone_there_is_nothing_to_say() -> None:
    assert watch().verdict(0.0).text == ""


def test_clocks_that_agree_are_no_matter() -> None:
    verdict = watch(0.3, -0.4, 1.0).verdict(0.0)
    assert (verdict.text, verdict.strangers, verdict.peers) == ("", (), 3)


def test_when_most_others_differ_from_us_it_is_our_clock() -> None:
    verdict = watch(60.0, 61.0, 62.0, 0.0).verdict(0.0)
    assert verdict.offset == -60.0
    assert "this machine's clock is 60 s behind the other nodes" in verdict.text
    assert "ahead of" in watch(-60.0, -61.0).verdict(0.0).text


def test_when_one_differs_from_all_it_is_its_clock() -> None:
    assert watch(0.2, 13.0).verdict(0.0).strangers == ("p1",)
    verdict = watch(0.0, 0.5, 90.0).verdict(0.0)
    assert verdict.strangers == ("p2",)
    assert "the clock of p2 is 90 s off" in verdict.text
    assert abs(verdict.offset) < 1


def test_of_two_nodes_nobody_can_tell_who_is_wrong_and_both_are_told() -> None:
    verdict = watch(13.0).verdict(0.0)
    assert verdict.offset == -13.0
    assert "13 s behind the only other node: is NTP running on both?" in verdict.text


def test_beyond_half_a_window_it_says_that_nodes_may_not_hear_each_other() -> None:
    assert "Beyond half a window" in watch(20.0, interval=30.0).verdict(0.0).text
    assert "Beyond half a window" not in watch(12.0, interval=30.0).verdict(0.0).text


def test_a_message_of_another_window_proves_the_distance_to_its_edge() -> None:
    made = ClockWatch(360.0)
    made.heard_window("go", WALL + 40, WALL + 400, WALL, 0.0)
    assert made.verdict(0.0).offset == -40.0
    made.heard_window("go", WALL - 400, WALL - 40, WALL, 0.0)
    assert made.verdict(0.0).offset == 39.0


def test_a_message_just_after_a_change_proves_nothing() -> None:
    made = ClockWatch(30.0)
    made.heard_window("go", WALL - 30.5, WALL - 0.5, WALL, 0.0)
    assert made.verdict(0.0).text == ""


def test_what_was_heard_long_ago_and_who_left_count_no_more() -> None:
    made = watch(60.0)
    assert made.verdict(REMEMBERED).text == ""
    made = watch(60.0)
    made.forget("p0")
    assert made.verdict(0.0).peers == 0


def test_it_does_not_grow() -> None:
    assert watch(*[1.0] * (MAX_PEERS + 50)).verdict(0.0).peers == MAX_PEERS
