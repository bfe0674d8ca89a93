"""What a node costs while nothing happens: memory and processor time of each of its processes.

Memory is the kernel's account in /proc/PID/smaps_rollup (proc_pid_smaps(5)): PSS divides a page by the number of
processes that map it, so the sums are what the node takes of the machine. What a PSS consists of is told by the page
tables (/proc/PID/pagemap, proc_pid_pagemap(5)), read beside the template's: a page that both have at one address was in
the template before the fork. Either it is still the same page, or one of the two has written to it since.

Processor time is utime + stime of /proc/PID/stat (proc_pid_stat(5)), in ticks of 10 ms; the whole node's is therefore
known better than one actor's. Wake-ups are voluntary context switches of all threads.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token

SETTLE = 20.0  # seconds after the node is up: Trickle has slowed down, the first announcements are over
SPAN = 30.0  # seconds that are measured
_KIB = 1024
_MEMORY = {"Rss": "rss", "Pss": "pss"}


_PAGE = 4096
_PRESENT, _OF_A_FILE, _FRAME = 1 << 63, 1 << 61, (1 << 55) - 1  # bits of an entry of a pagemap


@dataclass(frozen=True, slots=True)
class Cost:
    """One process, or all of a node's: memory in bytes, the rest per second of the time that was measured.

    PSS is the sum of four: `files_bytes`, its part of programs and libraries, which other nodes may use too;
    `template_bytes`, its part of the template's memory; `copied_bytes`, pages of the template that it has written to
    since the fork; `own_bytes`, all that is new in it.
    """

    name: str
    pid: int
    pss_bytes: int
    files_bytes: int
    template_bytes: int
    copied_bytes: int
    own_bytes: int
    rss_bytes: int
    cpu_percent: float
    wakeups_per_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a process has in memory: its frame in the machine, and whether a file is behind it."""

    frame: int
    of_a_file: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process's PSS consists of besides files, in bytes (see Cost)."""

    template: int
    copied: int
    own: int


def read_pages(pid: int) -> dict[int, Page]:
    """By address. Raises LabError where the kernel does not tell frames: it tells root alone."""
    found: dict[int, Page] = {}
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for line in maps:
            begin, _, end = line.split(maxsplit=1)[0].partition("-")
            first, last = int(begin, 16), int(end, 16)
            if first >= 1 << 63 or "[vv" in line or "[vdso]" in line:
                continue  # the kernel's own
            pagemap.seek(first // _PAGE * 8)
            for number, (entry,) in enumerate(struct.iter_unpack("=Q", pagemap.read((last - first) // _PAGE * 8))):
                if entry & _PRESENT:
                    found[first + number * _PAGE] = Page(entry & _FRAME, bool(entry & _OF_A_FILE))
    if found and not any(page.frame for page in found.values()):
        raise LabError("the kernel does not tell which pages are shared: run this as root")
    return found


def take_apart(pages: Mapping[str, Mapping[int, Page]], template: str = "template") -> dict[str, Parts]:
    """What the PSS of each process consists of, given the pages of all of a node's, by name."""
    mapped = Counter(page.frame for held in pages.values() for page in held.values() if not page.of_a_file)
    before = pages.get(template, {})
    parts = {}
    for name, held in pages.items():
        sums = dict.fromkeys(("template", "copied", "own"), 0.0)
        for address, page in held.items():
            origin = before.get(address)
            if page.of_a_file:
                continue  # PSS knows who else has it, in the whole machine; we don't
            if mapped[page.frame] > 1:
                kind = "template"
            elif origin is not None and not origin.of_a_file and name != template:
                kind = "copied"
            else:
                kind = "own"
            sums[kind] += _PAGE / mapped[page.frame]
        parts[name] = Parts(**{kind: round(size) for kind, size in sums.items()})
    return parts


def parse_rollup(text: str) -> dict[str, int]:
    """Bytes by "rss" and "pss" of the text of a smaps_rollup."""
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
    """The whole node: each page counted once."""
    costs = list(costs)
    sizes = ("pss_bytes", "files_bytes", "template_bytes", "copied_bytes", "own_bytes", "rss_bytes")
    return Cost(
        "node",
        0,
        **{size: sum(getattr(cost, size) for cost in costs) for size in sizes},
        cpu_percent=round(sum(c.cpu_percent for c in costs), 2),
        wakeups_per_s=round(sum(c.wakeups_per_s for c in costs), 1),
    )


def table(costs: Sequence[Cost]) -> str:
    """Rows for people."""
    sizes = f"{'MB':12}{'PSS':>8} ={'files':>7} +{'template':>9} +{'copied':>7} +{'own':>6}{'RSS':>10}"
    lines = [f"{sizes}{'CPU %':>8}{'wake/s':>8}"]
    for cost in costs:
        pss, files, template, copied, own, rss = (
            size / 1e6
            for size in (
                cost.pss_bytes,
                cost.files_bytes,
                cost.template_bytes,
                cost.copied_bytes,
                cost.own_bytes,
                cost.rss_bytes,
            )
        )
        lines.append(
            f"{cost.name:12}{pss:8.1f}  {files:7.1f}  {template:9.1f}  {copied:7.1f}  {own:6.1f}"
            f"{rss:10.1f}{cost.cpu_percent:8.2f}{cost.wakeups_per_s:8.1f}"
        )
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
    parts = take_apart({name: read_pages(pid) for name, pid in pids.items()})
    costs = []
    for name, pid in pids.items():
        memory = parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
        part = parts[name]
        seconds = (after[name][0] - before[name][0]) / os.sysconf("SC_CLK_TCK")
        costs.append(
            Cost(
                name,
                pid,
                pss_bytes=memory["pss"],
                files_bytes=max(0, memory["pss"] - part.template - part.copied - part.own),
                template_bytes=part.template,
                copied_bytes=part.copied,
                own_bytes=part.own,
                rss_bytes=memory["rss"],
                cpu_percent=round(100 * seconds / took, 2),
                wakeups_per_s=round((after[name][1] - before[name][1]) / took, 1),
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
