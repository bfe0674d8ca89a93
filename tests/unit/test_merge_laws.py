"""What merging promises, whatever comes; and, as facts, where Go's rules promise nothing.

Replicas exchange their whole storages until nobody learns anything, as gossip does. All have one clock.
"""

from functools import cache, reduce

from hypothesis import given, settings, strategies as st

from edgevpn.ledger.merge import Place, merge_storage, with_entries
from edgevpn.ledger.policy import Mode, policy_of
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from edgevpn.proto.entry import Entry, sign_entry, verify_entry
from edgevpn.proto.values import Service, write_value
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

PEERS = (ALICE, BOB, CAROL)
KEYS = ("10.1.0.1", "10.1.0.2", "10.1.0.3")
LAWS = settings(max_examples=150)


def take(storage, incoming, mode=Mode.ENFORCE):
    return merge_storage(storage, incoming, mode=mode, now=NOW, ttl=TTL).storage


def full(storage):
    """Without empty buckets, which say nothing."""
    return {bucket: dict(content) for bucket, content in storage.items() if content}


def one(place, entry):
    return with_entries({}, {place: entry})


def exchange(*storages, rounds=10):
    """Everybody tells everybody all it has, until nothing changes (at most `rounds`)."""
    replicas = list(storages)
    for _ in range(rounds):
        before = [full(replica) for replica in replicas]
        for listener in range(len(replicas)):
            for teller in range(len(replicas)):
                replicas[listener] = take(replicas[listener], replicas[teller])
        if [full(replica) for replica in replicas] == before:
            break
    return [full(replica) for replica in replicas]


@cache
def entry_of(bucket, key, owner, version, hostname, deleted):
    """One of few entries, signed once. Values and tombstones never share a version (see the facts below)."""
    signer = PEERS[owner]
    if deleted:
        return sign_entry(signer, bucket, key, "", 2 * version + 1, int(NOW), deleted=True)
    value = machine_value(signer, hostname) if bucket == "machines" else write_value(Service(signer.peer_id, hostname))
    return sign_entry(signer, bucket, key, value, 2 * version, int(NOW))


def written(owners):
    """Lists of (place, entry), where `owners(key)` may claim a key."""
    places = st.tuples(st.sampled_from(["machines", "services", "dns"]), st.sampled_from(KEYS))

    def entries(place):
        bucket, key = place
        claims = st.tuples(owners(key), st.integers(1, 3), st.sampled_from(["a", "b"]), st.just(False))
        graves = st.tuples(owners(key), st.integers(1, 3), st.just(""), st.just(True))
        return (claims | graves).map(lambda parts: (Place(bucket, key), entry_of(bucket, key, *parts)))

    return st.lists(places.flatmap(entries), max_size=8)


def anything():
    """Storages of entries good and bad: for laws that hold for all of them."""
    bucket = st.sampled_from(["machines", "services", "dns", "users", "healthcheck", "custom"])
    key = st.sampled_from([*KEYS[:2], ALICE.peer_id, BOB.peer_id])
    owner, version = st.integers(0, 2), st.integers(0, 3)
    good = st.builds(
        lambda bucket, key, parts: (Place(bucket, key), entry_of(bucket, key, *parts)),
        bucket,
        key,
        st.tuples(owner, version, st.sampled_from("ab"), st.booleans()),
    )
    bad = st.builds(
        lambda bucket, key, owner, version, sig: (
            Place(bucket, key),
            Entry(machine_value(PEERS[owner]), PEERS[owner].peer_id, version, sig=sig),
        ),
        bucket,
        key,
        owner,
        version,
        st.sampled_from([None, b"", b"x" * 64]),
    )
    return st.lists(good | bad, max_size=8).map(
        lambda items: reduce(lambda storage, item: with_entries(storage, dict([item])), items, {})
    )


ANYTHING = anything()
LIVE = st.sets(st.sampled_from(PEERS)).map(lambda peers: {"healthcheck": heartbeats(*peers)} if peers else {})


@LAWS
@given(ANYTHING, ANYTHING, LIVE)
def test_merging_is_idempotent(local, incoming, live):
    once = take({**local, **live}, incoming)
    twice = take(once, incoming)
    if full(once).get("healthcheck") == full({**local, **live}).get("healthcheck"):  # leases judged alike
        assert full(twice) == full(once)


