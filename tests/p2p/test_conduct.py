"""Peers that misbehave are refused for a while, and forgotten."""

from edgevpn.p2p.conduct import FIRST, FORGOTTEN, HALF_LIFE, LONGEST, MOST, Conduct


def test_two_pieces_of_garbage_and_the_peer_is_refused_for_a_minute():
    conduct = Conduct()
    assert conduct.note("A", "malformed", 0.0) is None
    assert conduct.note("A", "malformed", 0.0) == FIRST
    assert conduct.is_refused("A", FIRST - 1)
    assert not conduct.is_refused("A", FIRST)
    assert not conduct.is_refused("B", 1.0)


def test_now_and_then_an_offence_is_forgiven():
    conduct = Conduct()
    assert [conduct.note("A", "malformed", number * 2 * HALF_LIFE) for number in range(50)] == [None] * 50


def test_who_goes_on_is_refused_for_twice_as_long_each_time_up_to_an_hour():
    conduct = Conduct()
    now, refused = 0.0, []
    while len(refused) < 9:
        seconds = conduct.note("A", "oversized", now)
        if seconds is not None:
            refused.append(seconds)
            now += seconds
            assert conduct.expire(now) == ["A"]
    assert refused == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert LONGEST == 3600


def test_offences_while_it_is_refused_already_add_nothing():
    conduct = Conduct()
    conduct.note("A", "malformed", 0.0)
    assert conduct.note("A", "malformed", 0.0) == FIRST
    assert [conduct.note("A", "malformed", 1.0) for _ in range(5)] == [None] * 5


def test_an_hour_after_its_last_offence_nothing_is_known_of_a_peer():
    conduct = Conduct()
    for _ in range(2):
        conduct.note("A", "malformed", 0.0)
    conduct.note("B", "flood", 0.0)
    assert conduct.expire(FIRST + 1) == ["A"]
    assert conduct.expire(FIRST + 1) == []
    conduct.expire(FORGOTTEN + 1)
    assert len(conduct) == 1
    conduct.expire(FIRST + FORGOTTEN + 3)
    assert len(conduct) == 0


def test_the_records_are_bounded_and_unknown_offences_count_for_nothing():
    conduct = Conduct()
    for number in range(2 * MOST):
        conduct.note(str(number), "flood", 0.0)
    assert len(conduct) == MOST
    assert [conduct.note("A", "looks odd", 0.0) for _ in range(100)] == [None] * 100


def test_who_had_to_make_room_may_come_back_so_that_nobody_is_refused_for_ever() -> None:
    conduct = Conduct()
    for number in range(2 * MOST):
        for _ in range(2):
            conduct.note(f"peer {number}", "malformed", 0.0)
    assert len(conduct) == MOST
    assert set(conduct.expire(1.0)) == {f"peer {number}" for number in range(MOST)}
    assert conduct.expire(2.0) == []
    assert len(conduct.expire(FIRST + 1)) == MOST
