"""A network to be hurt: three nodes under requests and a TCP stream, and one actor at a time brought to its end.

`Bed.hurt` does one thing to one actor, waits until the actor serves again, and tells how that went: when its process
was gone, when its successor was ready (both to the millisecond: the kernel's word and the node's log), what entries the
node's ledger lacks, what its processes hold. What it cost in packets is asked afterwards (`packets`), when late answers
are in.

Before each hurt an entry is written into the node's ledger, a moment before: an entry whose writing was answered must
be there afterwards.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgevpn.actors.log_store import LogReader
from edgevpn.cli import direct
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import (
    Actors,
    ActorsRequest,
    ActorStatus,
    Announce,
    Done,
    Heartbeat,
    LedgerReply,
    LedgerRequest,
)
from scripts.labkit import traffic
from scripts.labkit.flood import PATIENCE, Flood, Span
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.processes import Doomed, weigh, zombies_of
from scripts.labkit.ways import WAYS, Way

TEMPLATE = "template"
NO_ACTORS = ("supervisor", TEMPLATE)
EVERY_ACTOR = ("--api", "--dns=10.1.0.1:53", "--egress")  # flags of a node with actors that are not always there
BUCKET = "chaos"
KEYS = 32  # entries that are written again and again
INTERFACE = "edgevpn0"
END_PATIENCE = 4.0  # seconds until a process must be gone; a hung one is noticed in 2
LIVE_PATIENCE = 2.5  # ... that one without memory or descriptors may live on before the limit is lifted
READY_PATIENCE = 20.0  # seconds until the successor must be ready: a plain start takes some when the machine is busy
MOST_BEFORE = 0.4


@dataclass(frozen=True, slots=True)
class Hurt:
    """What was done to an actor, and what came of it. Times in seconds, `at` and `over` by CLOCK_MONOTONIC.

    `ended_after` and `restart` are None for one that lived. `wrong`: what must not be, a line; "" when all is well.
    """

    node: int
    actor: str
    way: str
    at: float
    over: float
    ended_after: float | None
    restart: float | None
    wrong: str
    entries_lost: tuple[str, ...]
    zombies: int
    descriptors: int
    pss_bytes: int
    rss_bytes: int
    supervisor_descriptors: int
    supervisor_rss_bytes: int


class Bed:
    """`count` nodes of one network in a lab, all connected. Node K has 10.1.0.K."""

    def __init__(
        self, lab: Lab, count: int = 3, *flags: str, first: Sequence[str] = (), directory: Path | None = None
    ) -> None:
        """`flags` are all nodes', `first` the first one's."""
        self.lab = lab
        token = new_token()
        common = ("--dht=false", "--log-level=debug", *flags)
        self.nodes = [
            Vpn(lab.node(k), token, f"10.1.0.{k}/24", *common, *(first if k == 1 else ()), directory=directory)
            for k in range(1, count + 1)
        ]
        self.floods: dict[int, Flood] = {}
        self.load: subprocess.Popen[bytes] | None = None
        self._stream = "--path=stream" in flags
        self._logs = [_Log(vpn.run_dir) for vpn in self.nodes]
        self._supervisors = [vpn.process.pid for vpn in self.nodes]
        self._acknowledged: list[dict[str, str]] = [{} for _ in self.nodes]
        self._written = 0

    def settle(self, timeout: float = 30.0) -> None:
        """Until all answer all, by the path that is wanted, and all ledgers know all machines. Raises LabError."""
        for k in range(1, len(self.nodes) + 1):
            for other in range(1, len(self.nodes) + 1):
                if k != other:
                    traffic.first_answer(self.lab.node(k), f"10.1.0.{other}", INTERFACE, timeout)
        wanted = "stream" if self._stream else "datagram"

        def settled() -> bool:
            return all(
                sum(peer["path"] == wanted for peer in vpn.json("peers")) == len(self.nodes) - 1 for vpn in self.nodes
            )

        traffic.wait_for(settled, timeout, what=f"the {wanted} path between all")
        everyone = {f"10.1.0.{k}" for k in range(1, len(self.nodes) + 1)}
        for k in range(1, len(self.nodes) + 1):
            traffic.wait_for(lambda k=k: everyone <= set(self.entries(k, "machines")), timeout, what="all machines")
            # Warm starts are what is measured: the template must have come to the end of its imports.
            traffic.wait_for(lambda k=k: self._status(k, TEMPLATE).state == "ready", timeout, what="a ready template")

    # --- traffic

    def flood(self, k: int, interval: float = 0.001) -> Flood:
        """Echo requests to node K from the next one."""
        self.floods[k] = Flood(self.lab.node(k % len(self.nodes) + 1), f"10.1.0.{k}", INTERFACE, interval)
        return self.floods[k]

    def start_load(self, source: int, target: int, mbit: float) -> None:
        """One TCP stream inside the VPN, for as long as the bed stands."""
        server, address = self.lab.node(target), f"10.1.0.{target}"
        server.popen(["iperf3", "-s", "-1", "-B", address])

        def listens() -> str:
            return server.run(["ss", "-Hltn", "sport = :5201"], check=False).stdout.strip()

        traffic.wait_for(listens, 5, what="iperf3's server")
        # -t 0 has no end; its own control connection runs inside, too
        words = ["iperf3", "-c", address, "-t", "0", "-b", f"{mbit:g}M"]
        self.load = self.lab.node(source).popen(words)
        time.sleep(0.3)
        if self.load.poll() is not None:
            raise LabError(f"iperf3 ended with {self.load.returncode}")

    @property
    def load_lives(self) -> bool:
        """Whether the TCP stream that was started is still the same."""
        return self.load is not None and self.load.poll() is None

    def packets(self, hurt: Hurt, until: float) -> Span:
        """What became of the requests from the hurt until `until`. Ask PATIENCE later."""
        return self.floods[hurt.node].span(hurt.at - 0.005, until)

    # --- asking

    def actors(self, k: int) -> list[ActorStatus]:
        return direct.ask(self.nodes[k - 1].run_dir, "supervisor", ActorsRequest(), Actors).actors

    def actor_names(self, k: int) -> list[str]:
        """Of those that run."""
        return [status.name for status in self.actors(k) if status.name not in NO_ACTORS and status.pid]

    def _status(self, k: int, actor: str) -> ActorStatus:
        for status in self.actors(k):
            if status.name == actor:
                return status
        return ActorStatus(actor, 0, "down", 0, 0.0, 0, "")

    def entries(self, k: int, bucket: str) -> dict[str, str]:
        """What a node's ledger has, without what is deleted. Raises EdgevpnError."""
        reply = direct.ask(self.nodes[k - 1].run_dir, "ledger", LedgerRequest(bucket), LedgerReply)
        return {entry.key: entry.value for entry in reply.entries if not entry.deleted}

    def lost_entries(self, k: int) -> tuple[str, ...]:
        """Machines, and what we wrote at node K and was answered for, that its ledger has not (any more)."""
        machines = self.entries(k, "machines")
        lost = [address for j in range(1, len(self.nodes) + 1) if (address := f"10.1.0.{j}") not in machines]
        if wanted := self._acknowledged[k - 1]:
            there = self.entries(k, BUCKET)
            lost += [key for key, value in wanted.items() if there.get(key) != value]
        return tuple(lost)

    def lacking_anywhere(self) -> list[str]:
        """What some node's ledger does not know of what was acknowledged at another, as "key at node"."""
        wanted = {key: value for there in self._acknowledged for key, value in there.items()}
        lacking = []
        for k in range(1, len(self.nodes) + 1):
            there = self.entries(k, BUCKET)
            lacking += [f"{key} at {k}" for key, value in wanted.items() if there.get(key) != value]
        return lacking

    def write_entry(self, k: int) -> None:
        """One entry into node K's ledger; what is answered for is remembered."""
        key, value = f"{k}-{self._written % KEYS}", str(self._written)
        self._written += 1
        with suppress(EdgevpnError):
            direct.ask(self.nodes[k - 1].run_dir, "ledger", Announce(BUCKET, key, value), Done)
            self._acknowledged[k - 1][key] = value

    # --- hurting

    def hurt(self, k: int, actor: str, way_name: str, chance: random.Random, most_before: float = MOST_BEFORE) -> Hurt:
        """Do it, and wait until the actor is there again (of the template: a new one, ready or not).

        `most_before`: seconds, at most, from the writing of an entry to the hurt.
        """
        vpn, way = self.nodes[k - 1], WAYS[way_name]
        if actor == TEMPLATE and not way.template:
            raise ValueError(f"nothing called {way_name} can be done to the template")
        before = self._status(k, actor)
        if not before.pid:
            traffic.wait_for(lambda: self._status(k, actor).pid, READY_PATIENCE, what=f"a process of {actor}")
            before = self._status(k, actor)
        self.write_entry(k)
        time.sleep(chance.random() * most_before)
        wrong, ended, ready = "", None, None
        with Doomed(before.pid) as doomed:
            at = time.monotonic()
            try:
                lift = way.do(vpn.run_dir, actor, before.pid)
            except (EdgevpnError, OSError) as exc:
                wrong = f"{way.name} can't be done: {exc}"
            else:
                ended = doomed.wait(LIVE_PATIENCE if way.may_live else END_PATIENCE)
                lift()
            if ended is None and not wrong:
                wrong = self._of_use(k, actor) if way.may_live else f"it still runs after {END_PATIENCE:g} s"
        if ended is not None:
            wrong, ready = self._await_successor(k, actor, before.pid)
        over = time.monotonic()
        lost: tuple[str, ...] = ()
        try:
            lost = self._newly_lost(k)
        except EdgevpnError as exc:
            wrong = wrong or f"the ledger does not answer: {exc}"
        if vpn.process.poll() is not None:
            raise LabError(f"the node ended with {vpn.process.returncode}: {vpn.tail()}")
        supervisor = self._supervisors[k - 1]
        held, own = (
            weigh([supervisor, *(s.pid for s in self.actors(k) if s.pid and s.pid != supervisor)]),
            weigh([supervisor]),
        )
        return Hurt(
            k,
            actor,
            way.name,
            at,
            over,
            None if ended is None else ended - at,
            None if ended is None or ready is None else max(0.0, ready - ended),
            wrong,
            lost,
            _lasting_zombies(supervisor),
            held.descriptors,
            held.pss_bytes,
            held.rss_bytes,
            own.descriptors,
            own.rss_bytes,
        )

    def _newly_lost(self, k: int) -> tuple[str, ...]:
        """What is missing; it is told once."""
        lost = self.lost_entries(k)
        for key in lost:
            self._acknowledged[k - 1].pop(key, None)
        return lost

    def _of_use(self, k: int, actor: str) -> str:
        """Whether one that has lived serves again; "" or what is wrong. It may have been replaced meanwhile."""
        deadline = time.monotonic() + END_PATIENCE
        while True:
            try:
                direct.ask(self.nodes[k - 1].run_dir, actor, Heartbeat(), Done)
                return ""
            except EdgevpnError as exc:
                if time.monotonic() > deadline:
                    return f"it lives, but is of no use: {exc}"
                time.sleep(0.02)

    def _await_successor(self, k: int, actor: str, old: int) -> tuple[str, float | None]:
        """("", when it was ready) or what is wrong."""
        deadline = time.monotonic() + READY_PATIENCE
        while time.monotonic() < deadline:
            if actor == TEMPLATE:
                status = self._status(k, TEMPLATE)
                if status.pid not in (0, old):
                    return "", time.monotonic()
                time.sleep(0.05)
                continue
            found = self._logs[k - 1].ready_after(actor, old)
            if found is not None:
                return "", found
            time.sleep(0.005)
        return f"no other is ready after {READY_PATIENCE:g} s", None

    def close(self) -> None:
        for flood in self.floods.values():
            flood.stop()
        for log in self._logs:
            log.close()
        for vpn in self.nodes:
            vpn.close()


