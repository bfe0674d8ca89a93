"""Many nodes that get their addresses from each other, in a network that is cut in two: real ledgers, a virtual clock.

Each node has the ledger, the Trickle timer and the lessee of a real one (edgevpn/ledger); simulated are the clock and
the network between them. A pair hears each other some time after both have started, a message takes its time, and
what crosses a cut is lost. Everything comes from one seed.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgevpn.ledger.claims import Viewer
from edgevpn.ledger.dhcp import address_after_highest
from edgevpn.ledger.leader import available_peers, leader_of
from edgevpn.ledger.lessee import Lessee, contests, graves, write_step
from edgevpn.ledger.policy import DEFAULT_TTL, Mode
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.ledger.trickle import Trickle
from edgevpn.proto.block import Block
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.values import DHCP, HEALTHCHECK, MACHINES, Machine, write_heartbeat, write_text, write_value

EPOCH = 1_786_528_800.0
MAX_AGE = 900.0
NETWORK = "10.1.0.1/24"


class SimNode:
    """A node with --dhcp."""

    def __init__(self, network: SimNetwork, number: int, networks: Sequence[str], last_run: Sequence[str] = ()) -> None:
        self.network = network
        self.chance = random.Random(network.chance.random())
        self.key = PrivateKey(hashlib.sha256(f"{network.seed}/{number}".encode()).digest())
        self.me = self.key.peer_id
        self.skew = self.chance.uniform(-1.0, 1.0)  # of its clock, seconds
        self.island = 0
        self.alive = False
        self.began = 0.0
        self.addressed: float | None = None  # when it first had all its addresses
        self.renumbered = 0
        self.held: tuple[str, ...] = ()
        self._networks, self._last_run = networks, last_run
        self._next_step = float("inf")

    @property
    def now(self) -> float:
        return EPOCH + self.network.clock + self.skew

    def start(self) -> None:
        self.alive = True
        self.began = clock = self.network.clock
        self.state = LedgerState(self.key, self.now)
        self.viewer = Viewer(self.me, Mode.ENFORCE, DEFAULT_TTL, MAX_AGE)
        self.trickle = Trickle(0.25, 10.0, 2, self.chance, clock)
        self.state.announce(HEALTHCHECK, self.me, write_heartbeat(self.now), self.now)
        self.prepare()
        self.step()
        self._tick()

    def prepare(self) -> None:
        self.lessee = Lessee(self.me, self._networks, self._last_run, self.chance, self.network.clock)

    def step(self) -> None:
        if not self.alive:
            return
        step = self.lessee.step(self.viewer.view(self.state.storage, self.now), self.now, self.network.clock)
        changed = write_step(self.state, step, self.now)
        if step.held != self.held:
            gained = len(step.held) == len(self._networks)
            if gained and self.addressed is None:
                self.addressed = self.network.clock - self.began
            elif gained:
                self.renumbered += 1
            self.held = step.held
        changed |= self._announce(step.held)
        if changed:
            self.network.publish(self)
        if step.wake < self._next_step or self._next_step <= self.network.clock:
            self._next_step = step.wake
            self.network.at(step.wake + 1e-6, self.step)

    def _announce(self, held: Sequence[str]) -> bool:
        changed = False
        for cidr in held:
            address = cidr.partition("/")[0]
            try:
                value = write_value(Machine(self.me, address=address))
                changed |= self.state.announce(MACHINES, address, value, self.now) is not None
            except WriteRefusedError:
                continue
        return changed

    def receive(self, block: Block) -> None:
        if not self.alive:
            return
        merged = self.state.merge(block, self.now)
        clock = self.network.clock
        self.lessee.heard(clock)
        renewed = False
        for violation in merged.violations:
            place, entry = violation.place, violation.entry
            ours = self.state.get(place.bucket, place.key)
            if ours is None or ours.owner != self.me or ours.deleted:
                continue
            if entry.deleted:
                self.state.announce(place.bucket, place.key, ours.value, self.now, force=True)
                renewed = True
            elif contests(violation):
                self.lessee.contested(place.key, entry.owner, clock)
        if renewed:
            self.network.publish(self)
        if buried := graves(self.state, merged.violations, self.now):
            self.network.publish(self, self.state.partial_block(buried, self.now))
        if merged.changed:
            self.trickle.on_inconsistent(clock)
            self._announce(self.held)
        elif merged.older or self.state.lacks(block):
            self.trickle.on_inconsistent(clock)
        else:
            self.trickle.on_consistent()
        self.step()

    def _tick(self) -> None:
        if not self.alive:
            return
        if self.trickle.expire(self.network.clock):
            self.network.publish(self)
        self.network.at(max(self.trickle.next_wakeup(), self.network.clock + 0.05), self._tick)


class GoNode(SimNode):
    """A node that takes its address as the Go program does: every 5 s it looks whether it is the elected one."""

    def prepare(self) -> None:
        super().prepare()
        self.network.at(self.network.clock + 5, self.look)

    def step(self) -> None:
        """Not our rules."""

    def look(self) -> None:
        if not self.alive or self.held:
            return
        self.network.at(self.network.clock + 5, self.look)
        machines = [json.loads(entry.value) for entry in self.state.entries(MACHINES).values()]
        with_address = {machine["PeerID"] for machine in machines}
        nodes = available_peers(self.state.storage, self.now, MAX_AGE)
        without = [peer for peer in nodes if peer not in with_address]
        entry = self.state.get(DHCP, "leader")
        lead = json.loads(entry.value) if entry else ""
        elected = leader_of(without)
        if len(nodes) <= 1 or (elected != self.me and lead != self.me):
            return
        if elected == self.me and lead not in without:
            self.state.announce(DHCP, "leader", write_text(self.me), self.now)
            self.network.publish(self)
        elif lead == self.me:
            address = address_after_highest("10.1.0.1", [machine["Address"] for machine in machines])
            self.held = (f"{address}/24",)
            self.addressed = self.network.clock - self.began
            self.network.at(self.network.clock + self.chance.uniform(0, 10), self._say)  # its announcement ticks

    def _say(self) -> None:
        if self.alive and self._announce(self.held):
            self.network.publish(self)


@dataclass
class SimNetwork:
    """The clock, and what lies between the nodes."""

    seed: int

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.clock = 0.0
        self.nodes: list[SimNode] = []
        self.messages = 0
        self._joined: set[frozenset[str]] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, clock: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (clock, next(self._order), act))

    def run_until(self, clock: float) -> None:
        while self._events and self._events[0][0] <= clock:
            self.clock, _, act = heapq.heappop(self._events)
            act()
        self.clock = clock

    def add(self, node: SimNode, at: float) -> None:
        for other in self.nodes:
            found = at + self.chance.uniform(0.3, 2.5)
            self.at(found, lambda other=other: self._join(node, other))  # type: ignore[misc]
        self.nodes.append(node)
        self.at(at, node.start)

    def _join(self, one: SimNode, two: SimNode) -> None:
        if not (one.alive and two.alive):
            return
        if one.island != two.island:
            self.at(self.clock + self.chance.uniform(0.3, 2.5), lambda: self._join(one, two))
            return
        self._joined.add(frozenset((one.me, two.me)))
        self.publish(one)
        self.publish(two)

    def cut(self, islands: Sequence[Sequence[SimNode]]) -> None:
        for number, island in enumerate(islands):
            for node in island:
                node.island = number

    def heal(self) -> None:
        """Pairs that had been joined are again, soon."""
        for node in self.nodes:
            node.island = 0
        for one, two in itertools.combinations(self.nodes, 2):
            pair = frozenset((one.me, two.me))
            if pair in self._joined:
                self._joined.discard(pair)
                self.at(self.clock + self.chance.uniform(0.3, 2.5), lambda a=one, b=two: self._join(a, b))  # type: ignore[misc]

    def publish(self, node: SimNode, block: Block | None = None) -> None:
        """To everybody within reach: the whole ledger, or `block`."""
        block = block or Block(node.state.index, "", node.state.storage)
        for other in self.nodes:
            if other is not node and frozenset((node.me, other.me)) in self._joined and other.island == node.island:
                self.messages += 1
                self.at(self.clock + self.chance.uniform(0.005, 0.3), lambda o=other: self._deliver(node, o, block))  # type: ignore[misc]

    def _deliver(self, node: SimNode, other: SimNode, block: Block) -> None:
        if node.island == other.island:
            other.receive(block)

    def kill(self, node: SimNode) -> None:
        node.alive = False

    def duplicates(self, island: int | None = None) -> int:
        """Addresses that more than one living node (of an island) has."""
        held = [a for node in self.nodes if node.alive and island in (None, node.island) for a in node.held]
        return len(held) - len(set(held))


def round_of(seed: int, count: int = 20, networks: Sequence[str] = (NETWORK,)) -> dict[str, Any]:
    """`count` nodes started together, in two islands; the elected leader killed; the network healed."""
    network = SimNetwork(seed)
    nodes = [SimNode(network, number, networks) for number in range(count)]
    network.cut((nodes[: count // 2], nodes[count // 2 :]))
    for node in nodes:
        network.add(node, network.chance.uniform(0, 0.5))
    leader = leader_of([node.me for node in nodes])
    dead = next(node for node in nodes if node.me == leader)
    network.at(network.chance.uniform(1.0, 8.0), lambda: network.kill(dead))
    healed = network.chance.uniform(10.0, 30.0)
    within = 0
    while network.clock < healed:
        network.run_until(min(network.clock + 0.25, healed))
        within = max(within, network.duplicates(0), network.duplicates(1))
    across = network.duplicates()
    network.heal()
    settled = healed
    while network.clock < healed + 40:
        network.run_until(network.clock + 0.25)
        if network.duplicates():
            settled = network.clock
    living = [node for node in nodes if node.alive]
    owners = {held.partition("/")[0]: node.me for node in living for held in node.held}
    right = sum(
        all(a in found and found[a].owner == owner for a, owner in owners.items())
        for found in (node.state.entries(MACHINES) for node in living)
    )
    return {
        "seed": seed,
        "times": [node.addressed for node in living],
        "without": sum(not node.held for node in living),
        "duplicates_within_an_island": within,
        "duplicates_across_when_healed": across,
        "duplicates": network.duplicates(),
        "settled_after_s": settled - healed,
        "renumbered": sum(node.renumbered for node in living),
        "wrong_ledgers": len(living) - right,  # that say another owner of an address that a living node has
        "messages": network.messages,
    }


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def campaign(rounds: int, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Rounds with the seeds from `seed` on, every fourth one with IPv4 and IPv6; the figures of all."""
    found = []
    for number in range(rounds):
        networks = (NETWORK, "fd00::1/64") if number % 4 == 3 else (NETWORK,)
        found.append(one := round_of(seed + number, networks=networks))
        times = [time for time in one["times"] if time is not None]
        say(
            f"dhcp round {number + 1}, seed {one['seed']}: {one['duplicates']} duplicates "
            f"({one['duplicates_across_when_healed']} when the halves met, gone after {one['settled_after_s']:.1f} s, "
            f"{one['renumbered']} renumbered), to an address at most {max(times):.1f} s"
        )
    times = [time for one in found for time in one["times"] if time is not None]
    return {
        "rounds": rounds,
        "seed": seed,
        "duplicates": sum(one["duplicates"] for one in found),
        "duplicates_within_an_island": sum(one["duplicates_within_an_island"] for one in found),
        "duplicates_when_the_halves_met": sum(one["duplicates_across_when_healed"] for one in found),
        "gone_after_s_worst": max(one["settled_after_s"] for one in found),
        "nodes_without": sum(one["without"] for one in found),
        "wrong_ledgers": sum(one["wrong_ledgers"] for one in found),
        "to_an_address_s": {
            "median": round(statistics.median(times), 2),
            "p95": round(percentile(times, 0.95), 2),
            "max": round(max(times), 2),
        },
    }


def measure_dhcp(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """`tries` rounds of 20 nodes in two halves, the leader killed."""
    return campaign(tries, random.SystemRandom().randrange(2**32), say)
