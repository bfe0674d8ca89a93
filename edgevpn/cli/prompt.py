"""The terminal's side of `edgevpn repl`: lines go to the actor, what it says comes back (edgevpn/actors/repl.py).

Lines are read with the terminal's line editing and kept in a history file. Leaving (Ctrl-D) ends the pipe; the actor
goes on as it was. Ctrl-C drops the line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import trio

from edgevpn.actors.client import Client
from edgevpn.actors.repl import PROMPT_MARK
from edgevpn.proto.messages import Done, OpenRepl

_HISTORY_LINES = 1000


def attach(client: Client) -> int:
    """Talk with an actor until the end of input; the exit code."""
    history = _load_history() if sys.stdin.isatty() else None
    try:
        return trio.run(_converse, client, restrict_keyboard_interrupt_to_checkpoints=True)
    finally:
        if history is not None:
            _save_history(history)


async def _converse(client: Client) -> int:
    _, stream = await client.open_pipe(OpenRepl(), Done)
    async with stream:
        while True:
            prompt = await _until_prompt(stream)
            if prompt is None:
                sys.stderr.write("the actor went away\n")
                return 1
            try:
                # mypy reads trio-typing's stubs, which are older than this trio
                line = await trio.to_thread.run_sync(_read_line, prompt, abandon_on_cancel=True)  # type: ignore[call-arg]
            except EOFError:
                sys.stdout.write("\n" if sys.stdin.isatty() else "")
                return 0
            await stream.send_all(line.encode() + b"\n")


async def _until_prompt(stream: trio.abc.HalfCloseableStream) -> str | None:
    """Print what comes until the actor prompts; its prompt, or None when it is gone."""
    text = b""
    while text.count(PROMPT_MARK) < 2:
        chunk = await stream.receive_some()
        if not chunk:
            sys.stdout.write(text.decode(errors="replace"))
            return None
        text += chunk
    said, prompt, _ = text.split(PROMPT_MARK, 2)
    sys.stdout.write(said.decode(errors="replace"))
    sys.stdout.flush()
    return prompt.decode()


def _read_line(prompt: str) -> str:
    if sys.stdin.isatty():
        return input(prompt)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _load_history() -> Path | None:
    try:
        import readline
    except ImportError:
        return None
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = base / "edgevpn" / "repl_history"
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY_LINES)
    return path


def _save_history(path: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        readline.write_history_file(path)
