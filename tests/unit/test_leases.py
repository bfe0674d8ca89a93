"""Who is live, and what has expired."""

import pytest

from edgevpn.ledger.leases import Leases, is_older
from edgevpn.ledger.policy import OPEN, owner_of, policy_of
from edgevpn.proto.entry import Entry
from tests.unit.ledger_samples import ALICE, BOB, NOW, TTL, heartbeat, heartbeats, machine, machine_value, tombstone


def leases(*owners, at=NOW):
    return Leases({"healthcheck": heartbeats(*owners, at=at)}, NOW, TTL)


def test_a_peer_is_live_while_its_heartbeat_is_younger_than_the_ttl():
    assert leases(ALICE).is_live(ALICE.peer_id)
    assert leases(ALICE, at=NOW - TTL + 1).is_live(ALICE.peer_id)
    assert not leases(ALICE, at=NOW - TTL).is_live(ALICE.peer_id)
    assert not leases(ALICE).is_live(BOB.peer_id)


def test_a_heartbeat_of_the_future_counts():
    assert leases(ALICE, at=NOW + 10**8).is_live(ALICE.peer_id)


def test_a_deleted_or_unreadable_heartbeat_does_not_count():
    for entry in (tombstone(ALICE, 2, "healthcheck", ALICE.peer_id), Entry("null"), Entry('"soon"')):
        assert not Leases({"healthcheck": {ALICE.peer_id: entry}}, NOW, TTL).is_live(ALICE.peer_id)


def test_live_peers_are_sorted():
    assert leases(BOB, ALICE).live_peers() == [ALICE.peer_id, BOB.peer_id]


def test_entries_expire_with_their_owner():
    entry, policy = machine(ALICE), policy_of("machines")
    assert not leases(ALICE).has_expired(policy, "10.1.0.1", entry)
    assert leases(BOB).has_expired(policy, "10.1.0.1", entry)


def test_an_unsigned_entry_expires_with_whom_it_names():
    entry, policy = Entry(machine_value(ALICE)), policy_of("machines")
    assert owner_of(policy, "10.1.0.1", entry) == ALICE.peer_id
    assert not leases(ALICE).has_expired(policy, "10.1.0.1", entry)
    assert leases(ALICE).has_expired(policy_of("dns"), "^x$", entry)


def test_a_heartbeat_entry_expires_by_its_own_time_and_later_than_liveness():
    policy = policy_of("healthcheck")
    old = heartbeat(ALICE, NOW - TTL)
    assert not leases(ALICE, at=NOW - TTL).is_live(ALICE.peer_id)
    assert not leases().has_expired(policy, ALICE.peer_id, old)
    assert leases().has_expired(policy, ALICE.peer_id, heartbeat(ALICE, NOW - TTL - 1))


def test_open_entries_never_expire():
    assert not leases().has_expired(OPEN, "k", Entry("v"))


@pytest.mark.parametrize(
    ("updated_at", "older"),
    [(-(2**63), True), (2**63 - 1, True), (2**63 - 62_135_596_801, False), (-(10**15), True), (10**15, False)],
)
def test_times_at_the_far_end_wrap_around_as_in_go(updated_at, older):
    assert is_older(Entry("", updated_at=updated_at), 0, int(NOW) * 10**9) is older
