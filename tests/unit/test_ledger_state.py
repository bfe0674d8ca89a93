"""The ledger of one node: writing and merging."""

import pytest

from edgevpn.ledger.merge import TOO_FAR_AHEAD, Place
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.quota import Quota
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto.block import MAX_INDEX, MAX_VALUE, Block, checksum, read_block_untrusted, write_block
from edgevpn.proto.entry import MAX_VERSION, Entry, verify_entry
from tests.unit.ledger_samples import ALICE, BOB, NOW, TTL, heartbeats, machine, machine_value, tombstone

NS = 10**9


def ledger(owner=ALICE, mode=Mode.ENFORCE, storage=None, **options):
    block = None if storage is None else Block(7, "t", storage, "h", "p")
    return LedgerState(owner, NOW, mode=mode, ttl=TTL, block=block, **options)


def test_a_write_is_signed_and_its_version_is_the_time():
    state = ledger()
    entry = state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW + 1.5)
    assert entry == state.get("machines", "10.1.0.1")
    assert (entry.version, entry.updated_at, entry.owner) == (
        int(NOW + 1.5) * NS + NS // 2,
        int(NOW) + 1,
        ALICE.peer_id,
    )
    assert verify_entry("machines", "10.1.0.1", entry)


def test_a_value_that_did_not_change_is_not_signed_again_unless_asked():
    state = ledger()
    first = state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW)
    assert state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW + 9) is None
    assert state.index == 1
    again = state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW + 9, force=True)
    assert again.version > first.version


def test_versions_grow_even_when_the_clock_goes_back():
    state = ledger()
    first = state.announce("custom", "k", "1", NOW)
    assert state.announce("custom", "k", "2", NOW - 1000).version == first.version + 1


def test_a_write_that_peers_would_refuse_is_refused_here():
    state = ledger(storage={"machines": {"10.1.0.1": machine(BOB)}, "healthcheck": heartbeats(BOB)})
    with pytest.raises(WriteRefusedError, match="owned by another peer"):
        state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW)
    with pytest.raises(WriteRefusedError, match="does not match signer"):
        state.announce("machines", "10.1.0.2", machine_value(BOB), NOW)
    with pytest.raises(WriteRefusedError, match="non-owner"):
        state.delete("machines", "10.1.0.1", NOW)
    assert state.index == 7
    assert state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW + TTL) is not None


def test_observing_nodes_write_what_they_like():
    state = ledger(mode=Mode.OBSERVE, storage={"machines": {"10.1.0.1": machine(BOB)}, "healthcheck": heartbeats(BOB)})
    assert state.announce("machines", "10.1.0.1", machine_value(ALICE), NOW) is not None


def test_a_locked_key_is_not_written():
    state = ledger(storage={"custom": {"k": Entry("v", version=MAX_VERSION)}})
    with pytest.raises(WriteRefusedError, match="last version"):
        state.announce("custom", "k", "w", NOW)


@pytest.mark.parametrize(("key", "value"), [("k" * 5000, ""), ("k", "v" * (MAX_VALUE + 1)), ("k", "\ud800")])
def test_what_peers_could_not_read_is_not_written(key, value):
    state = ledger()
    with pytest.raises(WriteRefusedError) as caught:
        state.announce("custom", key, value, NOW)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_a_full_ledger_takes_no_new_keys_of_ours():
    state = ledger(quota=Quota(entries=1))
    state.announce("custom", "a", "1", NOW)
    with pytest.raises(WriteRefusedError, match="full"):
        state.announce("custom", "b", "1", NOW)
    assert state.announce("custom", "a", "2", NOW) is not None


def test_a_deletion_is_a_tombstone_that_readers_do_not_see():
    state = ledger()
    state.announce("custom", "k", "v", NOW)
    gone = state.delete("custom", "k", NOW + 1)
    assert gone.deleted
    assert state.get("custom", "k") == gone
    assert state.entries("custom") == {}
    assert state.delete("custom", "k", NOW + 2) is None
    assert state.delete("custom", "other", NOW) is None
    assert state.announce("custom", "k", "v", NOW + 3).version > gone.version


def test_without_ownership_entries_are_bare_and_deletions_leave_nothing():
    state = ledger(mode=Mode.OFF)
    assert state.announce("custom", "k", "v", NOW) == Entry("v")
    assert state.announce("custom", "k", "v", NOW) is None
    assert state.delete("custom", "k", NOW).deleted
    assert state.get("custom", "k") is None
    state.announce("healthcheck", ALICE.peer_id, "x", NOW)
    state.drop_bucket("healthcheck", NOW)
    assert "healthcheck" not in state.storage
    assert state.reap(NOW).storage is state.storage
    with pytest.raises(ValueError, match="one by one"):
        ledger().drop_bucket("healthcheck", NOW)


