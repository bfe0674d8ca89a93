"""`edgevpn top`: nodes, paths, rates and actors of a running node, live in the terminal.

A sample is taken every second: host, gossip, ledger and tun are asked for the peers, the supervisor for the actors, and
rates are what the counters grew by. An actor that is away leaves its part empty; a node that is away is waited for.
With --json one sample is printed, whose rates are of half a second.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError, NodeUnreachableError
from edgevpn.proto.messages import (
    Actors,
    ActorsRequest,
    ActorStatus,
    NodeStatus,
    Paths,
    PathsRequest,
    PathState,
    PeerState,
    Route,
    StatusRequest,
    Traffic,
    TrafficRequest,
)
from edgevpn.proto.peer_rows import peer_rows

PERIOD = 1.0  # seconds between two samples
ONE_SAMPLE = 0.5  # seconds that the rates of --json are of
HISTORY = 60  # samples in a trace
TRACE_WIDTH = 20
_PATIENCE = 2.0  # seconds for each actor
_BARS = " ▁▂▃▄▅▆▇█"
_KINDS = {
    "datagram": ("direct, UDP", "green"),
    "stream": ("TCP stream", "yellow"),
    "relayed": ("relayed, TCP", "yellow"),
    "edgevpn-stream": ("Go stream", "blue"),
    "none": ("no packets yet", "dim"),
}
_STATES = {"ready": "green", "up": "green", "joining": "yellow", "starting": "yellow", "backing-off": "yellow"}


@dataclass
class Look:
    """What one round of questions found, as it came; `at`: a monotonic time in seconds."""

    at: float = 0.0
    status: NodeStatus | None = None
    actors: list[ActorStatus] = field(default_factory=list)
    peers: dict[str, PeerState] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    routes: dict[str, Route] = field(default_factory=dict)
    paths: dict[str, PathState] = field(default_factory=dict)
    traffic: Traffic | None = None


@click.command(epilog="Examples: edgevpn top; edgevpn top --json | jq .peers")
@node_options
def top(run_dir: Path, as_json: bool) -> None:
    """Show nodes, paths, rates and actors, live; q or Ctrl-C ends. With --json: one sample."""
    node = Node(run_dir)
    if as_json or not sys.stdout.isatty():
        first = ask_node(look, node)
        time.sleep(ONE_SAMPLE)
        found = sample(first, ask_node(look, node), time.time())
        click.echo(output.as_json(found) if as_json else _as_text(found), nl=False)
        return
    follow(node, ask_node(look, node))


async def look(node: Node) -> Look:
    """Ask all at once. Raises NodeUnreachableError when the supervisor does not answer."""
    found = Look()
    found.status = await node.ask("supervisor", StatusRequest(), NodeStatus, timeout=_PATIENCE)

    async def actors() -> None:
        found.actors = (await node.ask("supervisor", ActorsRequest(), Actors, timeout=_PATIENCE)).actors

    async def peers() -> None:
        states = await node.state("host", "peers")
        found.peers = {peer: state for peer, state in states.items() if isinstance(state, PeerState)}

    async def members() -> None:
        found.members = set(await node.state("gossip", "members"))

    async def routes() -> None:
        states = await node.state("ledger", "routes")
        found.routes = {address: route for address, route in states.items() if isinstance(route, Route)}

    async def paths() -> None:
        answer = await node.ask("tun", PathsRequest(), Paths, timeout=_PATIENCE)
        found.paths = {path.peer_id: path for path in answer.paths}

    async def traffic() -> None:
        found.traffic = await node.ask("host", TrafficRequest(), Traffic, timeout=_PATIENCE)

    async def try_(ask: Callable[[], Any]) -> None:
        with suppress(EdgevpnError), trio.move_on_after(_PATIENCE):  # it has just ended: the actors' table tells
            await ask()

    async with trio.open_nursery() as nursery:
        for ask in (actors, peers, members, routes, paths, traffic):
            nursery.start_soon(try_, ask)
    found.at = time.monotonic()
    return found


def sample(before: Look, now: Look, clock: float) -> dict[str, Any]:
    """What --json prints. Rates are bytes a second between the two looks."""
    seconds = now.at - before.at
    rows = peer_rows(now.peers, now.members, now.routes, now.paths)
    for row in rows:
        path, earlier = now.paths.get(row["peer_id"]), before.paths.get(row["peer_id"])
        rtt = path.rtt_s if path and path.rtt_s else now.peers[row["peer_id"]].rtt_s
        row["rtt_ms"] = round(rtt * 1000, 3) if rtt else None
        row["received_per_s"] = rate(earlier.received_bytes, path.received_bytes, seconds) if path and earlier else 0
        row["sent_per_s"] = rate(earlier.sent_bytes, path.sent_bytes, seconds) if path and earlier else 0
        row["dropped"] = path.dropped if path else 0
        row["connected_s"] = round(max(0.0, clock - row.pop("since")), 1)
    control = (before.traffic.total, now.traffic.total) if before.traffic and now.traffic else ([0, 0], [0, 0])
    status = now.status
    return {
        "node": {
            "peer_id": status.peer_id if status else "",
            "state": status.state if status else "unknown",
            "address": status.address if status else [],
            "uptime_s": round(status.uptime_s, 1) if status else 0.0,
            "waiting_for": status.waiting_for if status else "",
        },
        "packets": {
            "received_per_s": sum(row["received_per_s"] for row in rows),
            "sent_per_s": sum(row["sent_per_s"] for row in rows),
        },
        "streams": {
            "received_per_s": rate(control[0][0], control[1][0], seconds),
            "sent_per_s": rate(control[0][1], control[1][1], seconds),
        },
        "machines": len(now.routes),
        "peers": rows,
        "actors": [
            {
                "name": one.name,
                "pid": one.pid,
                "state": one.state,
                "restarts": one.restarts,
                "uptime_s": round(one.uptime_s, 1),
                "memory_bytes": one.pss_bytes or one.rss_bytes,
                "last_exit": one.last_exit,
            }
            for one in now.actors
        ],
    }


def rate(before: int, now: int, seconds: float) -> int:
    """Bytes a second; 0 where the counter began anew."""
    return max(0, round((now - before) / seconds)) if seconds > 0 else 0


# --- for people ---------------------------------------------------------------------------------------------------


def bits(bytes_per_second: float) -> str:
    """A rate: "0 bit/s", "12 kbit/s", "1.2 Mbit/s"."""
    value = bytes_per_second * 8
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if value < 1000 or unit == "Gbit/s":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "bit/s" and value < 10 else f"{value:.0f} {unit}"


def trace(values: Sequence[float], width: int = TRACE_WIDTH) -> str:
    """The newest values as bars, the highest of them full."""
    shown = list(values)[-width:]
    highest = max(shown, default=0)
    if not highest:
        return ("▁" * len(shown)).rjust(width)
    return "".join(_BARS[max(1, round(value / highest * 8))] for value in shown).rjust(width)


def draw(found: Mapping[str, Any], received: Sequence[float], sent: Sequence[float], away: str = "") -> Any:
    """The whole picture, for rich."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    def words(*parts: tuple[str, str]) -> Text:
        line = Text(overflow="ellipsis", no_wrap=True)
        for text, style in parts:
            line.append(output.clean(text), style)
        return line

    node = found["node"]
    state = node["state"]
    head = words(
        ("edgevpn ", "bold"),
        (f"{state}  ", _STATES.get(state, "red")),
        (f"{', '.join(node['address']) or 'no interface'}  ", ""),
        (f"up {output.age(node['uptime_s'])}  {found['machines']} machines  ", "dim"),
        (away or "q ends", "red" if away else "dim"),
    )
    packets = found["packets"]
    rates = words(
        ("down ", "dim"),
        (f"{bits(packets['received_per_s']):>11} ", "cyan"),
        (f"{trace(received)}   ", "cyan"),
        ("up ", "dim"),
        (f"{bits(packets['sent_per_s']):>11} ", "magenta"),
        (trace(sent), "magenta"),
    )
    peers = Table(expand=True, box=None, pad_edge=False, header_style="dim")
    for name, right, ratio in (("NODE", False, 3), ("ADDRESS", False, 3), ("PATH", False, 2), ("RTT", True, 1)):
        peers.add_column(name, justify="right" if right else "left", no_wrap=True, ratio=ratio, overflow="ellipsis")
    for name in ("DOWN", "UP", "DROPS", "SINCE"):
        peers.add_column(name, justify="right", no_wrap=True)
    for row in found["peers"]:
        kind, style = _KINDS.get(row["path"], (row["path"], ""))
        if not row["member"]:
            kind, style = "not of this network", "dim"
        peers.add_row(
            escape(output.clean(row["hostname"] or f"...{row['peer_id'][-8:]}")),
            escape(output.clean(", ".join(row["addresses"]) or "-")),
            Text(kind, style),
            f"{row['rtt_ms']:.1f} ms" if row["rtt_ms"] is not None else "-",
            bits(row["received_per_s"]),
            bits(row["sent_per_s"]),
            str(row["dropped"]),
            output.age(row["connected_s"]),
        )
    if not found["peers"]:
        peers.add_row(Text("nobody is connected yet", "dim"))
    actors = Table(expand=True, box=None, pad_edge=False, header_style="dim")
    for name, right in (("ACTOR", False), ("STATE", False), ("PID", True), ("RESTARTS", True), ("UP FOR", True)):
        actors.add_column(name, justify="right" if right else "left", no_wrap=True)
    actors.add_column("MEMORY", justify="right", no_wrap=True)
    actors.add_column("LAST EXIT", no_wrap=True, ratio=1, overflow="ellipsis")
    for one in found["actors"]:
        actors.add_row(
            one["name"],
            Text(one["state"], _STATES.get(one["state"], "red")),
            str(one["pid"] or "-"),
            str(one["restarts"]),
            output.age(one["uptime_s"]),
            output.size(one["memory_bytes"]) if one["memory_bytes"] else "-",
            escape(output.clean(one["last_exit"])),
        )
    waiting = [words((f"waiting for {node['waiting_for']}", "yellow"))] if node["waiting_for"] else []
    return Group(head, rates, *waiting, Text(""), peers, Text(""), actors)


