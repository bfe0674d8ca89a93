"""The command `edgevpn repl`: a Python prompt inside a running actor, or one piece of code run there.

An actor that is not ready can't be spoken with; then the supervisor is asked why, and that is the error.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import click

from edgevpn.cli import direct
from edgevpn.cli.prompt import Conversation, GoneError, run_once, talk_from_pipe, talk_from_terminal
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError, NodeUnreachableError, UsageError
from edgevpn.proto.messages import Actors, ActorsRequest, ActorStatus, Done, OpenRepl
from edgevpn.proto.prompt_frames import Greeting

RETRY_FOR = 0.5  # seconds: the supervisor calls it ready, so its socket is there or will be
NOTICE_FOR = 1.0  # seconds that the supervisor may take to see an actor's end
_NO_PROMPT = ("supervisor", "template")


@click.command(
    epilog="Examples: edgevpn repl ledger; edgevpn repl host -c 'len(host.peers())'; edgevpn repl gossip -c 'tasks()'"
)
@click.argument("name")
@click.option("-c", "code", help="Run this code there, print its result, and leave; exit code 1 on an exception.")
@node_options
def repl(name: str, code: str | None, run_dir: Path, as_json: bool) -> int:
    """Open a Python prompt inside a running actor: top-level await, its state bound to names.

    `await tap()` shows its messages as they come, tasks() its trio tasks, stats() its counters. Tab completes, Ctrl-C
    cancels what runs, Ctrl-D leaves; the actor goes on as it was. Secrets show as <secret>, unless in reveal(x).
    """
    pipe, early = _open(run_dir, name)
    with pipe:
        talk = Conversation(pipe, early)
        greeting: Greeting | None = None
        try:
            greeting = talk.greeting()
            if code is not None:
                return run_once(talk, code, as_json)
            if sys.stdin.isatty():
                sys.stdout.write(greeting.text)
                talk_from_terminal(talk, name)
            else:
                talk_from_pipe(talk)
        except GoneError:
            raise NodeUnreachableError(_how_it_went(run_dir, name, greeting.pid if greeting else 0)) from None
    return 0


def _open(run_dir: Path, name: str) -> tuple[socket.socket, bytes]:
    """The pipe to the actor's prompt. Raises UsageError for an unknown name, NodeUnreachableError with the reason."""
    deadline = time.monotonic() + RETRY_FOR
    while True:
        try:
            if name.isidentifier() and name not in _NO_PROMPT:
                return direct.open_pipe(run_dir, name, OpenRepl(), Done)
        except direct.AbsentError:
            pass
        status = _status(run_dir, name)
        if status.state != "ready":
            raise NodeUnreachableError(_why_not(status))
        if time.monotonic() > deadline:
            raise NodeUnreachableError(f"the {name} actor is ready but has no socket: `edgevpn actors restart {name}`")
        time.sleep(0.02)


def _status(run_dir: Path, name: str) -> ActorStatus:
    """What the supervisor knows of an actor. Raises UsageError when there is none of that name."""
    try:
        found = direct.ask(run_dir, "supervisor", ActorsRequest(), Actors).actors
    except direct.AbsentError:
        path = run_dir / "supervisor.sock"
        raise NodeUnreachableError(
            f"no node answers at {path}: is it running, and is this the right --run-dir or --interface?"
        ) from None
    actors = {actor.name: actor for actor in found if actor.name not in _NO_PROMPT}
    if name in _NO_PROMPT:
        raise UsageError(
            f"the {name} has no prompt, since it has all the node's rights: there are {', '.join(actors)}; "
            "`edgevpn actors` shows what the supervisor knows"
        )
    if name not in actors:
        raise UsageError(f"there is no actor {name!r}: there are {', '.join(actors)}")
    return actors[name]


def _why_not(status: ActorStatus) -> str:
    why = f", last exit: {status.last_exit}" if status.last_exit else ""
    what = {
        "backing-off": "is in back-off and is started again soon",
        "failed": f"died too often and is given up (`edgevpn actors restart {status.name}` tries again)",
        "held": f"is held: it can't work without the {status.lacks} actor (`edgevpn actors restart {status.lacks}`)",
        "starting": "is still starting",
        "stopping": "is being stopped",
        "idle": f"is stopped (`edgevpn actors restart {status.name}` starts it)",
    }.get(status.state, f"is {status.state}")
    restarts = f", {status.restarts} restarts" if status.restarts else ""
    return f"no prompt: the {status.name} actor {what}{restarts}{why}"


def _how_it_went(run_dir: Path, name: str, pid: int) -> str:
    """One line about an actor whose prompt has just broken off."""
    deadline = time.monotonic() + NOTICE_FOR
    while True:
        try:
            status = _status(run_dir, name)
        except EdgevpnError as exc:
            return f"the {name} actor went away, and its node with it: {exc}"
        if status.pid != pid:
            return f"the {name} actor went away: {status.last_exit or 'it ended'} (now: {status.state})"
        if time.monotonic() > deadline:
            return f"the {name} actor ended the conversation"
        time.sleep(0.02)
