"""The merge rules one by one; the Go program's own answers are in tests/vectors."""

import pytest
from msgspec.structs import replace

from edgevpn.ledger import merge as rules
from edgevpn.ledger.merge import Place, adopts, in_parts, joined, merge_storage
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.quota import Quota, Usage
from edgevpn.proto.block import NULL_BUCKET, Block
from edgevpn.proto.entry import MAX_VERSION, Entry, sign_entry, verify_entry
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL, heartbeats, machine, machine_value, peer, tombstone

KEY = "10.1.0.1"


def merge(existing, incoming, *, live=(ALICE, BOB, CAROL), mode=Mode.ENFORCE, bucket="machines", **bounds):
    """Merge one entry over another (or None) at the same place."""
    local = {"healthcheck": heartbeats(*live)}
    if existing is not None:
        local[bucket] = {KEY: existing}
    return merge_storage(local, {bucket: {KEY: incoming}}, mode=mode, now=NOW, ttl=TTL, **bounds)


def reasons(result):
    return [violation.reason for violation in result.violations]


def test_an_entry_that_is_there_already_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(rules, "verify_entry", lambda *_: pytest.fail("its signature was checked"))
    result = merge(machine(ALICE), machine(ALICE))
    assert (result.received, result.identical, result.older) == (1, 1, 0)
    assert not result.changed


def test_a_refused_entry_costs_no_signature_check(monkeypatch):
    monkeypatch.setattr(rules, "verify_entry", lambda *_: pytest.fail("its signature was checked"))
    assert reasons(merge(machine(ALICE, 5), machine(ALICE, 4))) == [rules.ROLLBACK]


def test_the_given_storage_is_never_changed():
    local = {"machines": {KEY: machine(ALICE)}, "users": NULL_BUCKET}
    result = merge_storage(local, {"machines": {KEY: machine(ALICE, 2)}}, mode=Mode.ENFORCE, now=NOW)
    assert local["machines"][KEY].version == 1
    assert result.storage["machines"][KEY].version == 2
    assert result.storage["users"] == {}
    assert result.storage["users"] is not NULL_BUCKET


def test_an_update_by_its_owner_is_taken():
    assert merge(machine(ALICE), machine(ALICE, 2)).changed == {Place("machines", KEY): machine(ALICE, 2)}


def test_a_live_peers_entry_is_safe_from_others():
    result = merge(machine(ALICE), machine(BOB, 9))
    assert reasons(result) == [rules.FOREIGN_LIVE]
    assert str(result.violations[0]) == f"machines/{KEY} from {BOB.peer_id}: {rules.FOREIGN_LIVE}"
    assert reasons(merge(machine(ALICE), tombstone(BOB, 9))) == [rules.FOREIGN_TOMBSTONE]


def test_a_silent_peers_entry_can_be_taken_over_by_a_version_that_is_not_lower():
    assert merge(machine(ALICE, 5), machine(BOB, 6), live=()).changed
    assert merge(machine(ALICE, 5), machine(BOB, 5), live=()).changed  # a tie goes to the greater peer ID
    assert reasons(merge(machine(BOB, 5), machine(ALICE, 5), live=())) == [rules.LOST_TIE]
    assert reasons(merge(machine(ALICE, 5), machine(BOB, 4), live=())) == [rules.ROLLBACK]


def test_a_value_must_be_signed_by_whom_it_names():
    forged = sign_entry(BOB, "machines", KEY, machine_value(ALICE), 9, int(NOW))
    assert reasons(merge(None, forged)) == [rules.WRONG_OWNER]


def test_a_tombstone_needs_something_to_delete_and_a_higher_version():
    assert reasons(merge(None, tombstone(ALICE, 9))) == [rules.UNKNOWN_TOMBSTONE]
    assert reasons(merge(machine(ALICE, 5), tombstone(ALICE, 5))) == [rules.STALE_TOMBSTONE]
    assert merge(machine(ALICE, 5), tombstone(ALICE, 6)).changed
    assert merge(machine(ALICE, 5), tombstone(BOB, 6), live=(BOB,)).changed


def test_a_tombstone_outlives_a_replayed_claim():
    assert reasons(merge(tombstone(ALICE, 6), machine(ALICE, 5))) == [rules.STALE_RECLAIM]
    assert reasons(merge(tombstone(ALICE, 6), machine(ALICE, 6))) == [rules.STALE_RECLAIM]


def test_a_deleted_key_is_free_for_a_newer_claim_of_anybody():
    assert merge(tombstone(ALICE, 6), machine(BOB, 7)).changed


