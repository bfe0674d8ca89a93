"""What is simulated: a network that is idle and then churns, one that is split and heals, and short wild runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from edgevpn.ledger.merge import Place, with_entries
from edgevpn.proto.block import Block
from edgevpn.proto.entry import Entry
from edgevpn.proto.values import Service, write_value
from scripts.simkit.judge import Judge
from scripts.simkit.nodes import GoNode, Node, OurNode, Settings, introduce
from scripts.simkit.world import Weather, World

DIALS = 5  # peers that a node connects to by itself; with those that connect to it about ten
FULL_MESH = 12  # nodes up to which everybody is connected to everybody
GROWN = 50  # nodes from which on a run begins with a network that is up already
SERVICES = "services"
QUICK = Settings(ttl=40.0, heartbeat=10.0, scrub=15.0, max_age=60.0)
CLOUDY = Weather(delay=(0.002, 0.08), loss=0.01, breaks=0.0002)


@dataclass
class Report:
    """Figures of a run. Times in seconds of the virtual clock; None: nothing to measure."""

    rule: str
    nodes: int
    seed: int
    seconds: float = 0.0
    writes: int = 0
    equal_p50_s: float | None = None
    equal_p99_s: float | None = None
    equal_max_s: float | None = None
    heartbeat_p99_s: float | None = None
    join_p99_s: float | None = None
    heal_max_s: float | None = None
    idle_kbit_s: float | None = None  # a node, each way, mean
    idle_most_kbit_s: float | None = None  # the node that sends or receives most
    churn_kbit_s: float | None = None
    churn_most_kbit_s: float | None = None
    broken: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Run:
    """A network of nodes of one kind, and the means to disturb it."""

    def __init__(self, rule: str, seed: int, weather: Weather, settings: Settings, *, skew: float = 0.0) -> None:
        self.world = World(seed, weather)
        self.judge = Judge(self.world)
        self.settings = settings
        self.make = {"ours": OurNode, "go": GoNode}[rule]
        self.chance = self.world.chance
        self.skew = skew
        self.nodes: dict[int, Node] = {}
        self.next_number = 1
        self.mesh = False

    def join(self, number: int | None = None) -> Node:
        """A node starts, with an empty ledger, and connects to some of the others."""
        if number is None:
            number = self.next_number
            self.next_number += 1
        introduce(number)
        skew = self.chance.uniform(-self.skew, self.skew)
        node = self.make(self.world, number, self.settings, skew, self.judge.watch)
        others = sorted(self.nodes)
        self.world.add(node)
        self.nodes[number] = node
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        node.claim(address)
        self.judge.wrote(node, Place("machines", address))
        node.start()
        chosen = others if self.mesh else self.chance.sample(others, min(DIALS, len(others)))
        for other in chosen:
            self.world.connect(number, other)
        return node

    def grow(self, count: int) -> None:
        """`count` nodes that know of each other already, each at some moment of its life."""
        nodes = [self.join() for _ in range(count)]
        everything: dict[Place, Entry] = {}
        for node in nodes:
            storage = node.state.storage
            everything |= {Place(bucket, key): entry for bucket in storage for key, entry in storage[bucket].items()}
        block = Block(1, storage=with_entries({}, everything))
        for node in nodes:
            node.state.restore(block)
            node.own.resume(self.world.now, self.chance.random())
            node.rearm()

    def leave(self, number: int) -> None:
        node = self.nodes.pop(number)
        node.stop()
        left = self.world.neighbours(number)
        self.world.remove(number)
        self.judge.gone(number)
        for other in left:  # who lost a peer looks for another
            if other in self.nodes and len(self.world.neighbours(other)) < DIALS and len(self.nodes) > 1:
                self.world.connect(other, self.chance.choice(sorted(self.nodes)))

    def write(self, node: Node, name: str) -> None:
        value = write_value(Service(node.peer_id, f"{name}-{self.world.now:.3f}"))
        if node.write(SERVICES, name, value) is not None:
            self.judge.wrote(node, Place(SERVICES, name))

    def withdraw(self, node: Node, name: str) -> None:
        place = Place(SERVICES, name)
        if self.judge.owned.get(place) == node.number:
            entry = node.withdraw(SERVICES, name)
            if entry is not None:
                self.judge.withdrew(place, entry)

    def random_node(self) -> Node:
        return self.nodes[self.chance.choice(sorted(self.nodes))]

    def every(self, low: float, high: float, until: float, call: Callable[[], None]) -> None:
        """Call at moments that lie `low` to `high` apart."""

        def again() -> None:
            if self.world.now < until:
                call()
                self.world.at(self.world.now + self.chance.uniform(low, high), again)

        self.world.at(self.world.now + self.chance.uniform(0, high), again)

    def until_equal(self, most: float, step: float = 0.1) -> float | None:
        """Run on until all ledgers are equal, or for `most` seconds; how long it took."""
        began = self.world.now
        while self.world.now - began < most:
            if self.judge.equal(self.nodes.values()):
                return self.world.now - began
            self.world.run(self.world.now + step)
        return None

    def rates(self, before: tuple[dict[int, int], dict[int, int]], seconds: float) -> tuple[float, float]:
        """kbit/s of a node since `before`, mean and most."""
        rates = [
            (now.get(number, 0) - then.get(number, 0)) * 8 / 1000 / seconds
            for now, then in zip((self.world.sent, self.world.received), before, strict=True)
            for number in self.nodes
        ]
        return sum(rates) / len(rates), max(rates)

    def counters(self) -> tuple[dict[int, int], dict[int, int]]:
        return dict(self.world.sent), dict(self.world.received)


def steady(
    rule: str, count: int, seed: int, *, idle: float = 300.0, churn: float = 300.0, tell: Callable[[str], None]
) -> Report:
    """`count` nodes start; nothing happens for `idle` seconds; then 1 % of them a minute leave and as many come."""
    began = time.monotonic()
    run = Run(rule, seed, Weather(loss=0.002), Settings())
    world = run.world
    run.mesh = count <= FULL_MESH
    report = Report(rule, count, seed)
    start = max(5.0, count / 10)
    if count > GROWN:
        run.grow(count)
    else:
        for _ in range(count):
            world.at(world.now + run.chance.uniform(0, start), lambda: _ignore(run.join()))
    step = 10.0

    def go_on(seconds: float, what: str) -> None:
        end = world.now + seconds
        while world.now < end - 1e-9:
            world.run(min(end, world.now + step))
            tell(f"{rule} {count}: {what}, {world.now:.0f} s of the network in {time.monotonic() - began:.0f} s")

    go_on(60 + (start if count <= GROWN else 0), "starting")
    run.judge.tracking = True
    before = run.counters()
    if idle:
        go_on(idle, "idle")
        report.idle_kbit_s, report.idle_most_kbit_s = (round(x, 3) for x in run.rates(before, idle))
    joins: list[float] = []
    if churn:
        before = run.counters()
        pause = max(60 / (count * 0.01), 1.0) if count >= 100 else 60.0
        end = world.now + churn

        def swap() -> None:
            run.leave(run.random_node().number)
            _time_join(run, run.join(), joins)

        run.every(pause * 0.5, pause * 1.5, end, swap)
        run.every(5.0, 15.0, end, lambda: run.write(run.random_node(), f"s{run.chance.randrange(10**9)}"))
        go_on(churn, "churning")
        report.churn_kbit_s, report.churn_most_kbit_s = (round(x, 3) for x in run.rates(before, churn))
    go_on(40, "settling")
    run.judge.check_end(list(run.nodes.values()))
    for place, age, missing in run.judge.unfinished():
        if age > 60:
            run.judge.fault(f"{place.bucket}/{place.key} is unknown to {missing} after {age:.0f} s")
    _fill(report, run, joins)
    report.took_s = round(time.monotonic() - began, 1)
    return report


def _ignore(_value: object) -> None:
    pass


def _time_join(run: Run, node: Node, joins: list[float]) -> None:
    """Note how long a new node takes until it has all that was there (heartbeats not counted)."""
    wanted = {place for place, owner in run.judge.owned.items() if owner != node.number}
    began = run.world.now

    def look() -> None:
        if node.number not in run.nodes:
            return
        missing = {p for p in wanted & run.judge.owned.keys() if node.state.get(p.bucket, p.key) is None}
        if missing and run.world.now - began < 120:
            run.world.at(run.world.now + 0.1, look)
        else:
            joins.append(run.world.now - began)

    run.world.at(run.world.now + 0.1, look)


def split(rule: str, count: int, seed: int, *, times: int = 20, tell: Callable[[str], None]) -> Report:
    """Two halves that don't reach each other for 60 s, both write and delete; healed, again and again."""
    began = time.monotonic()
    run = Run(rule, seed, CLOUDY, Settings(), skew=1.0)
    world = run.world
    run.mesh = count <= FULL_MESH
    report = Report(rule, count, seed)
    for _ in range(count):
        run.join()
    world.run(30)
    run.judge.tracking = True
    heals: list[float] = []
    for number in range(times):
        halves = sorted(run.nodes)
        run.chance.shuffle(halves)
        world.partition({node: int(at < count / 2) for at, node in enumerate(halves)})
        _both_sides_write(run, world.now + 60, number)
        world.run(world.now + 60)
        world.heal()
        healed = run.until_equal(60)
        if healed is None:
            run.judge.fault(f"after partition {number + 1} the ledgers are not equal within 60 s")
        heals.append(60.0 if healed is None else healed)
        world.run(world.now + 5)
        run.judge.check_end(list(run.nodes.values()))
        tell(f"{rule} {count}: partition {number + 1} of {times}, equal {heals[-1]:.1f} s after it")
    report.heal_max_s = round(max(heals), 2)
    _fill(report, run, [])
    report.took_s = round(time.monotonic() - began, 1)
    return report


