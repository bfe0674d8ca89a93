"""What a node writes of itself, and when."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest

from edgevpn.ledger.leader import leader_of
from edgevpn.ledger.merge import Place, Violation
from edgevpn.ledger.own_entries import LARGE, OwnEntries
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from tests.unit.ledger_samples import (
    ALICE,
    BOB,
    CAROL,
    NOW,
    TTL,
    heartbeat,
    heartbeats,
    machine,
    machine_value,
    tombstone,
)

ADDRESS = Place("machines", "10.1.0.1")


def own(state: LedgerState, seed: int = 1) -> OwnEntries:
    return OwnEntries(
        state,
        random.Random(seed),
        0.0,
        NOW,
        announce_interval=10.0,
        heartbeat_interval=120.0,
        scrub_interval=600.0,
        max_heartbeat_age=900.0,
    )


def ledger(signer=ALICE, mode=Mode.ENFORCE, **buckets) -> LedgerState:
    return LedgerState(signer, NOW, mode=mode, ttl=TTL, block=Block(storage=buckets) if buckets else None)


def heartbeats_over(entries: OwnEntries, seconds: float) -> list[float]:
    moments, now = [], 0.0
    while now < seconds:
        now = entries.next_wakeup()
        if any(place.bucket == "healthcheck" for place in entries.expire(now, NOW + now).entries):
            moments.append(now)
    return moments


def test_the_first_announcement_has_the_address_and_the_heartbeat_and_the_second_nothing():
    entries = own(ledger())
    entries.announcements[ADDRESS] = machine_value(ALICE)
    first = entries.announce(NOW)
    assert set(first.entries) == {ADDRESS, Place("healthcheck", ALICE.peer_id)}
    assert first.urgent
    assert not entries.announce(NOW + 1).entries


@pytest.mark.parametrize("seed", range(5))
def test_heartbeats_come_every_half_to_one_and_a_half_intervals(seed):
    entries = own(ledger(), seed)
    entries.announce(NOW)
    moments = heartbeats_over(entries, 2000)
    assert all(60 <= b - a <= 180.1 for a, b in pairwise(moments))


def test_a_renewed_heartbeat_is_not_urgent():
    entries = own(ledger())
    entries.announce(NOW)
    moment = heartbeats_over(entries, 200)[0]
    written = entries.expire(moment + 200, NOW + moment + 200)
    assert written.entries
    assert not written.urgent


def test_in_a_large_network_heartbeats_are_half_as_frequent_and_leases_still_hold():
    crowd = {f"p{n}": heartbeat(BOB) for n in range(LARGE)}
    entries = own(ledger(healthcheck={**crowd, ALICE.peer_id: heartbeat(ALICE)}))
    moments = heartbeats_over(entries, 4000)
    gaps = [b - a for a, b in pairwise(moments)]
    assert all(180 <= gap <= 300.1 for gap in gaps)
    assert max(gaps) < 0.75 * TTL


def test_an_address_of_another_live_machine_is_left_alone_and_told_once():
    state = ledger(healthcheck=heartbeats(BOB), machines={ADDRESS.key: machine(BOB)})
    entries = own(state)
    entries.announcements[ADDRESS] = machine_value(ALICE)
    assert entries.announce(NOW).conflicts == (ADDRESS,)
    assert entries.announce(NOW + 1).conflicts == ()
    assert state.get("machines", ADDRESS.key).owner == BOB.peer_id


def buried(version, author=BOB):
    return Violation(ADDRESS, tombstone(author, version, key=ADDRESS.key), "tombstone by non-owner of a live entry")


def test_what_another_buried_is_signed_anew_above_the_tombstone_whatever_its_clock():
    state = ledger(healthcheck=heartbeats(ALICE), machines={ADDRESS.key: machine(ALICE, 5)})
    ahead = int((NOW + 300) * 1e9)
    written = own(state).renew_buried([buried(ahead)], NOW)
    assert written.entries[ADDRESS].version == ahead + 1
    assert not own(state).renew_buried([buried(ahead)], NOW).entries


def test_a_forged_tombstone_or_one_of_somebody_elses_entry_makes_us_sign_nothing():
    state = ledger(healthcheck=heartbeats(ALICE), machines={ADDRESS.key: machine(ALICE, 5)})
    forged = msgspec.structs.replace(buried(9).entry, sig=b"x" * 64)
    assert not own(state).renew_buried([Violation(ADDRESS, forged, "")], NOW).entries
    theirs = ledger(healthcheck=heartbeats(BOB), machines={ADDRESS.key: machine(BOB, 5)})
    assert not own(theirs).renew_buried([buried(9, CAROL)], NOW).entries


@pytest.mark.parametrize("signer", [ALICE, BOB])
def test_the_leader_alone_cleans_up_after_its_heartbeat(signer):
    old = {CAROL.peer_id: heartbeat(CAROL, NOW - 2000)}
    state = ledger(signer, healthcheck={**heartbeats(ALICE, BOB), **old}, machines={ADDRESS.key: machine(CAROL)})
    entries = own(state)
    cleaned = False
    now = 0.0
    while now < 900:
        now = entries.next_wakeup()
        for other in (ALICE, BOB):
            if other is not signer:
                beat = {other.peer_id: heartbeat(other, NOW + now, int(now))}
                state.merge(Block(storage={"healthcheck": beat}), NOW + now)
        cleaned |= ADDRESS in entries.expire(now, NOW + now).entries
    assert cleaned == (leader_of([ALICE.peer_id, BOB.peer_id]) == signer.peer_id)


def test_going_on_in_the_middle_shortens_the_wait():
    entries = own(ledger())
    entries.announce(NOW)
    entries.resume(0.0, 0.99)
    assert heartbeats_over(entries, 1)[0] < 12


def as_after_a_jump(jumped: float, stood: float) -> tuple[OwnEntries, LedgerState, float, float]:
    """Alice leads Bob and Carol; she has run for 700 s, then the wall clock went on by `jumped`, or all by `stood`."""
    state = ledger(
        machines={"10.1.0.2": machine(BOB), "10.1.0.3": machine(CAROL, key="10.1.0.3")},
        healthcheck=heartbeats(BOB, CAROL),
    )
    entries = own(state)
    entries.announcements[ADDRESS] = machine_value(ALICE)
    entries.announce(NOW)
    now = 0.0
    while now < 100:
        now = entries.next_wakeup()
        entries.expire(now, NOW + now)
    return entries, state, now + stood, NOW + now + stood + jumped


@pytest.mark.parametrize(("jumped", "stood"), [(8 * 3600.0, 0.0), (0.0, 8 * 3600.0), (0.0, 700.0), (-3600.0, 0.0)])
def test_time_that_went_on_without_us_makes_nobody_dead_and_our_heartbeat_new(jumped: float, stood: float) -> None:
    entries, state, now, wall = as_after_a_jump(jumped, stood)
    before = state.storage["machines"]
    first = entries.expire(now + 0.5, wall + 0.5)
    assert Place("healthcheck", ALICE.peer_id) in first.entries
    now, wall = now + 0.5, wall + 0.5
    end = now + TTL - 1  # until then whoever lives is heard
    while entries.next_wakeup() < end:
        wall += entries.next_wakeup() - now
        now = entries.next_wakeup()
        assert all(not entry.deleted for entry in entries.expire(now, wall).entries.values())
    assert state.storage["machines"].keys() >= before.keys()
    assert not any(entry.deleted for entry in state.storage["machines"].values())


def test_a_leader_that_has_slept_cleans_up_again_later() -> None:
    entries, state, now, wall = as_after_a_jump(8 * 3600.0, 0.0)
    for _ in range(200):
        entries.expire(now, wall)
        wall += entries.next_wakeup() - now
        now = entries.next_wakeup()
    assert state.storage["machines"]["10.1.0.2"].deleted
