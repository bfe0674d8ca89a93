"""Where a node's sockets are, so that a command finds the node it is about.

A node has a run directory of its own, named after its interface (`start` and its like, which have none, after the
command): under /run/edgevpn for root, $XDG_RUNTIME_DIR/edgevpn for others. --run-dir and EDGEVPNRUNDIR say another one.
Several nodes on one machine so have several directories, and a second node of the same name finds the first one's.

The path of a Unix socket holds at most 107 bytes (unix(7)), so the directory's must leave room for the names in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgevpn.config import check_interface_name
from edgevpn.errors import UsageError

MAX_SOCKET_PATH = 107
ROOM_FOR_SOCKET_NAME = 24  # "/supervisor.sock", and names that hold a process id
SUPERVISOR_SOCKET = "supervisor.sock"

F = TypeVar("F", bound=Callable[..., Any])


def choose(given: str, name: str, *, environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The run directory: `given` (--run-dir or its variable) made absolute, else the default one of `name`.

    `name` is an interface's, or what stands for it. Nothing is created. Raises UsageError if sockets would not fit in.
    """
    if given:
        path = Path(os.path.abspath(given))  # Path.absolute() would keep ".."
    else:
        check_interface_name(name)
        path = parent(environ=environ, uid=uid) / name
    longest = MAX_SOCKET_PATH - ROOM_FOR_SOCKET_NAME
    length = len(os.fsencode(path))
    if length > longest:
        raise UsageError(
            f"the run directory {path} is too long for Unix sockets ({length} bytes, at most {longest}): "
            f"give a shorter one with --run-dir"
        )
    return path


def parent(*, environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The directory that holds the default run directories of this user."""
    environ = os.environ if environ is None else environ
    uid = os.getuid() if uid is None else uid
    if uid == 0:
        return Path("/run/edgevpn")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "edgevpn"
    return Path(environ.get("TMPDIR") or "/tmp") / f"edgevpn-{uid}"  # noqa: S108 - its owner is checked where it is used


def names_of_nodes(*, environ: Mapping[str, str] | None = None, uid: int | None = None) -> list[str]:
    """The names of this user's nodes in default run directories (also of one that was killed, until it is cleaned)."""
    return sorted(path.parent.name for path in parent(environ=environ, uid=uid).glob(f"*/{SUPERVISOR_SOCKET}"))


def node_options(function: F) -> F:
    """Give a click command --run-dir and --interface, as its argument `run_dir: Path`, and --json as `as_json: bool`.

    Put it nearest to the function, under @click.command().
    """
    import functools

    import click

    @click.option("--run-dir", "run_dir", envvar="EDGEVPNRUNDIR", default="", help="Run directory of the node.")
    @click.option(
        "--interface", envvar="IFACE", default="edgevpn0", show_default=True, help="Or: interface of the node."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
    @functools.wraps(function)
    def with_run_dir(*args: Any, run_dir: str, interface: str, **kwargs: Any) -> Any:
        return function(*args, run_dir=choose(run_dir, interface), **kwargs)

    return with_run_dir  # type: ignore[return-value]  # click reads its parameters from the attribute that wraps() copies
