"""The leader's clean-up."""

from edgevpn.ledger.merge import Place, merge_storage
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.reap import TOMBSTONE_TTL, reap, version_after
from edgevpn.proto.entry import MAX_VERSION, Entry, verify_entry
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL, heartbeat, heartbeats, machine, tombstone

MACHINE = Place("machines", "10.1.0.1")


def test_what_a_dead_node_left_gets_a_tombstone_that_others_accept():
    old = NOW - TTL - 1
    storage = {"machines": {"10.1.0.1": machine(ALICE)}, "healthcheck": {ALICE.peer_id: heartbeat(ALICE, old)}}
    result = reap(storage, BOB, NOW, TTL)
    assert set(result.tombstones) == {MACHINE, Place("healthcheck", ALICE.peer_id)}
    assert all(verify_entry(place.bucket, place.key, entry) for place, entry in result.tombstones.items())
    elsewhere = merge_storage(storage, result.storage, mode=Mode.ENFORCE, now=NOW, ttl=TTL)
    assert elsewhere.storage == result.storage
    assert elsewhere.violations == ()


def test_what_is_live_or_open_is_left_alone():
    storage = {
        "machines": {"10.1.0.1": machine(ALICE)},
        "healthcheck": heartbeats(ALICE),
        "custom": {"k": Entry("v")},
    }
    result = reap(storage, BOB, NOW, TTL)
    assert result.storage is storage
    assert not result.tombstones


def test_tombstones_are_dropped_when_all_have_seen_them():
    storage = {
        "machines": {"10.1.0.1": tombstone(CAROL, 5, updated_at=NOW - TOMBSTONE_TTL)},
        "custom": {"k": Entry("", deleted=True, updated_at=int(NOW - TOMBSTONE_TTL - 1))},
    }
    result = reap(storage, BOB, NOW, TTL)
    assert result.dropped == (Place("custom", "k"),)
    assert result.storage == {"machines": storage["machines"], "custom": {}}
    assert "k" in storage["custom"]


def test_a_version_is_the_time_or_one_more_and_wraps():
    assert version_after(0, NOW) == int(NOW) * 10**9
    assert version_after(2**62, NOW) == 2**62 + 1
    assert version_after(MAX_VERSION, NOW) == int(NOW) * 10**9
