"""Each datagram is taken once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from edgevpn.tun.replay import TRAINS, WIDE, ReplayWindow


@given(st.lists(st.tuples(st.integers(1, 3 * TRAINS), st.integers(0, 9)), max_size=300))
def test_nothing_is_taken_twice_and_nothing_new_within_the_window_is_refused(arriving: list[tuple[int, int]]) -> None:
    window = ReplayWindow()
    taken: set[tuple[int, int]] = set()
    newest = 0
    for train, index in arriving:
        fresh = window.is_fresh(train, 1 << index)
        assert fresh == ((train, index) not in taken and train + TRAINS > newest)
        if fresh:
            window.mark(train, 1 << index)
            taken.add((train, index))
            newest = max(newest, train)


def test_a_train_of_which_a_part_has_come_is_not_fresh_as_a_whole() -> None:
    window = ReplayWindow()
    window.mark(5, 0b0100)
    assert not window.is_fresh(5, 0b1111)
    assert window.is_fresh(5, 0b1011)


def test_train_zero_is_never_used() -> None:
    assert not ReplayWindow().is_fresh(0, 1)


@given(
    st.lists(st.tuples(st.integers(1, 3 * TRAINS), st.integers(0, 9)), max_size=100),
    st.lists(st.tuples(st.integers(1, 8 * TRAINS), st.integers(0, 9)), max_size=200),
)
def test_a_window_that_was_widened_takes_nothing_twice(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    window = ReplayWindow()
    taken: set[tuple[int, int]] = set()
    newest = 0
    for number, (train, index) in enumerate([*before, *after]):
        if number == len(before):
            window.widen(WIDE)
            reaches = newest - TRAINS  # what was out of the window by then stays out
        if window.is_fresh(train, 1 << index):
            assert (train, index) not in taken
            window.mark(train, 1 << index)
            taken.add((train, index))
            newest = max(newest, train)
        elif number >= len(before) and train > max(reaches, newest - WIDE):
            assert (train, index) in taken
