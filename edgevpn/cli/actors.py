"""`edgevpn actors`: the node's processes, what they cost and what waits in them, once or live; and restarting one.

The supervisor tells of all of them, each actor of its own queues and messages; one that does not answer soon is shown
without those. Live (--watch), the table is drawn over itself in the terminal's second screen, so the first one is as it
was afterwards; elsewhere, and as JSON, one follows the other. A node that goes away is waited for.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import trio

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError, NodeUnreachableError, UsageError
from edgevpn.proto.messages import Actors, ActorsRequest, ActorStatus, Done, RestartActor, Vitals, VitalsRequest

PERIOD = 1.0  # seconds between two looks
PATIENCE = 0.7  # seconds that an actor has to tell of itself
_SECOND_SCREEN, _FIRST_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # and the cursor hidden, shown
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_COLOURS = {"ready": "32", "starting": "33", "stopping": "33", "backing-off": "33", "failed": "31"}

Row = Mapping[str, Any]


@click.command(epilog="Examples: edgevpn actors; edgevpn actors --watch; edgevpn actors restart ledger")
@click.argument("action", required=False, type=click.Choice(["restart"]))
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Show it again every second, until Ctrl-C; JSON: a list a line.")
@node_options
def actors(action: str | None, name: str | None, watch: bool, run_dir: Path, as_json: bool) -> None:
    """Show the node's processes, or restart one of them.

    FULL%: how full the fullest of its queues is. DROPS: what its queues lost. MSG/S: what it answered and told others
    a second, of late. MEMORY: its part of what the node takes (PSS).
    """
    node = Node(run_dir)
    if action == "restart":
        if not name:
            raise UsageError("`edgevpn actors restart` needs the name of an actor: `edgevpn actors` lists them")
        if watch:
            raise UsageError("--watch does not go with `edgevpn actors restart`")
        ask_node(functools.partial(node.ask, timeout=20.0), "supervisor", RestartActor(name), Done)
        if not as_json:
            click.echo(f"{name} is ready again")
            return
    rows = ask_node(collect, node)
    if watch:
        follow(node, rows, as_json)
    elif as_json:
        click.echo(output.as_json(rows), nl=False)
    else:
        click.echo(_for_stdout(rows), nl=False)


async def collect(node: Node) -> list[dict[str, Any]]:
    """A row for each process. Raises NodeUnreachableError when the supervisor does not answer."""
    found: Actors = await node.ask("supervisor", ActorsRequest(), Actors)
    vitals: dict[str, Vitals] = {}

    async def ask(name: str) -> None:
        try:
            vitals[name] = await node.ask(name, VitalsRequest(), Vitals, timeout=PATIENCE)
        except EdgevpnError:
            return  # it has just ended, or is stuck: its state tells

    async with trio.open_nursery() as nursery:
        for status in found.actors:
            if status.state == "ready" and status.name != "template":
                nursery.start_soon(ask, status.name)
    return [row(status, vitals.get(status.name)) for status in found.actors]


def row(status: ActorStatus, vitals: Vitals | None) -> dict[str, Any]:
    """What --json prints of a process; what it did not tell is null."""
    queues = vitals.queues if vitals else []
    return {
        "name": status.name,
        "pid": status.pid,
        "state": status.state,
        "restarts": status.restarts,
        "uptime_s": round(status.uptime_s, 3),
        "last_exit": status.last_exit,
        "exits": [{"at": one.at, "reason": one.reason} for one in status.exits],
        "lacks": status.lacks or None,
        "rss_bytes": status.rss_bytes,
        "pss_bytes": status.pss_bytes,
        "requests": vitals.requests if vitals else None,
        "updates": vitals.updates if vitals else None,
        "pipes": vitals.pipes if vitals else None,
        "messages_per_s": vitals.messages_per_s if vitals else None,
        "dropped": sum(q.dropped for q in queues) if vitals else None,
        "queues": [
            {"name": q.name, "depth": q.depth, "limit": q.limit, "dropped": q.dropped, "unit": q.unit} for q in queues
        ],
    }


# --- for people ---------------------------------------------------------------------------------------------------


def view(rows: Sequence[Row]) -> str:
    """A table, and below it what does not go into one: why actors ended, and queues that hold or lost something."""
    heads = ("name", "pid", "state", "restarts", "uptime", "memory", "full%", "drops", "msg/s")
    parts = [output.table(heads, [_cells(row) for row in rows])]
    ended = [(row["name"], row["last_exit"]) for row in rows if row["last_exit"]]
    if ended:
        parts.append("\nlast exit\n" + _indented(output.facts(ended)))
    queues = [(row["name"], _queue_line(q)) for row in rows for q in row["queues"] if q["depth"] or q["dropped"]]
    if queues:
        parts.append("\nqueues\n" + _indented(output.facts(queues)))
    return "".join(parts)


def _cells(row: Row) -> tuple[object, ...]:
    told = row["dropped"] is not None
    return (
        row["name"],
        row["pid"] or "-",
        f"held, lacks {row['lacks']}" if row["lacks"] else row["state"],
        row["restarts"],
        output.age(row["uptime_s"]),
        output.size(row["pss_bytes"] or row["rss_bytes"]) if row["pid"] else "-",
        fullness(row["queues"]) if told else "-",
        row["dropped"] if told else "-",
        round(row["messages_per_s"], 1) if told else "-",
    )


def fullness(queues: Sequence[Mapping[str, Any]]) -> int:
    """Per cent of the fullest queue, rounded up: 0 is empty."""
    return max((math.ceil(100 * q["depth"] / q["limit"]) for q in queues if q["limit"]), default=0)


def _queue_line(queue: Mapping[str, Any]) -> str:
    if queue["unit"] == "bytes":
        held = f"{output.size(queue['depth'])} of {output.size(queue['limit'])}"
    else:
        held = f"{queue['depth']} of {queue['limit']}"
    return f"{queue['name']}: {held}" + (f", {queue['dropped']} dropped" if queue["dropped"] else "")


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


def _for_stdout(rows: Sequence[Row]) -> str:
    text = view(rows)
    if not sys.stdout.isatty():
        return text
    return coloured(output.fit(text, output.columns()), rows)


def coloured(text: str, rows: Sequence[Row]) -> str:
    """The table with its states in colour, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return text
    lines = text.split("\n")
    for number, row in enumerate(rows, 1):  # below the headings
        if number < len(lines):
            state = row["state"]
            lines[number] = lines[number].replace(f" {state}", f" \x1b[{_COLOURS.get(state, '0')}m{state}\x1b[0m", 1)
    return "\n".join(lines)


