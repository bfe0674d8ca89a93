"""What a relay promises and carries: reservations, limits, who may."""

from __future__ import annotations

import random

import edgevpn.p2p  # noqa: F401  # before libp2p  # isort: skip
from edgevpn.p2p.circuit import Status
from edgevpn.p2p.relay_table import MAX_CIRCUITS, MAX_RESERVATIONS, Limits, RelayTable

LIMITS = Limits(max_circuits=3, reservation_ttl=100.0)


def test_only_members_reserve_and_only_members_open() -> None:
    table = RelayTable(LIMITS, {"a", "b"})
    assert table.reserve("stranger", "1", 0.0) is Status.PERMISSION_DENIED
    assert table.reserve("a", "1", 0.0) is Status.OK
    assert table.open("stranger", "a", 1.0) is Status.PERMISSION_DENIED
    assert table.open("b", "a", 1.0) is Status.OK


def test_without_a_list_of_members_everybody_may() -> None:
    table = RelayTable(LIMITS, None)
    assert table.reserve("anybody", "1", 0.0) is Status.OK
    assert table.open("somebody", "anybody", 1.0) is Status.OK


def test_nobody_is_reached_without_a_reservation_of_its_own() -> None:
    table = RelayTable(LIMITS, {"a", "b", "c"})
    table.reserve("a", "1", 0.0)
    assert table.open("a", "b", 1.0) is Status.NO_RESERVATION
    assert table.open("c", "b", 1.0) is Status.NO_RESERVATION
    assert table.open("a", "a", 1.0) is Status.NO_RESERVATION


def test_a_reservation_ends_in_time_unless_it_is_renewed_and_with_its_connection() -> None:
    table = RelayTable(LIMITS, {"a", "b"})
    table.reserve("a", "1", 0.0)
    table.reserve("a", "1", 60.0)
    assert table.open("b", "a", 159.0) is Status.OK
    assert table.open("b", "a", 160.0) is Status.NO_RESERVATION
    table.reserve("a", "1", 161.0)
    table.gone("a")
    assert table.open("b", "a", 162.0) is Status.NO_RESERVATION
    assert table.reservations == 0


def test_who_is_no_member_any_more_gets_no_more_circuits() -> None:
    members = {"a", "b"}
    table = RelayTable(LIMITS, members)
    table.reserve("a", "1", 0.0)
    members.discard("a")
    assert table.open("b", "a", 1.0) is Status.PERMISSION_DENIED
    assert table.reserve("a", "1", 2.0) is Status.PERMISSION_DENIED


def test_circuits_are_bounded_for_each_end_and_come_back() -> None:
    table = RelayTable(LIMITS, {"a", "b", "c", "d"})
    for peer in ("a", "b"):
        table.reserve(peer, "1", 0.0)
    assert [table.open("c", "a", 1.0) for _ in range(3)] == [Status.OK] * 3
    assert table.open("c", "b", 1.0) is Status.RESOURCE_LIMIT_EXCEEDED  # c has three
    assert table.open("d", "a", 1.0) is Status.RESOURCE_LIMIT_EXCEEDED  # a has three
    assert table.open("d", "b", 1.0) is Status.OK
    table.close("c", "a")
    assert table.open("d", "a", 1.0) is Status.OK


def test_one_address_gets_half_of_the_reservations_and_all_together_are_bounded() -> None:
    table = RelayTable(LIMITS, None)
    said = [table.reserve(f"x{n}", "1", 0.0) for n in range(MAX_RESERVATIONS)]
    assert said.count(Status.OK) == MAX_RESERVATIONS // 2
    said = [table.reserve(f"y{n}", str(n), 0.0) for n in range(MAX_RESERVATIONS)]
    assert said.count(Status.OK) == MAX_RESERVATIONS // 2
    assert table.reserve("x0", "1", 1.0) is Status.OK  # who has one renews it
    assert table.reserve("late", "z", 99.0) is Status.RESERVATION_REFUSED
    assert table.reserve("late", "z", 100.0) is Status.OK  # the others have expired
    assert table.reservations == 2


def test_circuits_of_all_together_are_bounded() -> None:
    table = RelayTable(LIMITS, None)
    for n in range(MAX_RESERVATIONS):
        table.reserve(f"t{n}", str(n), 0.0)
    said = [table.open(f"s{n}", f"t{n % MAX_RESERVATIONS}", 1.0) for n in range(2 * MAX_RESERVATIONS + 9)]
    assert said.count(Status.OK) == MAX_CIRCUITS


def test_whatever_is_asked_nothing_is_left_when_all_is_over() -> None:
    chance = random.Random(7)
    table = RelayTable(LIMITS, None)
    opened: list[tuple[str, str]] = []
    for step in range(5000):
        now = float(step)
        one, other = (f"p{chance.randrange(20)}" for _ in range(2))
        what = chance.random()
        if what < 0.4:
            table.reserve(one, one, now)
        elif what < 0.7 and table.open(one, other, now) is Status.OK:
            opened.append((one, other))
        elif what < 0.95 and opened:
            table.close(*opened.pop(chance.randrange(len(opened))))
        else:
            table.gone(one)
        assert table.circuits == len(opened)
        ends = [peer for pair in opened for peer in pair]
        assert max(map(ends.count, ends), default=0) <= LIMITS.max_circuits
    for pair in opened:
        table.close(*pair)
    table.expire(1e9)
    assert (table.circuits, table.reservations, dict(table._circuits)) == (0, 0, {})
