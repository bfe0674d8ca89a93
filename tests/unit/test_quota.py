"""Bounds on what a ledger takes in."""

from __future__ import annotations

import random

from edgevpn.ledger.merge import FULL
from edgevpn.ledger.quota import Quota, Usage
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from edgevpn.proto.entry import Entry, sign_entry
from edgevpn.proto.values import Service, write_value
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL


def ledger(**bounds: int) -> LedgerState:
    return LedgerState(ALICE, NOW, ttl=TTL, quota=Quota(**bounds))


def service(owner=BOB, key="s", version=1, name="x"):
    return sign_entry(owner, "services", key, write_value(Service(owner.peer_id, name)), version, int(NOW))


def block(*keys, owner=BOB, name="x"):
    return Block(storage={"services": {key: service(owner, key, name=name) for key in keys}})


def test_one_owner_has_no_more_than_its_share_and_the_others_keep_theirs():
    state = ledger(owned_entries=3)
    result = state.merge(block(*"abcde"), NOW)
    assert [v.reason for v in result.violations] == [FULL, FULL]
    assert len(state.entries("services")) == 3
    assert not state.merge(block("z", owner=ALICE), NOW).violations
    assert not state.merge(Block(storage={"services": {"a": service(version=2, key="a")}}), NOW).violations


def test_bytes_are_bounded_for_one_owner_and_for_all():
    assert len(ledger(owned_bytes=900).merge(block(*"abc", name="x" * 300), NOW).changed) == 1
    assert len(ledger(bytes=1400).merge(block(*"abc", name="x" * 300), NOW).changed) == 2


def test_a_value_may_not_grow_beyond_the_share_but_may_shrink():
    state = ledger(owned_bytes=1000)
    state.merge(block("a", name="x" * 100), NOW)
    larger = Block(storage={"services": {"a": service(key="a", version=2, name="x" * 2000)}})
    assert [v.reason for v in state.merge(larger, NOW).violations] == [FULL]
    smaller = Block(storage={"services": {"a": service(key="a", version=3, name="")}})
    assert not state.merge(smaller, NOW).violations


def test_unsigned_entries_share_one_share():
    state = ledger(owned_entries=2)
    storage = {"custom": {key: Entry("1") for key in "abc"}}
    assert len(state.merge(Block(storage=storage), NOW).violations) == 1


def test_a_flood_of_keys_leaves_room_for_the_others_and_memory_bounded():
    state = ledger()
    for start in range(0, 5000, 1000):
        state.merge(block(*map(str, range(start, start + 1000))), NOW)
    assert len(state.entries("services")) == Quota().owned_entries
    assert not state.merge(block("honest", owner=ALICE), NOW).violations


def test_what_is_taken_is_kept_up_with_every_change():
    """A pass over all entries at each message would make refusing dear."""
    chance = random.Random(7)
    state = ledger(owned_entries=30, entries=60, bytes=20_000)
    state.usage()
    for step in range(300):
        key, owner = chance.choice("abcdefghijklmnopqrst"), chance.choice([ALICE, BOB, CAROL])
        match chance.randrange(4):
            case 0 if state.get("custom", key) is not None:
                state.delete("custom", key, NOW + step)
            case 1:
                state.announce("custom", key, '"%s"' % ("x" * chance.randrange(40)), NOW + step)
            case 2:
                entry = sign_entry(owner, "custom", key, '"y"', int((NOW + step) * 1e9), int(NOW))
                state.merge(Block(storage={"custom": {key: entry}}), NOW + step)
            case _:
                state.merge(block(key, owner=owner, name="z" * chance.randrange(40)), NOW + step)
    assert sum(map(len, state.storage.values())) > 20
    known, counted = state.usage(), Usage(state.storage, Quota(owned_entries=30, entries=60, bytes=20_000))
    assert vars(known) == vars(counted)
    state.restore(Block(storage={}))
    assert vars(state.usage())["_entries"] == 0


def test_judging_leaves_what_is_taken_alone():
    state = ledger(owned_entries=3)
    before = dict(vars(state.usage()))
    state.judge(block(*"ab"), NOW)
    assert vars(state.usage()) == before