def _as_text(found: Mapping[str, Any]) -> str:
    """One sample where there is no terminal."""
    from rich.console import Console

    console = Console(width=max(output.columns(), 100), color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(draw(found, [], []))
    return captured.get()


def follow(node: Node, first: Look) -> None:
    """Draw a sample a second in the terminal's second screen, until q or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    received: deque[float] = deque(maxlen=HISTORY)
    sent: deque[float] = deque(maxlen=HISTORY)
    before, away = first, ""
    found = sample(first, first, time.time())
    console = Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    with suppress(KeyboardInterrupt), _keys() as ended, Live(console=console, screen=True, auto_refresh=False) as live:
        due = time.monotonic()
        while True:
            live.update(draw(found, received, sent, away), refresh=True)
            due = max(due + PERIOD, time.monotonic() + 0.05)
            if ended(due - time.monotonic()):
                return
            try:
                now = ask_node(look, node)
            except NodeUnreachableError:
                before, away = Look(), "the node is away: it is waited for"
                continue
            found, before, away = sample(before, now, time.time()), now, ""
            received.append(found["packets"]["received_per_s"])
            sent.append(found["packets"]["sent_per_s"])


def _wait(seconds: float) -> bool:
    time.sleep(max(0.0, seconds))
    return False


@contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits up to so many seconds, and says whether q was pressed. The terminal is as before after."""
    if not sys.stdin.isatty():
        yield _wait
        return
    descriptor = sys.stdin.fileno()
    kept = termios.tcgetattr(descriptor)

    def ended(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([descriptor], [], [], left)[0]:
                pressed = os.read(descriptor, 64)
                if b"q" in pressed or b"Q" in pressed or not pressed:
                    return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield ended
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