@LAWS
@given(ANYTHING)
def test_a_block_merged_into_itself_tells_nothing(storage):
    result = merge_storage(storage, storage, mode=Mode.ENFORCE, now=NOW)
    assert result.received == result.identical
    assert result.storage is storage


@LAWS
@given(ANYTHING, ANYTHING, LIVE)
def test_a_bad_signature_never_lands_under_enforce(local, incoming, live):
    local = {**local, **live}
    result = merge_storage(local, incoming, mode=Mode.ENFORCE, now=NOW, ttl=TTL)
    for place, entry in result.changed.items():
        assert result.storage[place.bucket][place.key] is entry
        assert verify_entry(place.bucket, place.key, entry) or not policy_of(place.bucket).owned


@LAWS
@given(ANYTHING, ANYTHING, LIVE)
def test_no_version_goes_back_under_enforce(local, incoming, live):
    local = {**local, **live}
    for place, entry in merge_storage(local, incoming, mode=Mode.ENFORCE, now=NOW, ttl=TTL).changed.items():
        before = local.get(place.bucket, {}).get(place.key)
        assert before is None or entry.version >= before.version


@LAWS
@given(ANYTHING, ANYTHING, LIVE)
def test_a_live_peers_entry_changes_by_its_own_hand_only(local, incoming, live):
    local = {**local, **live}
    for place in merge_storage(local, incoming, mode=Mode.ENFORCE, now=NOW, ttl=TTL).changed:
        before = local.get(place.bucket, {}).get(place.key)
        if before and before.owner in live.get("healthcheck", {}) and place.bucket in ("machines", "services", "dns"):
            after = take(local, incoming)[place.bucket][place.key]
            assert before.deleted or after.owner == before.owner


@LAWS
@given(written(lambda key: st.just(KEYS.index(key))), LIVE, st.data())
def test_replicas_that_saw_the_same_owned_entries_agree(items, live, data):
    """One owner a key, live or not: whatever order each replica saw them in."""
    orders = [items, data.draw(st.permutations(items)), data.draw(st.permutations(items))]
    first, *others = exchange(*(reduce(take, (one(*item) for item in order), live) for order in orders))
    assert all(other == first for other in others)


@LAWS
@given(written(lambda _key: st.integers(0, 2)), st.data())
def test_replicas_agree_on_entries_of_peers_that_are_gone(items, data):
    """Many claim a key, nobody is live: the highest (version, owner, signature) wins everywhere."""
    graves = {}
    items = [
        item for item in items if not item[1].deleted or graves.setdefault((item[0], item[1].version), item) == item
    ]
    orders = [items, data.draw(st.permutations(items))]
    first, second = exchange(*(reduce(take, (one(*item) for item in order), {}) for order in orders))
    assert first == second


@LAWS
@given(st.lists(st.integers(1, 4), max_size=4), st.integers(1, 4), LIVE)
def test_a_tombstone_outlives_every_replayed_claim(versions, deleted_at, live):
    storage = {**live, "machines": {KEYS[0]: tombstone(ALICE, 2 * deleted_at + 1)}}
    for version in versions:
        for owner in PEERS:
            after = take(storage, {"machines": {KEYS[0]: machine(owner, 2 * version)}})
            assert (after["machines"][KEYS[0]].deleted) == (version <= deleted_at)


# --- where Go's rules do not agree: each of these two storages refuses the other's entry for as long as it is told


def assert_they_differ_for_ever(one_storage, other_storage):
    first, second = exchange(one_storage, other_storage)
    assert first != second


LIVE_ALL = {"healthcheck": heartbeats(*PEERS)}


def test_two_live_peers_that_claim_a_free_key_at_once_both_keep_it():
    assert_they_differ_for_ever(
        {**LIVE_ALL, "machines": {KEYS[0]: machine(ALICE, 1)}}, {**LIVE_ALL, "machines": {KEYS[0]: machine(BOB, 2)}}
    )


