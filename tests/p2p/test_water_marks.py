"""Which connections are given up when there are many."""

from hypothesis import given, strategies as st

from edgevpn.p2p.water_marks import GRACE, Held, low_mark, whom_to_part_with

NOW = 1000.0


def held(peer, *, connections=1, age=100.0, silent=0.0, streams=0, of_the_network=False, kept=False):
    return Held(peer, connections, NOW - age, NOW - silent, streams, of_the_network, kept)


def test_below_the_high_mark_and_without_one_all_stay():
    peers = [held(str(number)) for number in range(10)]
    assert whom_to_part_with(peers, 10, 5, NOW) == []
    assert whom_to_part_with(peers, 0, 0, NOW) == []


def test_above_it_strangers_go_first_then_who_is_idle_down_to_the_low_mark():
    peers = [
        held("member", of_the_network=True),
        held("busy", streams=3),
        held("silent", silent=50.0),
        held("stranger"),
        held("busy member", of_the_network=True, streams=2),
    ]
    assert whom_to_part_with(peers, 4, 2, NOW) == ["silent", "stranger", "busy"]
    assert whom_to_part_with(peers, 4, 1, NOW) == ["silent", "stranger", "busy", "member"]


def test_young_connections_and_peers_named_by_hand_stay():
    peers = [held("young", age=GRACE - 1), held("named", kept=True), held("other")]
    assert whom_to_part_with(peers, 1, 1, NOW) == ["other"]


def test_a_peers_connections_count_one_by_one():
    peers = [held("two", connections=2), held("one", streams=1)]
    assert whom_to_part_with(peers, 2, 1, NOW) == ["two"]


def test_without_a_low_mark_it_is_three_quarters_of_the_high_one():
    assert low_mark(100, 0) == 75
    assert low_mark(100, 20) == 20
    assert low_mark(100, 200) == 100


@given(st.integers(0, 60), st.integers(1, 50), st.integers(0, 50))
def test_it_is_never_more_than_needed(count, high, low):
    gone = whom_to_part_with([held(str(number)) for number in range(count)], high, low, NOW)
    left = count - len(gone)
    assert left == (count if count <= high else low_mark(high, low))