def test_open_buckets_take_the_higher_version_signed_or_not():
    assert merge(Entry("a", version=1), Entry("b", version=2), bucket="custom").changed
    tie = merge(Entry("a", version=1), Entry("b", version=1), bucket="custom")
    assert not tie.changed
    assert tie.violations == ()
    assert merge(None, Entry("", version=1, deleted=True), bucket="custom").changed


def test_an_older_entry_tells_that_its_sender_lags_behind():
    assert merge(Entry("a", version=2), Entry("b", version=1), bucket="custom").older == 1
    assert merge(machine(ALICE, 5), machine(ALICE, 4)).older == 1
    assert merge(machine(ALICE, 5), machine(ALICE, 6)).older == 0


def test_observe_stores_what_breaks_a_rule_and_says_so():
    result = merge(machine(ALICE, 5), machine(ALICE, 4), mode=Mode.OBSERVE)
    assert result.storage["machines"][KEY].version == 4
    assert reasons(result) == [rules.ROLLBACK]


def test_a_rejected_entry_leaves_an_empty_bucket_if_anything_else_changed():
    incoming = {"machines": {KEY: tombstone(ALICE, 9)}, "files": {}, "custom": {"k": Entry("v")}}
    result = merge_storage({}, incoming, mode=Mode.ENFORCE, now=NOW)
    assert result.storage == {"machines": {}, "custom": {"k": Entry("v")}}
    assert merge_storage({}, {"machines": incoming["machines"]}, mode=Mode.ENFORCE, now=NOW).storage == {}


def test_versions_may_be_bounded_by_our_clock():
    day = int(NOW + 86_400) * 10**9
    for bucket, entry in (("machines", machine(ALICE, MAX_VERSION)), ("custom", Entry("v", version=MAX_VERSION))):
        assert reasons(merge(None, entry, bucket=bucket, max_ahead=86_400)) == [rules.TOO_FAR_AHEAD]
        assert merge(None, entry, bucket=bucket).changed
    assert merge(None, machine(ALICE, day), max_ahead=86_400).changed
    assert not merge(None, machine(ALICE, day + 1), max_ahead=86_400).changed


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE])
def test_a_full_ledger_takes_updates_but_no_new_keys(mode):
    local = {"custom": {"a": Entry("1"), "b": Entry("1")}}
    incoming = {"custom": {"a": Entry("2", version=2), "c": Entry("2", version=2), "d": Entry("2", version=2)}}
    result = merge_storage(local, incoming, mode=mode, now=NOW, usage=Usage(local, Quota(entries=3)))
    assert result.storage["custom"]["a"].value == "2"
    assert len(result.storage["custom"]) == 3
    assert reasons(result) == [rules.FULL]


def test_without_ownership_there_are_whole_blocks_only():
    with pytest.raises(ValueError, match="whole blocks"):
        merge_storage({}, {}, mode=Mode.OFF, now=NOW)
    assert adopts(Block(1, hash="b"), Block(2, hash="a"))
    assert adopts(Block(1, hash="a"), Block(1, hash="b"))
    assert not adopts(Block(1, hash="a"), Block(1, hash="a"))
    assert not adopts(Block(1, hash="a"), Block(1, hash="B"))


def test_an_entry_of_another_place_verifies_nowhere_else():
    assert not verify_entry("machines", "10.1.0.2", machine(ALICE))
    assert reasons(merge(None, machine(ALICE, key="10.1.0.2"))) == [rules.BAD_SIGNATURE]


def test_a_block_in_parts_does_what_the_whole_does():
    local = {"machines": {"10.1.0.1": machine(ALICE, 5)}}
    peers = [peer(number) for number in range(20)]
    incoming = {
        "machines": {
            "10.1.0.1": machine(ALICE, 4),
            **{f"10.1.1.{n}": machine(one, key=f"10.1.1.{n}") for n, one in enumerate(peers)},
            "10.1.2.1": replace(machine(BOB, key="10.1.2.1"), sig=bytes(64)),
        },
        "custom": {f"n{n}": Entry('"x"', version=n) for n in range(10)},
    }
    whole = merge_storage(local, incoming, mode=Mode.ENFORCE, now=NOW, ttl=TTL)
    storage, results = local, []
    for part in in_parts(incoming, 7):
        assert sum(map(len, part.values())) <= 7
        results.append(merge_storage(storage, part, mode=Mode.ENFORCE, now=NOW, ttl=TTL))
        storage = results[-1].storage
    assert len(results) == 5
    assert joined(results, local) == whole
    assert joined([], local).storage is local
