"""`edgevpn logs`: the node's log, from its files in the run directory.

The files are read without asking the node, so they tell of one that hangs, or was killed, too. Lines are for people on
a terminal and in a pipe alike; --json gives them as they were written, one JSON object a line.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import click

from edgevpn.actors.log_store import LogReader
from edgevpn.cli.run_dir import SUPERVISOR_SOCKET, node_options
from edgevpn.config import parse_duration
from edgevpn.errors import NodeUnreachableError, SetupError, UsageError
from edgevpn.proto.log_lines import LEVELS, LogLine, at_least, for_people, write_line

PERIOD = 0.2  # seconds between two looks of --follow
LINES = 100  # shown where neither -n nor --since is given


@dataclass(frozen=True, slots=True)
class Wish:
    """Which lines are wanted. `since`: unix seconds."""

    actor: str | None
    level: str
    since: float

    def takes(self, line: LogLine) -> bool:
        return (
            (self.actor is None or line.actor == self.actor)
            and line.time >= self.since
            and at_least(line.level, self.level)
        )


@click.command(
    epilog="Examples: edgevpn logs -n 20; edgevpn logs ledger --since 10m; edgevpn logs --follow --level warning"
)
@click.argument("name", required=False)
@click.option(
    "-n", "--lines", type=click.IntRange(0), help=f"How many of the newest (default: {LINES}, with --since all)."
)
@click.option("-f", "--follow", is_flag=True, help="Then show what comes, until Ctrl-C.")
@click.option("--level", type=click.Choice(LEVELS[:4]), default="debug", help="Only what is at least so grave.")
@click.option("--since", default="", help="Only what is not older: 10m, 1h30m, 14:05, 2025-01-31T14:05.")
@node_options
def logs(
    name: str | None, lines: int | None, follow: bool, level: str, since: str, run_dir: Path, as_json: bool
) -> None:
    """Show the node's log, or that of one actor (`supervisor` for what is about all)."""
    now = time.time()
    wish = Wish(name, level, parse_since(since, now) if since else 0.0)
    most = lines if lines is not None else None if since else LINES
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(shown: Iterable[LogLine]) -> None:
        for line in shown:
            if as_json:
                sys.stdout.write(write_line(line).decode())
            else:
                old = time.localtime(line.time)[:3] != time.localtime()[:3]
                sys.stdout.write(for_people(line, colour=colour, date=old) + "\n")
        sys.stdout.flush()

    try:
        with LogReader(run_dir) as reader:
            alive = _is_alive(run_dir)
            there = list(reader.read())
            if not reader.found:
                raise NodeUnreachableError(_no_log(run_dir, alive))
            show(deque(filter(wish.takes, there), maxlen=most))
            if not alive:
                click.echo("edgevpn: no node runs there now; this is the log of the last one", err=True)
            elif name and not any(line.actor == name for line in there):
                others = ", ".join(sorted({line.actor for line in there}))
                click.echo(f"edgevpn: nothing from {name} in the log; there is something from {others}", err=True)
            while follow:
                time.sleep(PERIOD)
                show(filter(wish.takes, reader.read()))
    except PermissionError as exc:
        raise SetupError(f"can't read the log in {run_dir}: run this as root or as the node's user") from exc
    except KeyboardInterrupt:
        return


def parse_since(text: str, now: float) -> float:
    """Unix seconds of a duration ago, a time of day (the last such), or a date with or without a time (local, unless it
    has a zone). Raises UsageError."""
    try:
        return now - parse_duration(text)
    except UsageError:
        pass
    stripped = text.strip()
    try:
        if "-" in stripped:
            return datetime.fromisoformat(stripped).timestamp()
        today = datetime.fromtimestamp(now)
        clock = datetime.strptime(stripped, "%H:%M:%S" if stripped.count(":") == 2 else "%H:%M").time()
        moment = datetime.combine(today.date(), clock)
        return (moment if moment <= today else moment - timedelta(days=1)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text!r}: write it like 10m, 1h30m, 14:05 or 2025-01-31T14:05") from None


def _is_alive(run_dir: Path) -> bool:
    """Whether a supervisor listens there."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(os.fspath(run_dir / SUPERVISOR_SOCKET))
        except PermissionError:
            raise
        except OSError:
            return False
        return True


def _no_log(run_dir: Path, alive: bool) -> str:
    if alive:
        return f"the node in {run_dir} keeps no log: is its disk full?"
    return (
        f"no node runs in {run_dir}, and no log of one is there (a node that is stopped takes its log along): "
        "is it running, and is this the right --run-dir or --interface?"
    )
