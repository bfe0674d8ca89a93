"""What a node says, when and to whom. Small networks of cores on the simulator's virtual clock and links."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from edgevpn.ledger import gossip_core, gossip_offers, gossip_peer
from edgevpn.ledger.block_lack import lack_of
from edgevpn.ledger.gossip_core import GossipCore, Publish, Send
from edgevpn.ledger.merge import Place
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from edgevpn.proto.ledger_frames import Ask, Digest, Entries, Frame, Have, Summary, Want, entries_untrusted
from edgevpn.proto.values import Service, write_value
from scripts.simkit.nodes import Node, OurNode, Settings, introduce
from scripts.simkit.world import START, Weather, World
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, TTL, heartbeat, heartbeats, machine, tombstone

LAN = Weather(delay=(0.001, 0.002))


class Recorder(OurNode):
    """A node that writes down what it says."""

    said: list[tuple[float, int, Frame]]
    published: list[float]

    def _do(self, actions):
        for action in actions:
            if isinstance(action, Send):
                self.said.append((self.world.now, self.number, action.frame))
            else:
                self.published.append(self.world.now)
        super()._do(actions)


class Network:
    """`count` nodes, each with an address; `pairs` are connected (default: all)."""

    def __init__(self, count, *, pairs=None, settings=None, seed=1):
        print("seed", seed)
        self.world = World(seed, LAN)
        self.said = []
        self.nodes = [self.node(number, settings or Settings()) for number in range(1, count + 1)]
        self.pairs = pairs or [(one, other) for one in range(count) for other in range(one + 1, count)]
        for one, other in self.pairs:
            self.world.connect(one + 1, other + 1)

    def node(self, number, settings):
        introduce(number)
        node = Recorder(self.world, number, settings)
        node.said, node.published = self.said, []
        self.world.add(node)
        node.claim(f"10.1.0.{number}")
        node.start()
        return node

    def run(self, seconds, *, fresh=True):
        """Let time pass; what was said in it, by kind. Not `fresh`: and just before it."""
        if fresh:
            del self.said[:]
        self.world.run(self.world.now + seconds)
        return Counter(type(frame).__name__ for _, _, frame in self.said)

    def told(self):
        """Entries that were sent, by bucket and key."""
        frames = [frame for _, _, frame in self.said if isinstance(frame, Entries)]
        return Counter((bucket, key) for frame in frames for bucket, key, _ in entries_untrusted(frame.entries))

    def equal(self):
        return len({node.core.inventory.root(int(START)) for node in self.nodes}) == 1


def write(node: Node, key: str, value: str = "") -> None:
    assert node.write("services", key, write_value(Service(node.peer_id, value))) is not None


def core_of(state: LedgerState, sync: float = 10.0) -> GossipCore:
    return GossipCore(state, state.signer.peer_id, sync, random.Random(1), 0.0)


def alice(**more) -> LedgerState:
    return LedgerState(ALICE, NOW, ttl=TTL, **more)


def test_a_write_goes_to_all_links_at_once_and_only_what_changed():
    network = Network(6)
    network.run(5)
    del network.said[:]
    write(network.nodes[0], "web")
    sent = network.run(0.01, fresh=False)
    assert sent == {"Entries": 5}
    assert network.told() == {("services", "web"): 5}
    assert network.equal()


def test_in_a_line_a_write_is_passed_on_at_once():
    network = Network(6, pairs=[(n, n + 1) for n in range(5)])
    network.run(5)
    del network.said[:]
    write(network.nodes[0], "web")
    network.run(0.05, fresh=False)
    assert network.told() == {("services", "web"): 5}
    assert all(node.state.get("services", "web") for node in network.nodes)


def test_the_same_ledger_costs_digests_that_become_ever_more_seldom():
    network = Network(6)
    network.run(60)
    sent = network.run(50)
    assert set(sent) <= {"Digest", "Entries"}  # heartbeats begin after 60 s
    assert sent["Digest"] <= 5 * 6 * 3


def test_a_lost_write_is_found_by_a_digest_and_only_it_is_sent():
    network = Network(3)
    for number in range(40):
        write(network.nodes[number % 3], f"s{number}")
    network.run(20)
    node = network.nodes[0]
    node.state.announce("services", "web", write_value(Service(node.peer_id, "")), node.wall)  # nobody is told
    assert not network.equal()
    network.run(31)
    assert network.equal()
    assert network.told().keys() == {("services", "web")}
    assert sum(network.told().values()) <= 4


def test_who_comes_with_nothing_fetches_everything_from_one_neighbour():
    network = Network(8)
    for number in range(100):
        write(network.nodes[number % 8], f"s{number}")
    network.run(10)
    newcomer = network.node(9, Settings())
    network.nodes.append(newcomer)
    for number in range(1, 9):
        network.world.connect(9, number)
    network.run(3)
    assert network.equal()
    fetched = network.told()
    assert all(fetched[("services", f"s{number}")] == 1 for number in range(100))


def test_a_write_whose_author_went_away_while_telling_it_reaches_the_others_soon():
    network = Network(3)
    network.run(40)
    author, heard, missed = network.nodes
    entry = author.state.announce("services", "web", write_value(Service(author.peer_id, "")), author.wall)
    told = [a for a in author.core.wrote({Place("services", "web"): entry}) if a.peer == heard.peer_id]
    author._do(told)
    network.run(0.1)
    author.stop()
    network.world.remove(1)
    network.run(1)
    assert missed.state.get("services", "web") == entry


def test_heartbeats_are_offered_by_name_and_fetched_once():
    network = Network(4, pairs=[(0, 1), (1, 2), (1, 3), (2, 3)])
    network.run(5)
    node = network.nodes[0]
    entry = node.state.announce("healthcheck", node.peer_id, '"2026-08-12T10:00:09Z"', node.wall + 4)
    network.said.clear()
    node._do(node.core.wrote({Place("healthcheck", node.peer_id): entry}, urgent=False))
    network.world.run(network.world.now + gossip_offers.LAZY + 0.1)
    network.world.run(network.world.now + 1)
    assert all(one.state.get("healthcheck", node.peer_id) == entry for one in network.nodes)
    assert network.told()[("healthcheck", node.peer_id)] == 3
    assert any(isinstance(frame, Have) for _, _, frame in network.said)


def test_a_difference_that_rules_forbid_to_settle_is_searched_for_once():
    """Two live machines that claimed one address at the same time: both keep it."""
    network = Network(2, pairs=[(0, 1)])
    for node in network.nodes:
        node.claim("10.1.0.99")
    network.run(4)
    owners = {node.state.get("machines", "10.1.0.99").owner for node in network.nodes}
    assert len(owners) == 2
    sent = network.run(50)
    assert sent["Want"] <= 4
    assert sent["Ask"] <= 16


def test_a_tombstone_that_only_a_neighbour_refuses_reaches_the_owner_and_is_outdone():
    """On one side the owner's lease was over; the owner is linked to that side through another node only."""
    network = Network(3, pairs=[(0, 1), (1, 2)])
    network.run(5)
    owner, last = network.nodes[0], network.nodes[2]
    place = Place("machines", "10.1.0.1")
    ours = owner.state.get(place.bucket, place.key)
    version = ours.version + 3_000_000_000  # a clock that is ahead
    buried = tombstone_by(last, place, version)
    storage = {"machines": {**last.state.storage["machines"], place.key: buried}}
    last.state.restore(Block(storage={**last.state.storage, **storage}))
    network.run(40)
    assert network.equal()
    assert all(not node.state.get(place.bucket, place.key).deleted for node in network.nodes)
    assert owner.state.get(place.bucket, place.key).version > version


