"""Starting a child process the plain way, and the process object that forked and plain children share.

Both kinds are our own children and get a real trio.Process (waiting by pidfd, several waiters, returncode as usual).
A child dies with the thread that started it (linux_process.die_with_parent), so everything here runs in the main
thread, and starts the process there: trio's own open_process would use a worker thread, which ends when it is idle.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence

import trio

from edgevpn.actors.child_entry import ChildSettings
from edgevpn.actors.template_start import AdoptedPopen, python_command, python_environment

_TITLE_ROOM = "-" * 32


def as_process(popen: subprocess.Popen[bytes]) -> trio.Process:
    """A trio.Process for a child without pipes. (trio has no public way to make one from a Popen.)"""
    process: trio.Process = trio.Process._create(popen, None, None, None)  # type: ignore[attr-defined]
    return process


def adopt_child(pid: int, settings: ChildSettings) -> trio.Process:
    """The process object of a child that the template forked for us."""
    return as_process(AdoptedPopen(pid, [settings.title]))


def spawn_plainly(settings: ChildSettings, descriptors: Sequence[int] = (), keep_stdin: bool = False) -> trio.Process:
    """Start an interpreter that becomes the child; returns when it runs (a few ms). Raises OSError.

    `keep_stdin` lets it read our terminal, for the debugger.
    """
    listed = ",".join(map(str, descriptors))
    command = python_command(
        "edgevpn.actors.child_entry", json.dumps(settings.to_json()), str(os.getpid()), listed, _TITLE_ROOM
    )
    return as_process(
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=None if keep_stdin else subprocess.DEVNULL,
            pass_fds=descriptors,
            env=python_environment(),
        )
    )
