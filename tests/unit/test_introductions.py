"""Members tell each other where the others are."""

import random

from edgevpn.ledger.introductions import FEW, MAX_PEERS, MOST_NEW, MOST_TOLD, PERIOD, Introductions, where_it_is


def places(count, start=0):
    return {f"P{number}": [f"/ip4/10.0.0.1/tcp/{number + 1}"] for number in range(start, start + count)}


def introductions():
    return Introductions(random.Random(1))


def test_a_newcomer_is_told_of_the_others_and_they_of_it():
    where = places(3)
    words = dict(introductions().on_link("P2", where))
    assert words == {
        "P2": [("P0", where["P0"]), ("P1", where["P1"])],
        "P0": [("P2", where["P2"])],
        "P1": [("P2", where["P2"])],
    }


def test_the_first_peer_and_peers_without_addresses_are_no_news():
    assert introductions().on_link("P0", places(1)) == []
    assert introductions().on_link("P0", {"P0": [], "P1": []}) == []


def test_in_a_large_network_only_the_newcomer_is_told_and_only_of_some():
    words = introductions().on_link("P0", places(FEW + 1))
    assert [peer for peer, _ in words] == ["P0"]
    assert len(words[0][1]) == MOST_TOLD


def test_who_is_connected_already_is_not_dialled_and_nobody_twice():
    named = [*places(3).items(), *places(3).items()]
    assert [peer for peer, _ in introductions().heard("A", named, ["P1"], 0.0)] == ["P0", "P2"]


def test_a_member_makes_us_dial_so_many_in_a_minute_and_no_more():
    told = introductions()
    dialled = 0
    for number in range(100):
        dialled += len(told.heard("A", places(MOST_TOLD, number * 100).items(), (), number * 0.5))
    assert dialled == MOST_NEW
    assert told.heard("A", places(1).items(), (), PERIOD + 1)
    assert told.heard("B", places(1).items(), (), 50.0)
    for number in range(2 * MAX_PEERS):
        told.heard(f"{number}", places(1).items(), (), 50.0)
    assert len(told._heeded) == MAX_PEERS


def test_where_an_inbound_connection_came_from_is_not_told():
    assert where_it_is(["/ip4/10.0.0.9/tcp/50000"], ["/ip4/10.0.0.9/tcp/4001"], dialled=False) == [
        "/ip4/10.0.0.9/tcp/4001"
    ]
    assert where_it_is(["/ip4/10.0.0.9/tcp/4001"], ["/ip4/10.0.0.9/tcp/4001"], dialled=True) == [
        "/ip4/10.0.0.9/tcp/4001"
    ]
