"""What a node costs while nothing happens: memory and processor time of each of its processes.

Memory is the kernel's account in /proc/PID/smaps_rollup (proc_pid_smaps(5)): PSS divides a page by the number of
processes that map it, so the sums are what the node takes of the machine, and what one that ends would give back is
its private part. Processor time is utime + stime of /proc/PID/stat (proc_pid_stat(5)), in ticks of 10 ms; the whole
node's is therefore known better than one actor's. Wake-ups are voluntary context switches of all threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token

SETTLE = 20.0  # seconds after the node is up: Trickle has slowed down, the first announcements are over
SPAN = 30.0  # seconds that are measured
_KIB = 1024
_MEMORY = {
    "Rss": "rss",
    "Pss": "pss",
    "Private_Clean": "private",
    "Private_Dirty": "private",
    "Shared_Clean": "shared",
    "Shared_Dirty": "shared",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """One process, or all of a node's: memory in bytes, the rest per second of the time that was measured."""

    name: str
    pid: int
    pss_bytes: int
    private_bytes: int
    shared_bytes: int
    rss_bytes: int
    cpu_percent: float
    wakeups_per_s: float


def parse_rollup(text: str) -> dict[str, int]:
    """Bytes by "rss", "pss", "private" and "shared" of the text of a smaps_rollup."""
    found = dict.fromkeys(_MEMORY.values(), 0)
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in _MEMORY:
            found[_MEMORY[name]] += int(rest.split()[0]) * _KIB
    return found


def parse_ticks(stat: str) -> int:
    """utime + stime of the text of a /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def parse_switches(status: str) -> int:
    """Voluntary context switches of the text of a /proc/PID/task/TID/status."""
    for line in status.splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    return 0


def total(costs: Iterable[Cost]) -> Cost:
    """The whole node. Its shared memory is what its processes share, each page counted once: PSS less private."""
    costs = list(costs)
    pss, private = sum(c.pss_bytes for c in costs), sum(c.private_bytes for c in costs)
    return Cost(
        "node",
        0,
        pss,
        private,
        pss - private,
        sum(c.rss_bytes for c in costs),
        round(sum(c.cpu_percent for c in costs), 2),
        round(sum(c.wakeups_per_s for c in costs), 1),
    )


def table(costs: Sequence[Cost]) -> str:
    """Rows for people."""
    lines = [f"{'':12}{'PSS MB':>9}{'private':>9}{'shared':>9}{'RSS':>9}{'CPU %':>8}{'wake/s':>8}"]
    for cost in costs:
        sizes = (cost.pss_bytes, cost.private_bytes, cost.shared_bytes, cost.rss_bytes)
        megabytes = "".join(f"{size / 1e6:9.1f}" for size in sizes)
        lines.append(f"{cost.name:12}{megabytes}{cost.cpu_percent:8.2f}{cost.wakeups_per_s:8.1f}")
    return "\n".join(lines)


def _spent(pids: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Ticks and wake-ups of each process until now."""
    found = {}
    for name, pid in pids.items():
        tasks = Path(f"/proc/{pid}/task").iterdir()
        wakeups = sum(parse_switches((task / "status").read_text()) for task in tasks)
        found[name] = parse_ticks(Path(f"/proc/{pid}/stat").read_text()), wakeups
    return found


def observe(pids: Mapping[str, int], span: float) -> list[Cost]:
    """Watch processes for `span` seconds; the node's sum comes last."""
    began, before = time.monotonic(), _spent(pids)
    time.sleep(span)
    took, after = time.monotonic() - began, _spent(pids)
    costs = []
    for name, pid in pids.items():
        memory = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        seconds = (after[name][0] - before[name][0]) / os.sysconf("SC_CLK_TCK")
        costs.append(
            Cost(
                name,
                pid,
                memory["pss"],
                memory["private"],
                memory["shared"],
                memory["rss"],
                round(100 * seconds / took, 2),
                round((after[name][1] - before[name][1]) / took, 1),
            )
        )
    return [*costs, total(costs)]


def measure_idle(_tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """The first of two nodes that have found each other, all default actors, no traffic."""
    with Lab(2) as lab:
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24") for k in (1, 2)]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        say(f"idle: settling for {SETTLE:g} s, then measuring for {SPAN:g} s")
        time.sleep(SETTLE)
        pids = {actor["name"]: actor["pid"] for actor in nodes[0].json("actors") if actor["pid"]}
        costs = observe(pids, SPAN)
        for vpn in nodes:
            vpn.close()
    say(table(costs))
    return {"span_s": SPAN, "processes": [asdict(cost) for cost in costs[:-1]], "node": asdict(costs[-1])}
