"""Time that went on without us."""

import pytest
from hypothesis import given, strategies as st

from edgevpn.proto.clock_jump import LATE, SET, ClockLooks, Jump

WALL = 1.8e9


def test_clocks_that_go_on_together_tell_of_nothing():
    looks = ClockLooks(5.0, WALL)
    for number in range(1, 100):
        assert looks.look(5.0 + number * 0.8, WALL + number * 0.8001, 1.0) is None


@pytest.mark.parametrize(("by", "said"), [(8 * 3600.0, "went on by 28800 s"), (-8 * 3600.0, "went back by 28800 s")])
def test_a_wall_clock_that_was_set_is_noticed_once(by, said):
    looks = ClockLooks(5.0, WALL)
    jump = looks.look(6.0, WALL + 1 + by, 1.0)
    assert jump == Jump(by, 0.0)
    assert said in str(jump)
    assert looks.look(7.0, WALL + 2 + by, 1.0) is None


def test_a_process_that_was_stopped_is_noticed_though_the_clocks_agree():
    looks = ClockLooks(5.0, WALL)
    jump = looks.look(605.0, WALL + 600, 1.0)
    assert jump == Jump(0.0, 599.0)
    assert str(jump) == "stood still for 599 s"


@given(st.floats(0, 30), st.floats(0, LATE), st.floats(-SET, SET))
def test_a_look_a_little_late_or_a_clock_that_is_slewed_is_no_jump(within, late, slewed):
    looks = ClockLooks(0.0, WALL)
    passed = (within + late) * 0.99
    assert looks.look(passed, WALL + passed + slewed * 0.99, within) is None
