"""The promises about death, row by row: what is done, the figure, the bound, whether it was kept."""

from __future__ import annotations

import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevpn.errors import EdgevpnError
from scripts.labkit import traffic
from scripts.labkit.bed import EVERY_ACTOR, INTERFACE, PATIENCE, Bed
from scripts.labkit.chaos_figures import Outcome, percentile
from scripts.labkit.namespaces import Lab, LabError, is_running
from scripts.labkit.processes import children_of

Say = Callable[[str], None]
NOTICED = 2.0  # seconds until a hung actor is noticed, and until all of a killed node is gone
STREAMS_AGAIN = 1.0  # seconds without an answer when the host dies under the stream path
TUN_AGAIN = 0.5  # ... when the tun actor dies
RESTART_LIBP2P, RESTART_BASE = 0.150, 0.080  # seconds from death to ready, median
_LIBP2P = ("host", "gossip", "discovery", "tun")  # their processes have libp2p
_AFTER = 0.3  # seconds that still count to a hurt once the actor is ready again


@dataclass(frozen=True, slots=True)
class Row:
    """One promise. `figure` in `unit`; `kept` when it is not above `bound`."""

    what: str
    figure: float
    bound: float
    unit: str
    n: int
    detail: str = ""

    @property
    def kept(self) -> bool:
        return self.figure <= self.bound


def measure_table(rounds: int, seed: int, say: Say) -> dict[str, Any]:
    """All rows; "well" when all promises are kept, and as "text" for people."""
    chance = random.Random(seed)
    rows: list[Row] = []
    for part in (on_datagrams, on_streams, root_killed):
        try:
            found = part(rounds, chance, say)
        except (LabError, EdgevpnError) as exc:  # the rest is of worth all the same
            found = [Row(f"what could not be measured ({exc})", 1, 0, "parts", 1)]
        for row in found:
            say(f"chaos: {line_of(row)}")
        rows += found
    return {
        "rows": [{**asdict(row), "kept": row.kept} for row in rows],
        "well": all(row.kept for row in rows),
        "text": "\n".join(line_of(row) for row in rows),
    }


def line_of(row: Row) -> str:
    mark = "kept  " if row.kept else "BROKEN"
    tail = f"; {row.detail}" if row.detail else ""
    return f"{mark} {row.what}: {row.figure:g} {row.unit} (bound {row.bound:g}, n {row.n}{tail})"


def hurt_often(bed: Bed, actor: str, way: str, rounds: int, chance: random.Random) -> list[Outcome]:
    """Node 1's `actor`, `rounds` times."""
    found = []
    for _ in range(rounds):
        hurt = bed.hurt(1, actor, way, chance)
        until = time.monotonic() + _AFTER
        time.sleep(_AFTER + PATIENCE)
        found.append(Outcome(hurt, bed.packets(hurt, until)))
    return found


def lost_row(what: str, outcomes: Sequence[Outcome]) -> Row:
    sent, lost = (sum(getattr(o.packets, name) for o in outcomes) for name in ("sent", "lost"))
    gap = max(o.packets.longest_gap_s for o in outcomes)
    detail = f"of {sent}, longest time without an answer {gap * 1000:.0f} ms"
    return Row(f"{what}, packets lost", lost, 0, "packets", len(outcomes), detail)


def gap_row(what: str, outcomes: Sequence[Outcome], bound: float) -> Row:
    gaps = [outcome.packets.longest_gap_s for outcome in outcomes]
    detail = f"median {statistics.median(gaps) * 1000:.0f} ms, lost {sum(o.packets.lost for o in outcomes)}"
    return Row(f"{what}, longest time without an answer", _ms(max(gaps)), _ms(bound), "ms", len(outcomes), detail)