def _both_sides_write(run: Run, until: float, number: int) -> None:
    """Everybody writes services of its own and deletes some of them."""

    def act() -> None:
        node = run.random_node()
        name = f"n{node.number}-{number}-{run.chance.randrange(4)}"
        if run.chance.random() < 0.3:
            run.withdraw(node, name)
        else:
            run.write(node, name)

    run.every(0.2, 1.5, until, act)


def wild(rule: str, seed: int) -> Report:
    """A short run of few nodes in which everything goes wrong, and then 40 s of quiet."""
    began = time.monotonic()
    plan = World(seed, Weather()).chance
    quick = plan.random() < 0.5
    weather = Weather(
        delay=(0.001, plan.choice((0.01, 0.1, 0.4))),
        loss=plan.choice((0.0, 0.01, 0.1)),
        breaks=plan.choice((0.0, 0.001, 0.02)),
        detect=(1.0, plan.choice((2.0, 10.0, 30.0))),
    )
    settings = QUICK if quick else Settings()
    run = Run(rule, seed, weather, settings, skew=plan.choice((0.0, 0.5, settings.ttl * 3 / 16)))
    run.mesh = plan.random() < 0.5
    world = run.world
    count = plan.randint(2, 9)
    report = Report(rule, count, seed)
    for _ in range(count):
        world.at(plan.uniform(0, 5), lambda: _ignore(run.join()))
    world.run(8)
    run.judge.tracking = True
    end = world.now + plan.uniform(20, 90)
    _both_sides_write(run, end, 0)
    pause = plan.choice((8.0, 20.0, 60.0))

    def disturb() -> None:
        kind = run.chance.random()
        if kind < 0.35 and len(run.nodes) > 2:
            run.leave(run.random_node().number)
        elif kind < 0.7:
            run.join()
        else:
            world.partition({number: run.chance.randrange(2) for number in run.nodes})
            world.at(world.now + run.chance.uniform(1, 30), world.heal)

    run.every(1.0, pause, end, disturb)
    world.run(end)
    world.heal()
    _reconnect(run)
    healed = run.until_equal(40)
    report.heal_max_s = None if healed is None else round(healed, 2)
    world.run(end + 45 + settings.ttl * 0.5)
    run.until_equal(15)  # a leader may just have cleaned up
    run.judge.check_end(list(run.nodes.values()))
    _fill(report, run, [])
    report.took_s = round(time.monotonic() - began, 3)
    return report


def _reconnect(run: Run) -> None:
    """See to it that there is one network."""
    numbers = sorted(run.nodes)
    for one, other in itertools.pairwise(numbers):
        run.world.connect(one, other)


def _fill(report: Report, run: Run, joins: list[float]) -> None:
    report.seconds = round(run.world.now, 1)
    report.writes = len(run.judge.writes)
    report.equal_p50_s = percentile(run.judge.writes, 50)
    report.equal_p99_s = percentile(run.judge.writes, 99)
    report.equal_max_s = percentile(run.judge.writes, 100)
    report.heartbeat_p99_s = percentile(run.judge.beats, 99)
    report.join_p99_s = percentile(joins, 99)
    report.broken = run.judge.broken


def percentile(values: list[float], percent: float) -> float | None:
    """The smallest value that `percent` of all are not above; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, max(0, int(len(ordered) * percent / 100 + 0.999999) - 1))], 3)
