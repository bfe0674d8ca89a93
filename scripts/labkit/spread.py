"""How fast a change on one node is known by all, around changes of windows too, and what an idle network costs.

A node announces one machine after the other, in turns with the others; every node's routes are watched. A second whose
changes are told apart is one within 3 s of a rotation. What the network costs is read from the kernel's counters of
each node's interface, and by protocol from the nodes (`edgevpn peers --traffic`).
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from edgevpn.actors.client import Client, apply
from edgevpn.proto.messages import Announce, Body, Done
from edgevpn.proto.values import MACHINES, Machine, write_value
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

INTERVAL = 30  # s
NEAR = 3.0  # s around a rotation
LOST = 5.0  # s after which a change counts as lost
_numbers = itertools.count()  # of changes: each announces what nobody has yet


def short_token(interval: int = INTERVAL) -> str:
    """A fresh network whose windows are short."""
    words = [EDGEVPN, "-g", "-b", f"--key-otp-interval={interval}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise LabError(f"edgevpn -g -b ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def up(lab: Lab, count: int, token: str, *flags: str) -> list[Vpn]:
    """`count` nodes that all know each other."""
    nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", *flags) for k in range(1, count + 1)]
    try:
        wait_for(lambda: all(_knows(vpn, count) for vpn in nodes), 60, interval=0.5, what="one network")
    except BaseException:
        for vpn in nodes:
            vpn.close()
        raise
    return nodes


def _knows(vpn: Vpn, count: int) -> bool:
    status = vpn.status()
    return status is not None and len(status["peers"]) == count - 1 and len(vpn.json("ledger", "machines")) == count


async def _write_and_watch(
    run_dirs: Sequence[Path],
    peers: Sequence[str],
    seconds: float,
    pause: float,
    going: Callable[[], bool],
    dense: float,
) -> list[Any]:
    """(unix time, seconds until all others knew it) of each change; None: lost."""
    tables: list[dict[str, Body]] = [{} for _ in run_dirs]
    changed = trio.Event()
    found: list[tuple[float, float | None]] = []

    async def follow(number: int) -> None:
        nonlocal changed
        async with Client(run_dirs[number], "ledger", caller="command").watch("routes") as updates:
            async for update in updates:
                apply(tables[number], update)
                changed.set()
                changed = trio.Event()

    async with trio.open_nursery() as nursery:
        for number in range(len(run_dirs)):
            nursery.start_soon(follow, number)
        await trio.sleep(0.5)
        end = trio.current_time() + seconds
        turn = 0
        while trio.current_time() < end and going():
            writer = turn % len(run_dirs)
            number = next(_numbers)
            address = f"10.77.{number >> 8}.{number & 255}"
            value = write_value(Machine(peers[writer], "spread", "linux", "amd64", address, "0"))
            wall, began = time.time(), trio.current_time()
            await Client(run_dirs[writer], "ledger", caller="command").call(Announce(MACHINES, address, value), Done)
            with trio.move_on_after(LOST):
                while not all(address in table for table in tables):
                    await changed.wait()
            took = trio.current_time() - began
            found.append((wall, took if all(address in table for table in tables) else None))
            turn += 1
            await trio.sleep(min(pause, dense) if near_rotation(time.time()) else pause)
        nursery.cancel_scope.cancel()
    return found


def changes(
    nodes: Sequence[Vpn],
    seconds: float,
    pause: float = 0.25,
    going: Callable[[], bool] = lambda: True,
    dense: float = math.inf,
) -> list[tuple[float, float | None]]:
    """Write for so long, and while `going()`: (unix time, seconds until known by all, or None) of each change.

    `pause`: seconds between two of them; around rotations at most `dense`.
    """
    peers = [vpn.json("status")["peer_id"] for vpn in nodes]
    return trio.run(_write_and_watch, [vpn.run_dir for vpn in nodes], peers, seconds, pause, going, dense)


def near_rotation(wall: float, interval: float = INTERVAL) -> bool:
    return min(wall % interval, interval - wall % interval) < NEAR


def milliseconds(values: Sequence[float]) -> dict[str, Any]:
    """n, min, median, p99 and max."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "n": len(ordered),
        "min_ms": round(ordered[0] * 1000, 1),
        "median_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(p99 * 1000, 1),
        "max_ms": round(ordered[-1] * 1000, 1),
    }