class _Log:
    """When actors became ready, by the node's log."""

    def __init__(self, run_dir: Path) -> None:
        self._reader = LogReader(run_dir)
        self._ready: dict[str, list[tuple[int, float]]] = {}  # (pid, when) by actor, the newest few

    def ready_after(self, actor: str, old: int) -> float | None:
        """When the one that followed process `old` became ready (CLOCK_MONOTONIC); None: not yet."""
        offset = time.monotonic() - time.time()
        for line in self._reader.read():
            if line.event == "is ready":
                known = self._ready.setdefault(line.actor, [])
                known.append((int(line.facts.get("pid", 0)), line.time + offset))
                del known[:-8]
        known = self._ready.get(actor, [])
        places = [place for place, (pid, _) in enumerate(known) if pid == old]
        if not places:  # it was never said to be ready: the newest is the one that counts
            return known[-1][1] if known and known[-1][0] != old else None
        return known[places[-1] + 1][1] if places[-1] + 1 < len(known) else None

    def close(self) -> None:
        self._reader.__exit__()


def _lasting_zombies(supervisor: int) -> int:
    """Children that nobody reaps; one that has just ended is given a moment."""
    found = set(zombies_of(supervisor))
    if found:
        time.sleep(0.2)
        found &= set(zombies_of(supervisor))
    return len(found)


def ways_for(actor: str, wanted: Sequence[Way]) -> list[Way]:
    """Those of the ways that can be done to it."""
    return [way for way in wanted if way.template or actor != TEMPLATE]


__all__ = ["BUCKET", "EVERY_ACTOR", "PATIENCE", "TEMPLATE", "Bed", "Hurt", "ways_for"]