def test_without_ownership_the_higher_block_is_adopted_whole():
    state = ledger(mode=Mode.OFF, storage={"a": {"k": Entry("1"), "l": Entry("1")}})
    assert state.merge(Block(6, storage={"b": {"k": Entry("2")}}), NOW).older
    higher = Block(8, "t", {"a": {"k": Entry("2"), "l": Entry("1")}}, "x", "y")
    result = state.merge(higher, NOW)
    assert result.changed == {Place("a", "k"): Entry("2")}
    assert (result.received, result.identical) == (2, 1)
    assert state.block is higher


def test_each_change_makes_a_block_and_its_hash_is_right():
    state = ledger()
    first = state.block
    assert state.block is first
    state.announce("custom", "k", "v", NOW + 1)
    second = state.block
    assert (second.index, second.prev_hash, second.hash) == (1, first.hash, checksum(second))
    assert second.timestamp == "2026-08-12 10:00:01 +0000 UTC"


def test_a_storage_that_was_handed_out_does_not_change():
    state = ledger()
    state.announce("custom", "k", "v", NOW)
    before = state.storage
    state.announce("custom", "k", "w", NOW)
    state.merge(Block(storage={"custom": {"l": Entry("x")}}), NOW)
    assert before["custom"].keys() == {"k"}
    assert before["custom"]["k"].value == "v"


def test_the_number_of_a_block_does_not_outgrow_what_go_can_read():
    state = LedgerState(ALICE, NOW, mode=Mode.OFF, block=Block(MAX_INDEX))
    state.announce("custom", "k", "v", NOW)
    assert read_block_untrusted(write_block(state.block)).index == MAX_INDEX


def test_versions_far_ahead_of_our_clock_are_refused_by_default():
    result = ledger().merge(Block(storage={"machines": {"10.1.0.1": machine(BOB, MAX_VERSION)}}), NOW)
    assert [violation.reason for violation in result.violations] == [TOO_FAR_AHEAD]
    assert ledger(max_ahead=None).merge(Block(storage={"custom": {"k": Entry("v", version=MAX_VERSION)}}), NOW).changed


def test_a_partial_block_tells_only_what_changed_and_no_node_adopts_it():
    state, other = ledger(), ledger(BOB, storage={"custom": {"old": Entry("x", version=1)}})
    entry = state.announce("custom", "k", "v", NOW)
    partial = state.partial_block({Place("custom", "k"): entry}, NOW)
    other.merge(read_block_untrusted(write_block(partial)), NOW)
    assert other.entries("custom").keys() == {"old", "k"}
    off = ledger(BOB, Mode.OFF)
    assert not off.merge(partial, NOW).changed


def test_a_lagging_block_lacks_what_we_have():
    state = ledger()
    state.announce("custom", "k", "v", NOW)
    assert state.lacks(Block())
    assert not state.lacks(Block(storage={"custom": {"k": Entry("other"), "more": Entry("")}}))


def test_the_leaders_clean_up_makes_a_block():
    state = ledger(storage={"machines": {"10.1.0.1": machine(BOB)}})
    assert Place("machines", "10.1.0.1") in state.reap(NOW).tombstones
    assert state.index == 8
    assert state.get("machines", "10.1.0.1").deleted


def test_a_node_that_lost_its_ledger_outdoes_what_others_kept_of_it():
    others = ledger(BOB, storage={"machines": {"10.1.0.1": tombstone(BOB, int(NOW - 60) * NS)}})
    fresh = ledger()
    fresh.announce("machines", "10.1.0.1", machine_value(ALICE), NOW)
    assert others.merge(fresh.block, NOW).changed


def test_no_secret_is_in_a_dump_of_the_state():
    assert ALICE.seed.hex() not in repr(vars(ledger()))


def test_a_node_without_ownership_is_outdone_where_it_lacks_something_and_nobody_else_is():
    ours = {"machines": {"10.1.0.1": machine(ALICE)}, "healthcheck": heartbeats(ALICE)}
    bare = Block(12, "t", {"machines": {"10.1.0.2": Entry(machine_value(BOB))}}, "zz", "p")
    state = ledger(storage=ours)
    assert state.outdo(bare)
    assert state.index == 13
    assert state.block.hash == checksum(state.block)
    assert not state.outdo(bare), "it is outdone already"
    signed = Block(99, "t", {"machines": {"10.1.0.2": machine(BOB)}}, "zz", "p")
    last = Block(MAX_INDEX, "t", bare.storage, "zz", "p")
    for other in (signed, last):
        assert not state.outdo(other)
    assert state.index == 13
    without = ledger(mode=Mode.OFF)
    assert not without.outdo(bare)