def tombstone_by(node, place, version):
    return tombstone(node.key, version, place.bucket, place.key)


def test_a_peer_that_never_answers_does_not_keep_the_others_from_being_heard():
    state = alice(block=Block(storage={"healthcheck": heartbeats(ALICE)}))
    core = core_of(state)
    for peer in ("liar", "honest"):
        core.link_up(peer, NOW)
    strange = Digest(b"x" * 16, int(NOW), 0, False)
    assert [a.frame for a in core.on_frame("liar", strange, 1.0, NOW)] == [Ask(int(NOW), [""])]
    assert core.on_frame("honest", Digest(b"y" * 16, int(NOW), 0, False), 1.1, NOW) == []
    for moment in (2.0, 3.0, 4.0, 5.0):  # it goes on lying
        core.on_frame("liar", strange, moment, NOW)
    actions = core.expire(1.0 + gossip_peer.PATIENCE, NOW)
    assert [a.peer for a in actions if isinstance(a, Send) and isinstance(a.frame, Ask)] == ["honest"]


def test_a_search_ends_even_if_the_peer_always_finds_something_to_say():
    core = core_of(alice())
    core.link_up("liar", NOW)
    core.on_frame("liar", Digest(b"x" * 16, int(NOW), 0, False), 0.0, NOW)
    moment = 0.0
    while moment < 1000:
        moment += 1.0
        sums = bytes([int(moment) % 250 + 1]) * 128
        actions = core.on_frame("liar", Summary(int(NOW), [("", sums)], []), moment, NOW)
        if not actions:
            break
        core.expire(moment, NOW)
    assert moment <= gossip_peer.LONGEST_SEARCH + 2


def test_without_go_nodes_no_block_is_published():
    core = core_of(alice())
    core.link_up("ours", NOW)
    moment = 0.0
    while moment < 100:
        moment = core.next_wakeup()
        assert not any(isinstance(action, Publish) for action in core.expire(moment, NOW))