# --- live ---------------------------------------------------------------------------------------------------------


def follow(node: Node, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Show `rows`, and new ones every PERIOD, until Ctrl-C."""
    on_screen = not as_json and sys.stdout.isatty()
    away = ""
    try:
        with _second_screen() if on_screen else _as_it_is():
            due = time.monotonic()
            while True:
                _show(rows, away, as_json=as_json, on_screen=on_screen)
                due = max(due + PERIOD, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
                was_away = away
                try:
                    rows, away = ask_node(collect, node), ""
                except NodeUnreachableError as exc:
                    rows, away = [], f"{exc}; waiting for it"
                if bool(away) != bool(was_away) and not on_screen:
                    click.echo(f"edgevpn: {away or 'the node is there again'}", err=True)
    except KeyboardInterrupt:
        return


def _show(rows: list[dict[str, Any]], away: str, *, as_json: bool, on_screen: bool) -> None:
    if as_json:
        text = json.dumps(rows, separators=(",", ":")) + "\n"
    elif on_screen:
        size = os.get_terminal_size(sys.stdout.fileno())
        head = f"{time.strftime('%H:%M:%S')}  {away or 'Ctrl-C ends'}\n\n"
        text = coloured(output.fit(view(rows), size.columns, max(1, size.lines - 3)), rows) if rows else ""
        whole = output.fit(head, size.columns) + text
        text = _HOME + whole.replace("\n", f"{_REST_OF_LINE}\n") + _REST_OF_SCREEN
    elif rows:
        text = view(rows) + "\n"
    else:
        return
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _second_screen() -> Iterator[None]:
    sys.stdout.write(_SECOND_SCREEN)
    try:
        yield
    finally:
        sys.stdout.write(_FIRST_SCREEN)
        sys.stdout.flush()


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
