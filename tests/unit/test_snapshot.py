"""A ledger as a file: whole, of this network, and without what has expired."""

import contextlib
import hashlib

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.reap import TOMBSTONE_TTL
from edgevpn.ledger.snapshot import MAX_SIZE, NO_TAG, read_snapshot_untrusted, still_valid, write_snapshot
from edgevpn.ledger.state import LedgerState
from edgevpn.proto import network_config
from edgevpn.proto.block import MAX_BLOCK_SIZE, Block, write_block
from edgevpn.proto.entry import Entry, sign_entry
from edgevpn.proto.network_tag import lease_name, ledger_tag
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL, heartbeats, machine, tombstone
from tests.unit.test_block import BLOCKS

TAG = bytes(range(16))


@given(BLOCKS, st.binary(min_size=16, max_size=16))
def test_a_snapshot_gives_the_block_back(block, tag):
    assert write_block(read_snapshot_untrusted(write_snapshot(block, tag), tag)) == write_block(block)


def test_a_restored_ledger_goes_on():
    state, other = LedgerState(ALICE, NOW, ttl=TTL), LedgerState(ALICE, NOW, ttl=TTL)
    state.announce("custom", "k", "v", NOW)
    other.restore(read_snapshot_untrusted(write_snapshot(state.block)))
    assert other.block == state.block
    assert other.announce("custom", "k", "v", NOW) is None


SNAPSHOT = write_snapshot(Block(3, "t", {"custom": {"k": Entry("v")}}, "h", "p"), TAG)
LIST = TAG + (2).to_bytes(8, "big") + hashlib.sha256(TAG + b"[]").digest() + b"[]"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (SNAPSHOT[:5], "cut short"),
        (SNAPSHOT[:30], "cut short"),
        (SNAPSHOT[:-1], "cut short"),
        (SNAPSHOT + b"x", "behind its end"),
        (SNAPSHOT[:-1] + b"x", "checksum"),
        (b"edgevpn ledger 1\n" + SNAPSHOT[17:], "another version"),
        (b"\x7fELF", "not a ledger"),
        (b"\0" * len(SNAPSHOT), "not a ledger"),
        (SNAPSHOT[:33] + b"\xff" * 8 + SNAPSHOT[41:], "larger than"),
        (SNAPSHOT[:17] + LIST, "not a JSON object"),
        (write_snapshot(Block(), NO_TAG), "another network"),
    ],
)
def test_each_way_in_which_a_snapshot_is_bad_has_its_text(data, why):
    with pytest.raises(UntrustedDataError, match=why):
        read_snapshot_untrusted(data, TAG)


@given(st.integers(0, len(SNAPSHOT) - 1))
def test_every_torn_snapshot_is_noticed(size):
    with pytest.raises(UntrustedDataError, match=r"cut short|empty"):
        read_snapshot_untrusted(SNAPSHOT[:size], TAG)


@given(st.integers(0, len(SNAPSHOT) - 1), st.integers(1, 255))
def test_every_flipped_byte_is_noticed(at, flip):
    damaged = bytearray(SNAPSHOT)
    damaged[at] ^= flip
    with pytest.raises(UntrustedDataError):
        read_snapshot_untrusted(bytes(damaged), TAG)


@given(st.binary())
def test_any_file_is_a_snapshot_or_refused(data):
    for content in (data, SNAPSHOT[:17] + data):
        with contextlib.suppress(UntrustedDataError):
            read_snapshot_untrusted(content, TAG)


def test_the_largest_block_fits_in_the_largest_file():
    assert len(write_snapshot(Block())) - len(write_block(Block())) == MAX_SIZE - MAX_BLOCK_SIZE


def test_the_tag_tells_networks_apart_and_holds_no_secret():
    one, two = network_config.generate(), network_config.generate()
    assert ledger_tag(one) == ledger_tag(network_config.parse_token(one.to_token()))
    assert len({ledger_tag(one), ledger_tag(two), lease_name(one).encode(), lease_name(two).encode()}) == 4
    assert len(ledger_tag(one)) == 16


# --- what was kept for long


def kept(storage, now, mine="nobody"):
    return still_valid(Block(5, "t", storage), now, TTL, mine).storage


def test_what_expired_by_its_lease_is_not_brought_back():
    custom = {"k": sign_entry(BOB, "custom", "k", "1", 1, int(NOW))}
    storage = {"machines": {"10.1.0.1": machine(BOB)}, "healthcheck": heartbeats(BOB), "custom": custom}
    assert kept(storage, NOW + TTL - 1) == storage
    assert kept(storage, NOW + TTL + 1) == {"custom": custom}


def test_our_own_entries_stay_however_long_we_were_away():
    storage = {"machines": {"10.1.0.1": machine(ALICE)}, "healthcheck": heartbeats(ALICE)}
    assert kept(storage, NOW + 86400, ALICE.peer_id) == storage


def test_old_tombstones_go_and_young_ones_stay():
    young = tombstone(CAROL, 2, key="10.1.0.2", updated_at=NOW + 10)
    storage = {"machines": {"10.1.0.1": tombstone(BOB, 2), "10.1.0.2": young}}
    assert kept(storage, NOW + TOMBSTONE_TTL + 1) == {"machines": {"10.1.0.2": young}}


def test_what_was_kept_and_is_not_announced_again_is_cleaned_up_when_its_lease_ends():
    storage = {"machines": {"10.1.0.1": machine(BOB)}, "healthcheck": heartbeats(BOB)}
    state = LedgerState(ALICE, NOW, ttl=TTL)
    state.restore(still_valid(Block(5, "t", storage), NOW + 60, TTL, ALICE.peer_id))
    assert state.get("machines", "10.1.0.1") == machine(BOB)
    assert not state.reap(NOW + TTL - 1).tombstones
    state.reap(NOW + TTL + 1)
    assert state.entries("machines") == {}