def test_a_go_node_gets_what_changed_at_once_and_the_whole_block_within_20_s():
    state = alice()
    core = core_of(state)
    core.others_are({"go"}, 100.0)
    entry = state.announce("services", "web", write_value(Service(ALICE.peer_id, "")), NOW)
    assert core.wrote({Place("services", "web"): entry}) == [Publish({Place("services", "web"): entry})]
    published, moment = [], 100.0
    while moment < 120:
        moment = core.next_wakeup()
        published += [moment for action in core.expire(moment, NOW) if action == Publish(None)]
    assert published[0] < 100.3
    assert max(b - a for a, b in pairwise(published)) < 20


def test_who_hears_two_others_publish_the_whole_block_keeps_quiet():
    state = alice(block=Block(storage={"healthcheck": heartbeats(ALICE)}))
    core = core_of(state)
    core.others_are({"go"}, 0.0)
    block = Block(1, hash="h", storage=state.storage)
    for peer in ("a", "b"):
        core.merged_block(peer, lack_of(state, block), state.merge(block, NOW), 0.05)
    moment = core.next_wakeup()
    assert Publish(None) not in core.expire(moment, NOW)


def test_what_a_go_node_will_not_take_is_told_to_it_once():
    state = alice(block=Block(storage={"machines": {"10.1.0.1": machine(ALICE)}}))
    core = core_of(state, sync=1000.0)
    core.others_are({"go"}, 0.0)
    theirs = Block(1, hash="h", storage={})
    published, moment = [], 0.0
    while moment < 400:
        core.merged_block("go", lack_of(state, theirs), state.merge(theirs, NOW), moment)
        moment = core.next_wakeup()
        published += [moment for action in core.expire(moment, NOW) if action == Publish(None)]
    assert published[0] < 0.3
    assert len(published) < 13


def test_a_heartbeat_under_way_is_no_lack_and_an_old_one_is():
    def lack(age):
        state = alice(block=Block(storage={"healthcheck": {BOB.peer_id: heartbeat(BOB, NOW, 9)}}))
        return lack_of(state, Block(1, hash="h", storage={"healthcheck": {BOB.peer_id: heartbeat(BOB, NOW - age, 1)}}))

    assert lack(60) == b""
    assert lack(200) != b""


def test_without_ownership_there_are_only_whole_blocks():
    state = alice(mode=Mode.OFF)
    core = core_of(state)
    assert core.link_up("ours", NOW) == []
    entry = state.announce("services", "web", '"x"', NOW)
    assert core.wrote({Place("services", "web"): entry}) == [Publish(None)]
    behind = Block(0, hash="", storage={})
    assert lack_of(state, behind) != b""
    assert lack_of(state, state.block) == b""


def test_frames_of_a_peer_without_a_link_are_not_answered():
    core = core_of(alice())
    for frame in (Digest(bytes(16), 0, 0, True), Ask(0, [""]), Want(bytes(8), False), Have(bytes(8))):
        assert core.on_frame("stranger", frame, 0.0, NOW) == []


def test_what_is_remembered_of_peers_is_bounded():
    core = core_of(alice())
    core.link_up("peer", NOW)
    for start in range(0, 40_000, 4_000):
        hints = b"".join(number.to_bytes(8, "big") for number in range(start << 24, start + 4000 << 24, 1 << 24))
        core.on_frame("peer", Have(hints), 0.0, NOW)
    assert len(core._pending) == gossip_core.MAX_PENDING
    for number in range(3000):
        core.merged_block(f"go{number}", b"lack", core.state.merge(Block(), NOW), 0.0)
    assert len(core._lacks) == gossip_peer.MAX_REMEMBERED


@pytest.mark.parametrize("owner", [BOB, CAROL])
def test_entries_that_broke_a_rule_are_not_asked_for_again(owner):
    held = {"healthcheck": heartbeats(ALICE, BOB, CAROL), "machines": {"10.1.0.1": machine(ALICE, 1)}}
    state = alice(block=Block(storage=held))
    core = core_of(state)
    core.link_up("peer", NOW)
    other = alice(block=Block(storage={**held, "machines": {"10.1.0.1": machine(owner, 2)}}))
    theirs = core_of(other)
    theirs.link_up("us", NOW)
    searches = 0
    for second in range(30):
        queue = [("peer", core, "us", theirs, a.frame) for a in theirs.link_up("us", NOW)]
        while queue:
            teller, hearer, back, said_by, frame = queue.pop(0)
            if isinstance(frame, Entries):
                block = Block(storage={b: {k: e} for b, k, e in entries_untrusted(frame.entries)})
                actions = hearer.merged(teller, frame, block, hearer.state.merge(block, NOW), float(second))
            else:
                searches += isinstance(frame, Want) and hearer is theirs
                actions = hearer.on_frame(teller, frame, float(second), NOW)
            queue += [(back, said_by, teller, hearer, a.frame) for a in actions if isinstance(a, Send)]
    assert searches == 1
    assert state.get("machines", "10.1.0.1").owner == ALICE.peer_id