def test_a_claim_taken_over_where_the_lease_was_seen_to_end_and_kept_where_not_stays_split():
    """Alice was silent for some; Bob took her address there; then all see both again."""
    storage = {"healthcheck": {BOB.peer_id: heartbeat(BOB)}, "machines": {KEYS[0]: machine(ALICE, 1)}}
    taken_over = take(storage, {"machines": {KEYS[0]: machine(BOB, 2)}})
    assert taken_over["machines"][KEYS[0]].owner == BOB.peer_id
    assert_they_differ_for_ever(
        taken_over | {"healthcheck": LIVE_ALL["healthcheck"]}, {**LIVE_ALL, "machines": {KEYS[0]: machine(ALICE, 1)}}
    )


def test_a_leaders_tombstone_is_refused_where_the_owner_was_seen_live():
    swept = {**LIVE_ALL, "machines": {KEYS[0]: tombstone(BOB, 5)}}
    kept = {**LIVE_ALL, "machines": {KEYS[0]: machine(ALICE, 1)}}
    assert_they_differ_for_ever(swept, kept)


def test_the_owner_heals_a_wrong_tombstone_by_signing_anew():
    """What ours does when it sees its entry deleted by somebody else: LedgerState.announce(force=True)."""
    alice = LedgerState(
        ALICE, NOW, ttl=TTL, block=Block(storage={**LIVE_ALL, "machines": {KEYS[0]: machine(ALICE, 1)}})
    )
    swept = {**LIVE_ALL, "machines": {KEYS[0]: tombstone(BOB, 5)}}
    refused = alice.merge(Block(storage=swept), NOW).violations
    assert [violation.place for violation in refused] == [Place("machines", KEYS[0])]
    alice.announce("machines", KEYS[0], machine_value(ALICE), NOW, force=True)
    first, second = exchange(alice.storage, swept)
    assert first == second
    assert first["machines"][KEYS[0]].owner == ALICE.peer_id


def test_a_value_and_a_tombstone_of_the_same_version_both_stay():
    for live in ({}, LIVE_ALL):
        assert_they_differ_for_ever(
            {**live, "machines": {KEYS[0]: machine(ALICE, 5)}}, {**live, "machines": {KEYS[0]: tombstone(ALICE, 5)}}
        )


def test_two_tombstones_of_the_same_version_both_stay():
    """Harmless: the key is deleted for all."""
    assert_they_differ_for_ever(
        {"machines": {KEYS[0]: tombstone(ALICE, 5)}}, {"machines": {KEYS[0]: tombstone(BOB, 5)}}
    )


def test_a_tombstone_does_not_reach_who_never_had_the_key():
    """Harmless, until such a node hears the deleted claim from one that missed the tombstone."""
    with_tombstone = {"machines": {KEYS[0]: tombstone(ALICE, 5)}}
    first, second = exchange(with_tombstone, {})
    assert (first, second) == (with_tombstone, {})


def test_open_buckets_keep_what_they_heard_first_of_equal_versions():
    assert_they_differ_for_ever({"custom": {"k": Entry("a", version=1)}}, {"custom": {"k": Entry("b", version=1)}})
    assert_they_differ_for_ever({"custom": {"k": Entry("a")}}, {"custom": {"k": Entry("b")}})


def test_an_unsigned_entry_and_a_signed_one_both_stay_while_the_peer_it_names_is_live():
    legacy = {**LIVE_ALL, "machines": {KEYS[0]: Entry(machine_value(ALICE))}}
    assert_they_differ_for_ever(legacy, {**LIVE_ALL, "machines": {KEYS[0]: machine(BOB, 1)}})


def test_observing_nodes_swap_their_entries_for_ever():
    one_storage, other = ({"machines": {KEYS[0]: machine(peer, 1)}} for peer in (ALICE, BOB))
    swapped = take(one_storage, other, Mode.OBSERVE), take(other, one_storage, Mode.OBSERVE)
    assert swapped == (other, one_storage)


def test_a_dropped_tombstone_lets_the_deleted_entry_come_back():
    """A node that was away for longer than tombstones are kept brings it back, until the leader deletes it again."""
    assert take({}, {"machines": {KEYS[0]: machine(ALICE, 1)}})["machines"][KEYS[0]].version == 1
