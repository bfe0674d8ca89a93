"""How long an actor is away when it is killed: from SIGKILL to the supervisor's word that the next one is ready.

Both ends are read from one clock: we look at it before the kill, the supervisor writes it into its log (in steps of
1 ms). What lies between is the kernel's notice of the end, a random pause of up to 20 ms (actors/supervision.py), the
fork from the template, tractor's greeting, and what the actor does until it serves.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token

WITH_LIBP2P = ("host", "discovery", "gossip", "tun")
WITHOUT_LIBP2P = ("sealer", "ledger")
STEADY = 1.2  # seconds ready: a death after that counts as the first (supervision.STEADY_AFTER)
_LONGEST = 10.0
_POLL = 0.01


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """n, median, p99 (by the nearest rank) and max of times, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {"n": 0}
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    told = {"median_ms": statistics.median(ordered), "p99_ms": p99, "max_ms": ordered[-1]}
    return {"n": len(ordered), **{name: round(1000 * value, 1) for name, value in told.items()}}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows for people."""
    lines = [f"{'death to ready':20}{'n':>5}{'median':>9}{'p99':>9}{'max':>9}  ms"]
    lines += [
        f"{name:20}{row['n']:5}{row['median_ms']:9.1f}{row['p99_ms']:9.1f}{row['max_ms']:9.1f}"
        for name, row in found.items()
        if row["n"]
    ]
    return "\n".join(lines)


def ready_at(lines: str, actor: str, after: float) -> tuple[float, int] | None:
    """(Unix time, pid) of the first line of a node's log, later than `after`, that says that the actor is ready."""
    for line in lines.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # half a line: it is being written
        if told.get("actor") == actor and told.get("event") == "is ready":
            when = datetime.fromisoformat(told["time"]).timestamp()
            if when >= after:
                return when, int(told["pid"])
    return None


def _kill_once(actor: str, pid: int, log: Path) -> tuple[float, int]:
    """Seconds until the next one is ready, and its pid."""
    size = log.stat().st_size
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    while time.time() - killed < _LONGEST:
        time.sleep(_POLL)
        with log.open() as file:
            file.seek(size)
            found = ready_at(file.read(), actor, killed - 0.001)
        if found is not None:
            return max(0.0, found[0] - killed), found[1]
    raise LabError(f"the {actor} actor is not ready {_LONGEST:g} s after it was killed: {log.read_text()[-2000:]}")


def measure_restarts(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Each actor of the second of two nodes, killed `tries` times."""
    took: dict[str, list[float]] = {name: [] for name in (*WITH_LIBP2P, *WITHOUT_LIBP2P)}
    with Lab(2) as lab:
        token = new_token()
        nodes = [
            Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", *(["--log-level=debug"] if k == 2 else []))
            for k in (1, 2)
        ]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        time.sleep(2)
        log = nodes[1].run_dir / "node.log"
        pids = {one["name"]: one["pid"] for one in nodes[1].json("actors")}
        for number in range(1, tries + 1):
            for actor, times in took.items():
                seconds, pids[actor] = _kill_once(actor, pids[actor], log)
                times.append(seconds)
                time.sleep(STEADY / len(took))  # each of them is ready for at least STEADY before its turn comes again
            say(f"restarts, round {number}: " + ", ".join(f"{a} {1000 * t[-1]:.0f}" for a, t in took.items()) + " ms")
        for vpn in nodes:
            vpn.close()
    found = {name: spread(times) for name, times in took.items()}
    found["with libp2p"] = spread([s for name in WITH_LIBP2P for s in took[name]])
    found["without libp2p"] = spread([s for name in WITHOUT_LIBP2P for s in took[name]])
    say(table(found))
    return found
