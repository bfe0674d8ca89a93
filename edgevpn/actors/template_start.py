"""Starts the template process, from a program that has imported nothing yet.

The template (edgevpn/actors/template.py) spends its first second importing what actors need, so the command line
starts it before it does anything else. This module therefore imports only os, socket and subprocess. The program may
then replace itself (os.execv): it stays the same process, so the template stays its child, and takes the template up
again by the two numbers of `hand_over`.

Call all of it from the main thread: the template, and what it forks, die with the *thread* that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

TYPE_CHECKING = False  # importing typing would cost more than this module
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Stages = Sequence[tuple[str, Sequence[str]]]  # (stage name, modules in the order of their import)

BASE_STAGE = "base"  # always the first: what every actor needs (trio, tractor with its mends, msgspec, msgpack)
_TITLE_ROOM = "-" * 80  # an argument without meaning: a process title can be as long as the arguments were


class AdoptedPopen(subprocess.Popen[bytes]):
    """A Popen for a process that is our child but was not started by this object."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()
        self._sigint_wait_secs = 0.25
        self._closed_child_pipe_fds = True


class StartedTemplate:
    """A template process and the socket to it. The owner reads nothing from the socket until it spawns."""

    __slots__ = ("process", "socket", "stages")

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, stages: Stages) -> None:
        self.process = process
        self.socket = sock
        self.stages = stages

    def stop(self) -> None:
        """Kill and reap it."""
        self.process.kill()
        self.process.wait()
        self.socket.close()


def python_environment() -> Mapping[str, str]:
    """The environment for a child interpreter that must import from where we import."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module`. -P: never import from the working directory, we may be root in a stranger's."""
    return [sys.executable, "-P", "-m", module, *arguments]


def start_template(stages: Stages = (), without: Sequence[str] = ()) -> StartedTemplate:
    """Start a template that imports the base stage, then `stages`; returns at once. Raises OSError.

    `without`: names of environment variables that it and its children are not to have.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listed = ";".join(f"{name}={','.join(modules)}" for name, modules in stages)
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            python_command("edgevpn.actors.template", str(theirs.fileno()), str(os.getpid()), listed, _TITLE_ROOM),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={name: value for name, value in python_environment().items() if name not in without},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return StartedTemplate(process, ours, stages)


def hand_over(template: StartedTemplate) -> tuple[int, int]:
    """Make the template survive our exec: (fd, pid) for `adopt_template` in the program that follows us."""
    os.set_inheritable(template.socket.fileno(), True)
    return template.socket.fileno(), template.process.pid


def adopt_template(fd: int, pid: int, stages: Stages = ()) -> StartedTemplate:
    """Take up a template that this process started before its exec; `stages` as given to `start_template`.

    Raises OSError when `fd` is not such a socket, ChildProcessError when `pid` is no child of ours.
    """
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    sock = socket.socket(fileno=fd)
    try:
        sock.set_inheritable(False)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
            raise OSError(f"descriptor {fd} is not the socket of a template")
    except BaseException:
        sock.close()
        raise
    return StartedTemplate(AdoptedPopen(pid, ["edgevpn-template"]), sock, stages)
