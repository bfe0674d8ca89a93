"""A node that gets its address from the network: claims, waiting, giving way, and Go's leader rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.claims import Claim, Viewer, claims_untrusted, rank, write_claims
from edgevpn.ledger.leader import leader_of
from edgevpn.ledger.lessee import (
    ALONE,
    BACK_OFF,
    INSIST,
    SETTLE,
    TURN,
    WAIT,
    Lessee,
    contests,
    graves,
    held_in,
    write_step,
)
from edgevpn.ledger.merge import Violation
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from edgevpn.proto.entry import Entry, sign_entry, verify_entry
from edgevpn.proto.values import Machine, write_text, write_value
from scripts.labkit.dhcp import GoNode, SimNetwork, SimNode, campaign, round_of
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL, heartbeats, peer

NET = "10.1.0.0/24"
CIDR = "10.1.0.1/24"


def claim_of(owner, address, since=0, held=True, network=NET, version=1):
    value = write_claims({network: Claim(address, since, held)})
    return {owner.peer_id: sign_entry(owner, "dhcp", owner.peer_id, value, version, int(NOW))}


def machine_of(owner, address):
    value = write_value(Machine(owner.peer_id, address=address))
    return {address: sign_entry(owner, "machines", address, value, 1, int(NOW))}


class Node:
    """A lessee with a ledger that tests write into."""

    def __init__(self, networks=(CIDR,), last_run=(), key=ALICE, mode=Mode.ENFORCE):
        self.key = key
        self.storage = {"healthcheck": heartbeats(key)}
        self.viewer = Viewer(key.peer_id, mode, TTL, 900)
        self.lessee = Lessee(key.peer_id, networks, last_run, random.Random(1), 0.0)

    def live(self, *peers):
        self.storage["healthcheck"] |= heartbeats(*peers)

    def put(self, bucket, entries):
        self.storage[bucket] = self.storage.get(bucket, {}) | entries

    def at(self, clock):
        return self.lessee.step(self.viewer.view(self.storage, NOW + clock), NOW + clock, clock)

    def until_held(self, start=0.0, end=60.0):
        """Steps as it asks for them; when it had all, and the last step."""
        clock = start
        while clock < end:
            step = self.at(clock)
            if not step.waiting:
                return clock, step
            clock = max(step.wake, clock + 0.01)
        raise AssertionError(step.waiting)


# --- claims


@given(
    st.dictionaries(
        st.sampled_from(["10.1.0.0/24", "fd00::/64"]), st.tuples(st.integers(0, 2**50), st.booleans()), max_size=2
    )
)
def test_claims_come_back_as_they_were_written(found):
    claims = {net: Claim("10.1.0.9" if "." in net else "fd00::9", since, held) for net, (since, held) in found.items()}
    assert claims_untrusted(write_claims(claims)) == claims


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "[]",
        '"x"',
        "{",
        '{"10.1.0.0/24":{}}',
        '{"x":{"Address":"10.1.0.1","Since":1,"Held":true}}',
        '{"10.1.0.0/24":{"Address":"10.2.0.1","Since":1,"Held":true}}',
        '{"10.1.0.0/24":{"Address":"","Since":1,"Held":true}}',
        '{"10.1.0.0/24":{"Address":"10.1.0.1","Since":"1","Held":true}}',
        "{" + " " * 5000 + "}",
        "[" * 4000,
        "{" + ",".join(f'"10.1.{n}.0/24":{{"Address":"10.1.{n}.1","Since":1,"Held":true}}' for n in range(17)) + "}",
    ],
)
def test_bad_claims_are_refused(bad):
    with pytest.raises(UntrustedDataError):
        claims_untrusted(bad)


@given(st.text())
def test_any_text_is_claims_or_refused(text):
    try:
        claims_untrusted(text)
    except UntrustedDataError:
        return


def test_a_held_claim_wins_then_the_earlier_then_the_lower_peer():
    ordered = [
        ("b", Claim("10.1.0.1", 9, True)),
        ("a", Claim("10.1.0.1", 1, False)),
        ("b", Claim("10.1.0.1", 1, False)),
    ]
    assert [min(ordered[n:], key=lambda one: rank(one[1], one[0])) for n in range(3)] == ordered


def test_only_what_the_peer_itself_signed_and_while_it_is_live_is_a_claim():
    node = Node()
    node.live(BOB)
    good, forged = claim_of(BOB, "10.1.0.9"), claim_of(BOB, "10.1.0.9")
    forged = {CAROL.peer_id: forged[BOB.peer_id]}
    unsigned = {CAROL.peer_id: Entry(good[BOB.peer_id].value, CAROL.peer_id, 1)}
    for entries in (forged, unsigned):
        node.storage["dhcp"] = good | entries
        node.live(CAROL)
        view = node.viewer.view(node.storage, NOW)
        assert view.claims.keys() == {BOB.peer_id}
        assert view.strangers == (CAROL.peer_id,)
    view = node.viewer.view(node.storage, NOW + 901)
    assert (view.claims, view.forgotten) == ({}, (BOB.peer_id,))


# --- one node


def test_a_node_alone_gets_an_address_of_each_network():
    node = Node((CIDR, "fd00::1/64"))
    clock, step = node.until_held()
    assert ALONE + WAIT <= clock <= ALONE + 1.5 * WAIT
    v4, v6 = step.held
    assert v4.startswith("10.1.0.")
    assert v4.endswith("/24")
    assert v4 not in ("10.1.0.0/24", "10.1.0.255/24")
    assert v6.startswith("fd00::")
    assert v6.endswith("/64")


def test_what_is_waited_for_is_told():
    node = Node()
    assert node.at(0).waiting == "an address of 10.1.0.0/24: listening to which are taken"
    assert node.at(ALONE).waiting == "an address of 10.1.0.0/24: one is claimed, others may object"
    assert node.at(ALONE + 2 * WAIT).waiting == ""


def test_who_hears_the_network_need_not_wait_as_long():
    node = Node()
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, "10.1.0.9"))
    node.lessee.heard(0.3)
    clock, _ = node.until_held()
    assert clock < 0.3 + SETTLE + 1.5 * WAIT + 0.1


def test_a_claim_is_seen_by_those_who_were_met_after_it_was_made():
    node = Node(last_run=["10.1.0.7"])
    assert "10.1.0.7" in node.at(0).claimed
    node.lessee.heard(3.9)
    assert node.at(ALONE + 0.1).held == ()
    assert node.at(3.9 + WAIT).held == ("10.1.0.7/24",)


def test_the_address_of_the_last_run_comes_again_unless_another_has_it():
    assert Node(last_run=["10.1.0.7", "192.168.0.1"]).until_held()[1].held == ("10.1.0.7/24",)
    for bucket, entries in (("dhcp", claim_of(BOB, "10.1.0.7")), ("machines", machine_of(BOB, "10.1.0.7"))):
        node = Node(last_run=["10.1.0.7"])
        node.live(BOB)
        node.put(bucket, entries)
        assert node.until_held()[1].held != ("10.1.0.7/24",)


def test_a_full_network_is_said_and_waited_for():
    node = Node(("10.1.0.1/30",))
    node.live(BOB, CAROL)
    node.put(
        "dhcp", claim_of(BOB, "10.1.0.1", network="10.1.0.0/30") | claim_of(CAROL, "10.1.0.2", network="10.1.0.0/30")
    )
    assert node.at(ALONE).waiting == "an address of 10.1.0.0/30: all are taken"
    node.storage["healthcheck"] = heartbeats(ALICE, BOB)
    assert node.until_held(ALONE + 2)[1].held == ("10.1.0.2/30",)


def test_an_address_of_one_that_went_silent_is_taken_last():
    node = Node(("10.1.0.1/30",))
    node.put("machines", machine_of(BOB, "10.1.0.1"))
    assert node.until_held()[1].held == ("10.1.0.2/30",)
    node = Node(("10.1.0.1/31",))
    node.put("machines", machine_of(BOB, "10.1.0.0") | machine_of(CAROL, "10.1.0.1"))
    assert node.until_held()[1].held


# --- two of one mind


def test_of_two_claims_the_later_gives_way_before_it_is_held():
    node = Node()
    first = node.at(ALONE)
    [address] = first.claimed
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, address, since=int(NOW * 1000), held=False))
    step = node.at(ALONE + 0.1)
    assert step.lost == ((address, BOB.peer_id),)
    assert step.held == ()
    clock, step = node.until_held(ALONE + 0.2)
    assert step.held != (f"{address}/24",)
    assert clock < ALONE + 0.2 + BACK_OFF + 1.5 * WAIT


def test_an_address_that_is_held_is_not_lost_to_a_claim():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, address, since=0, held=False))
    assert node.at(20).held == step.held


def test_when_two_halves_meet_the_earlier_holder_keeps_the_address():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    since = claims_untrusted(step.record)[NET].since
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, address, since=since + 1))
    assert node.at(20).held == step.held
    node.put("dhcp", claim_of(BOB, address, since=since - 1))
    assert node.at(21).lost == ((address, BOB.peer_id),)
    assert node.at(21).held == ()


def test_a_machine_with_a_fixed_address_does_not_give_way_so_we_do():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    node.live(BOB)
    node.lessee.contested(address, BOB.peer_id, 20)
    assert node.at(20).lost == ((address, BOB.peer_id),)


def test_one_that_died_with_our_address_is_left_it_for_others_believe_it_has_it_still():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, address, since=2**50))
    for clock, lost in ((20, False), (20 + INSIST / 2, False), (20 + INSIST, True)):
        assert bool(node.at(clock).lost) is lost


def test_one_that_gives_way_in_time_is_left_nothing():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, address, since=2**50))
    assert node.at(20).wake == 20 + INSIST
    node.put("dhcp", claim_of(BOB, "10.1.0.77", since=2**50))
    assert node.at(21).held == step.held
    node.put("dhcp", claim_of(BOB, address, since=2**50))
    assert node.at(20 + INSIST).held == step.held


def test_a_machine_of_one_that_gave_the_address_up_is_no_reason_to():
    node = Node()
    _, step = node.until_held()
    [address] = step.claimed
    node.live(BOB)
    node.put("dhcp", claim_of(BOB, "10.1.0.77"))
    node.put("machines", machine_of(BOB, address))
    assert node.at(20).held == step.held


def test_a_ledger_actor_that_comes_back_goes_on_with_what_the_interface_has():
    node = Node()
    claim = Claim("10.1.0.9", 5, True)
    node.lessee.remember(["10.1.0.9"], {NET: claim}, ["10.1.0.9/24"])
    assert node.at(0).held == ("10.1.0.9/24",)
    node = Node()
    node.lessee.remember(["10.1.0.9"], {NET: claim}, [])
    assert node.at(0).held == ()


# --- beside Go nodes


def two_by_election():
    """(who leads, who does not)."""
    keys = [peer(number) for number in (10, 11)]
    first = leader_of([key.peer_id for key in keys])
    return sorted(keys, key=lambda key: key.peer_id != first)


def test_the_elected_node_says_so_and_takes_the_next_address():
    ours, go = two_by_election()
    node = Node(key=ours)
    node.live(go, CAROL)
    node.put("machines", machine_of(CAROL, "10.1.0.41"))
    node.lessee.heard(0)
    step = node.at(SETTLE)
    assert step.lead
    assert step.claimed == ("10.1.0.42",)
    node.put("dhcp", {"leader": sign_entry(ours, "dhcp", "leader", write_text(ours.peer_id), 1, int(NOW))})
    assert not node.at(SETTLE + 0.1).lead
    assert node.until_held(1)[1].held == ("10.1.0.42/24",)


def test_an_elected_go_node_goes_first_and_its_address_is_left_to_it():
    go, ours = two_by_election()
    node = Node(key=ours)
    node.live(go, CAROL)
    node.put("machines", machine_of(CAROL, "10.1.0.5"))
    node.lessee.heard(0)
    assert node.at(0).claimed == ()
    assert node.at(TURN - 0.1).claimed == ()
    assert node.at(TURN - 0.1).waiting.endswith("has its turn")
    [address] = node.at(TURN + 0.1).claimed  # it may be one that wants no address
    assert address not in ("10.1.0.5", "10.1.0.6")
    assert int(address.rpartition(".")[2]) < 30


def test_an_elected_node_does_not_follow_go_out_of_the_network():
    ours, go = two_by_election()
    node = Node(key=ours)
    node.live(go, CAROL)
    node.put("machines", machine_of(CAROL, "10.1.0.254"))
    node.lessee.heard(0)
    [address] = node.at(SETTLE).claimed
    assert address.startswith("10.1.0.")
    assert address not in ("10.1.0.0", "10.1.0.254", "10.1.0.255")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(4))
def test_ours_and_go_nodes_started_together_get_different_addresses(seed):
    print("seed", seed)
    network = SimNetwork(seed)
    nodes = [GoNode(network, number, ()) for number in range(4)]
    nodes += [SimNode(network, number, (CIDR,)) for number in range(4, 8)]
    for node in nodes:
        network.add(node, network.chance.uniform(0, 2))
    network.run_until(120)
    assert all(node.held for node in nodes)
    assert network.duplicates() == 0


# --- what goes into the ledger


def test_a_step_writes_claims_and_buries_what_was_given_up_and_who_is_gone():
    state = LedgerState(ALICE, NOW, ttl=TTL)
    state.announce("healthcheck", ALICE.peer_id, heartbeats(ALICE)[ALICE.peer_id].value, NOW)
    state.announce("machines", "10.1.0.3", write_value(Machine(ALICE.peer_id)), NOW)
    storage = {**state.storage, "dhcp": claim_of(BOB, "10.1.0.9")}
    state.restore(Block(5, "t", storage))
    node = Node()
    node.storage = state.storage
    step = node.at(ALONE)
    assert step.forget == (BOB.peer_id,)
    assert write_step(state, step, NOW)
    assert not write_step(state, step, NOW)
    assert state.entries("dhcp").keys() == {ALICE.peer_id}
    assert state.entries("machines") == {}
    assert held_in(state) == {}
    end = node.at(ALONE + 2 * WAIT)
    write_step(state, end, NOW)
    assert held_in(state)[NET].address == end.claimed[0]


def test_who_missed_our_tombstone_is_told_it_and_takes_the_new_owner_then():
    now = NOW + 5
    ours = machine_of(ALICE, "10.1.0.3")["10.1.0.3"]
    theirs = sign_entry(BOB, "machines", "10.1.0.3", write_value(Machine(BOB.peer_id)), 50, int(NOW))
    health = {"healthcheck": heartbeats(ALICE, BOB)}
    us, late = LedgerState(ALICE, now, ttl=TTL), LedgerState(CAROL, now, ttl=TTL)
    us.restore(Block(5, "t", {"machines": {"10.1.0.3": theirs}} | health))
    late.restore(Block(5, "t", {"machines": {"10.1.0.3": ours}} | health))
    assert not late.merge(us.block, now).changed
    buried = graves(us, us.merge(late.block, now).violations, now)
    late.merge(us.partial_block(buried, now), now)
    late.merge(us.block, now)
    assert late.get("machines", "10.1.0.3") == theirs


def test_only_a_signed_claim_contests():
    good = machine_of(BOB, "10.1.0.3")["10.1.0.3"]
    us = LedgerState(ALICE, NOW, ttl=TTL)
    mine = machine_of(ALICE, "10.1.0.3")
    us.restore(Block(5, "t", {"machines": mine, "healthcheck": heartbeats(ALICE, BOB)}))
    for entry, expected in ((good, True), (Entry(good.value, BOB.peer_id, 1, 1, sig=b"x" * 64), False)):
        [violation] = us.merge(Block(1, "", {"machines": {"10.1.0.3": entry}}), NOW).violations
        assert isinstance(violation, Violation)
        assert contests(violation) is expected
        assert verify_entry("machines", "10.1.0.3", entry) is expected


# --- many


@pytest.mark.timeout(240)
def test_twenty_nodes_in_two_halves_end_with_different_addresses_whoever_dies():
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    found = campaign(4, seed, print)
    assert found["duplicates"] == found["duplicates_within_an_island"] == found["nodes_without"] == 0
    assert found["wrong_ledgers"] == 0
    assert found["to_an_address_s"]["p95"] <= 10
    assert found["gone_after_s_worst"] <= 10


@pytest.mark.timeout(120)
def test_in_a_crowded_network_the_halves_clash_and_come_apart_again():
    found = round_of(3, networks=("10.1.0.1/27",))
    assert found["duplicates_across_when_healed"] > 0
    assert found["duplicates"] == found["without"] == 0
    assert found["wrong_ledgers"] == 0
