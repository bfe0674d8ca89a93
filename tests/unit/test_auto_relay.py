"""Whether a node needs relays, and when it asks which."""

from __future__ import annotations

import random

import edgevpn.p2p  # noqa: F401  # before libp2p  # isort: skip
from edgevpn.p2p.auto_relay import DESIRED, UNREACHED, AutoRelay, Reach, ip_of, judge, observed_ips
from edgevpn.p2p.peer_values import Sight

OWN = ["192.168.7.2", "fd00::2", "127.0.0.1"]


def seen(observed: str, *, outbound: bool = True, peer_id: str = "peer", punched: bool = False) -> Sight:
    return Sight(peer_id, outbound, observed, punched)


def auto() -> AutoRelay:
    return AutoRelay(300.0, random.Random(3))


# --- where this node is


def test_without_a_peers_word_nothing_is_known() -> None:
    assert judge([], OWN) is Reach.UNKNOWN


def test_who_is_seen_at_its_own_addresses_is_in_reach() -> None:
    sights = [seen("/ip4/192.168.7.2/tcp/50000"), seen("/ip6/fd00::2/tcp/4001", outbound=False)]
    assert judge(sights, OWN) is Reach.OPEN


def test_who_dialled_and_is_seen_elsewhere_is_behind_a_nat() -> None:
    near = seen("/ip4/192.168.7.2/tcp/4001", outbound=False, peer_id="on the LAN")
    assert judge([near, seen("/ip4/198.51.100.1/tcp/50000")], OWN) is Reach.BEHIND_NAT


def test_who_was_dialled_at_the_nats_address_is_in_reach() -> None:
    sights = [seen("/ip4/198.51.100.1/tcp/50000"), seen("/ip4/198.51.100.1/tcp/4001", outbound=False)]
    assert judge(sights, OWN) is Reach.OPEN


def test_a_hole_that_was_made_for_one_peer_is_no_door_for_others() -> None:
    punched = seen("/ip4/198.51.100.1/tcp/4001", outbound=False, punched=True)
    assert judge([punched, seen("/ip4/198.51.100.1/tcp/50000")], OWN) is Reach.BEHIND_NAT
    assert judge([punched], OWN) is Reach.BEHIND_NAT


def test_nonsense_and_loopback_say_nothing() -> None:
    for odd in ("/ip4/127.0.0.1/tcp/1", "/ip4/nonsense/tcp/1", "/dns4/x/tcp/1", "/", "", "/ip4/0.0.0.0/tcp/1"):
        assert ip_of(odd) == ""
        assert judge([seen(odd)], OWN) is Reach.OPEN
    assert ip_of("/ip6/::ffff:192.0.2.1/tcp/1") == "192.0.2.1"


def test_where_most_peers_see_us_comes_first_and_there_are_few() -> None:
    sights = [seen(f"/ip4/198.51.100.{n}/tcp/1", peer_id=f"p{n}{k}") for n in range(1, 9) for k in range(n)]
    assert observed_ips(sights, OWN) == ["198.51.100.8", "198.51.100.7", "198.51.100.6"]


# --- places at relays


def test_only_so_many_relays_are_asked_and_none_while_none_is_wanted() -> None:
    rules = auto()
    assert rules.take_due(["r1", "r2", "r3"], wanted=False, now=0.0) == []
    assert rules.take_due(["r1", "r2", "r3"], wanted=True, now=0.0) == ["r1", "r2"][:DESIRED]
    assert rules.take_due(["r1", "r2", "r3"], wanted=True, now=1.0) == []  # both are being asked
    rules.granted("r1", 3600.0, 1.0)
    rules.granted("r2", 3600.0, 1.0)
    assert rules.take_due(["r1", "r2", "r3"], wanted=True, now=2.0) == []


def test_a_place_is_renewed_before_it_ends() -> None:
    rules = auto()
    rules.take_due(["r1"], wanted=True, now=0.0)
    rules.granted("r1", 100.0, 0.0)
    due = rules.next_wakeup()
    assert 60.0 < due < 76.0
    assert rules.take_due(["r1"], wanted=True, now=due - 0.1) == []
    assert rules.take_due(["r1"], wanted=True, now=due) == ["r1"]
    rules.granted("r1", 100.0, due)
    assert rules.next_wakeup() > due + 60


def test_a_relay_that_refuses_is_asked_again_ever_more_seldom() -> None:
    rules, now, pauses = auto(), 0.0, []
    for _ in range(12):
        assert rules.take_due(["r1"], wanted=True, now=now) == ["r1"]
        rules.refused("r1", now)
        assert rules.take_due(["r1"], wanted=True, now=now + 0.4) == []
        pauses.append(rules.next_wakeup() - now)
        now = rules.next_wakeup()
    assert pauses[0] <= 1.0
    assert all(150.0 <= pause <= 300.0 for pause in pauses[-2:])


def test_when_a_relay_is_gone_another_takes_its_place() -> None:
    rules = auto()
    rules.take_due(["r1", "r2"], wanted=True, now=0.0)
    for relay in ("r1", "r2"):
        rules.granted(relay, 3600.0, 0.0)
    assert rules.take_due(["r2", "r3"], wanted=True, now=5.0) == ["r3"]
    assert set(rules.held) == {"r2"}


def test_a_place_that_can_not_be_renewed_is_given_up_for_another() -> None:
    rules = auto()
    rules.take_due(["r1"], wanted=True, now=0.0)
    rules.granted("r1", 100.0, 0.0)
    assert rules.take_due(["r1", "r2"], wanted=True, now=80.0) == ["r1", "r2"]
    rules.refused("r1", 80.0)
    rules.granted("r2", 100.0, 80.0)
    assert set(rules.held) == {"r2"}


def test_when_no_relay_is_wanted_any_more_none_is_held_and_nobody_wakes_up() -> None:
    rules = auto()
    rules.take_due(["r1", "r2"], wanted=True, now=0.0)
    rules.granted("r1", 100.0, 0.0)
    rules.refused("r2", 0.0)
    assert rules.take_due(["r1", "r2"], wanted=False, now=1.0) == []
    assert (rules.held, rules.next_wakeup()) == ({}, float("inf"))


def test_a_member_that_can_not_be_reached_makes_relays_wanted_for_a_while() -> None:
    rules = auto()
    assert not rules.is_unreached(0.0)
    rules.note_unreached(10.0)
    assert rules.is_unreached(10.0 + UNREACHED - 1)
    assert not rules.is_unreached(10.0 + UNREACHED)


def test_nothing_is_kept_of_relays_that_are_gone() -> None:
    rules = auto()
    for n in range(1000):
        for relay in rules.take_due([f"r{n}"], wanted=True, now=float(n)):
            rules.refused(relay, float(n))
    assert len(rules._pauses) == 1
    assert not rules._asking