def restart_row(what: str, outcomes: Sequence[Outcome], bound: float) -> Row:
    times = [outcome.hurt.restart for outcome in outcomes if outcome.hurt.restart is not None]
    detail = f"p99 {_ms(percentile(times, 0.99)):g} ms, max {_ms(max(times)):g} ms"
    return Row(
        f"restart {what}, death to ready, median", _ms(statistics.median(times)), _ms(bound), "ms", len(times), detail
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _sound(outcomes: Sequence[Outcome]) -> list[Row]:
    """What must not be, whatever was done."""
    hurts = [outcome.hurt for outcome in outcomes]
    troubles = [f"{h.actor} {h.way}: {h.wrong}" for h in hurts if h.wrong]
    return [
        Row("actors that did not come back", len(troubles), 0, "actors", len(hurts), "; ".join(troubles)),
        Row("ledger entries lost", sum(len(h.entries_lost) for h in hurts), 0, "entries", len(hurts)),
        Row("children left unreaped", max(h.zombies for h in hurts), 0, "processes", len(hurts)),
    ]


def on_datagrams(rounds: int, chance: random.Random, say: Say) -> list[Row]:
    """kill -9 and SIGSTOP of each actor there is, on an established datagram path."""
    rows: list[Row] = []
    every: list[Outcome] = []
    with Lab(2) as lab:
        bed = Bed(lab, 2, first=EVERY_ACTOR)
        try:
            bed.settle()
            bed.flood(1)
            bed.start_load(2, 1, 10)
            time.sleep(1)
            index = _index(bed)
            kills: dict[str, list[Outcome]] = {}
            stops: dict[str, list[Outcome]] = {}
            for actor in sorted(bed.actor_names(1)):
                say(f"chaos: kill -9 and SIGSTOP of {actor}")
                kills[actor] = hurt_often(bed, actor, "kill", rounds, chance)
                stops[actor] = hurt_often(bed, actor, "stop", max(1, rounds // 2), chance)
                every += kills[actor] + stops[actor]
            for actor, found in kills.items():
                if actor != "tun":
                    rows.append(lost_row(f"kill -9 of {actor}", found))
            rows.append(gap_row("kill -9 of tun", kills["tun"], TUN_AGAIN))
            for actor, found in stops.items():
                noticed = [o.hurt.ended_after or 0.0 for o in found]
                rows.append(
                    Row(
                        f"SIGSTOP of {actor}, noticed and ended",
                        _ms(max(noticed)),
                        _ms(NOTICED),
                        "ms",
                        len(noticed),
                    )
                )
                if actor != "tun":
                    rows.append(lost_row(f"SIGSTOP of {actor}", found))
            rows.append(gap_row("SIGSTOP of tun", stops["tun"], NOTICED + TUN_AGAIN))
            rows.append(Row("the interface was made again", int(_index(bed) != index), 0, "times", len(kills["tun"])))
            rows.append(Row("TCP connections inside that broke", int(not bed.load_lives), 0, "connections", 1))
        finally:
            bed.close()
    heavy = [o for actor, found in kills.items() for o in found if actor in _LIBP2P]
    light = [o for actor, found in kills.items() for o in found if actor not in _LIBP2P]
    rows.append(restart_row("with libp2p", heavy, RESTART_LIBP2P))
    rows.append(restart_row("without libp2p", light, RESTART_BASE))
    return rows + _sound(every)


def on_streams(rounds: int, chance: random.Random, say: Say) -> list[Row]:
    """kill -9 of the host and of tun where packets go by streams."""
    say("chaos: kill -9 of host and tun on the stream path")
    with Lab(2) as lab:
        bed = Bed(lab, 2, "--path=stream")
        try:
            bed.settle()
            bed.flood(1)
            time.sleep(1)
            host = hurt_often(bed, "host", "kill", rounds, chance)
            tun = hurt_often(bed, "tun", "kill", rounds, chance)
        finally:
            bed.close()
    return [
        gap_row("kill -9 of host, --path stream", host, STREAMS_AGAIN),
        gap_row("kill -9 of tun, --path stream", tun, STREAMS_AGAIN),
    ]


def root_killed(rounds: int, _chance: random.Random, say: Say) -> list[Row]:
    """SIGKILL of the supervisor, and the next start in the same run directory.

    The node keeps its identity, as a service does: with another one its address would stay the old one's until the
    lease of that ends.
    """
    say("chaos: SIGKILL of the supervisor")
    gone, again, answers = [], [], []
    with Lab(2) as lab, tempfile.TemporaryDirectory(prefix="evk-") as keys:
        bed = Bed(lab, 2, first=("--privkey-cache", f"--privkey-cache-dir={keys}"))
        try:
            bed.settle()
            for _ in range(rounds):
                vpn = bed.nodes[0]
                pids = {*(s.pid for s in bed.actors(1) if s.pid), *children_of(vpn.process.pid)}
                began = time.monotonic()
                os.kill(vpn.process.pid, signal.SIGKILL)
                vpn.process.wait(5)
                traffic.wait_for(lambda pids=pids: not any(map(is_running, pids)), 10, 0.005, "the end of all of it")
                gone.append(time.monotonic() - began)
                began = time.monotonic()
                vpn.start_again()
                vpn.wait_for_state("up", 30)
                again.append(time.monotonic() - began)
                traffic.first_answer(lab.node(2), "10.1.0.1", INTERFACE, 30)
                answers.append(time.monotonic() - began)
        finally:
            bed.close()
    up = f"up again after {max(again):.1f} s at most, pings answered after {max(answers):.1f} s"
    return [Row("root killed with SIGKILL, all of it gone", _ms(max(gone)), _ms(NOTICED), "ms", rounds, up)]


def _index(bed: Bed) -> str:
    return bed.lab.node(1).run(["cat", f"/sys/class/net/{INTERFACE}/ifindex"]).stdout