def interface_bytes(vpn: Vpn) -> tuple[int, int]:
    """Bytes that eth0 sent and received."""
    base = "/sys/class/net/eth0/statistics"
    done = vpn.node.run(["cat", f"{base}/tx_bytes", f"{base}/rx_bytes"])
    sent, received = map(int, done.stdout.split())
    return sent, received


def measure_quiet(_tries: int, say: Callable[[str], None], *, count: int = 10, idle: float = 300.0) -> dict[str, Any]:
    """Ten nodes that do nothing for five minutes: all that goes over their wires, and what each protocol has of it.

    The network's windows have the usual length; nodes have been up for two minutes when it begins.
    """
    with Lab(count) as lab:
        nodes = up(lab, count, new_token())
        try:
            say(f"quiet: {count} nodes are up, settling for 120 s, then idle for {idle:g} s")
            time.sleep(120)
            before = [interface_bytes(vpn) for vpn in nodes], [_protocols(vpn) for vpn in nodes], _mdns(nodes)
            began = time.monotonic()
            time.sleep(idle)
            took = time.monotonic() - began
            after = [interface_bytes(vpn) for vpn in nodes], [_protocols(vpn) for vpn in nodes], _mdns(nodes)
        finally:
            for vpn in nodes:
                vpn.close()
    wire = [
        [(now[way] - then[way]) * 8 / 1000 / took for now, then in zip(after[0], before[0], strict=True)]
        for way in (0, 1)
    ]
    result = {
        "nodes": count,
        "seconds": round(took),
        "sent_kbit_s": {"mean": round(statistics.mean(wire[0]), 2), "max": round(max(wire[0]), 2)},
        "received_kbit_s": {"mean": round(statistics.mean(wire[1]), 2), "max": round(max(wire[1]), 2)},
        "sent_kbit_s_by_protocol": _rates(before[1], after[1], took),
        "mdns_datagrams_of_all": after[2][0] - before[2][0],
        "mdns_sent_kbit_s": round((after[2][1] - before[2][1]) * 8 / 1000 / took / count, 3),
    }
    say(f"quiet: a node sent {result['sent_kbit_s']} and received {result['received_kbit_s']} kbit/s")
    return result


def measure_spread(tries: int, say: Callable[[str], None], *, count: int = 10) -> dict[str, Any]:
    """Ten nodes with windows of 30 s: changes for `tries` times 6 s (20: four rotations)."""
    with Lab(count) as lab:
        nodes = up(lab, count, short_token())
        try:
            say(f"spread: {count} nodes are up, settling for 30 s, then changes for {tries * 6} s")
            time.sleep(30)
            found = changes(nodes, tries * 6.0, dense=0.06)
        finally:
            for vpn in nodes:
                vpn.close()
    known = [(wall, took) for wall, took in found if took is not None]
    result = {
        "nodes": count,
        "all": milliseconds([took for _, took in known]),
        "near_rotations": milliseconds([took for wall, took in known if near_rotation(wall)]),
        "lost": len(found) - len(known),
        "over_150_ms": [
            {"after_rotation_s": round((wall + INTERVAL / 2) % INTERVAL - INTERVAL / 2, 2), "ms": round(took * 1000)}
            for wall, took in known
            if took > 0.15
        ],
    }
    say(f"spread: {result['all']}, near rotations {result['near_rotations']}, lost {result['lost']}")
    return result


def _mdns(nodes: Sequence[Vpn]) -> tuple[int, int]:
    """Datagrams and bytes of mDNS that all nodes sent so far."""
    asked = "[actor.gauges[name]() for name in ('mdns_datagrams_sent', 'mdns_bytes_sent')]"
    found = [json.loads(vpn.ask("repl", "discovery", "-c", asked).stdout) for vpn in nodes]
    return sum(datagrams for datagrams, _ in found), sum(size for _, size in found)


def _protocols(vpn: Vpn) -> dict[str, tuple[int, int]]:
    rows = vpn.json("peers", "--traffic")["protocols"]
    return {row["protocol"]: (row["sent_bytes"], row["received_bytes"]) for row in rows}


def _rates(
    before: Sequence[dict[str, tuple[int, int]]], after: Sequence[dict[str, tuple[int, int]]], took: float
) -> dict[str, float]:
    """kbit/s sent by a node, mean, by protocol."""
    names = sorted({name for one in after for name in one})
    nothing = (0, 0)
    return {
        name: round(
            sum(now.get(name, nothing)[0] - then.get(name, nothing)[0] for now, then in zip(after, before, strict=True))
            * 8
            / 1000
            / took
            / len(after),
            3,
        )
        for name in names
    }
