"""The terminal's side of `edgevpn repl`: source goes to the actor, what it says comes back (edgevpn/actors/repl.py).

Lines are read with the terminal's own line editing (readline), completed by the actor, and kept in a history
(history.py). Ctrl-C drops the line, or cancels what runs in the actor; Ctrl-D leaves, and the actor goes on as it was.
Plain blocking code: a prompt is to be there at once, and importing trio takes longer than everything else.
"""

from __future__ import annotations

import ast
import codeop
import json
import os
import re
import signal
import socket
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from edgevpn.cli import history
from edgevpn.errors import UntrustedDataError
from edgevpn.proto.prompt_frames import (
    Complete,
    Completions,
    Finished,
    Greeting,
    Interrupt,
    Output,
    PromptFrame,
    Run,
    Splitter,
    encode,
    sendable,
)

COMPLETION_PATIENCE = 1.0  # seconds that Tab waits for the actor
LEAVE_AFTER = 3  # Ctrl-C pressed so often without an effect
_DOTTED_END = re.compile(r"(?:[^\W\d]\w*\.)*(?:[^\W\d]\w*)?$")


class GoneError(Exception):
    """The actor's end of the pipe is closed."""


class Conversation:
    """One open pipe to an actor's prompt."""

    def __init__(self, pipe: socket.socket, early: bytes) -> None:
        self._pipe = pipe
        self._splitter = Splitter()
        self._frames: list[PromptFrame] = self._splitter.feed_untrusted(early)
        self._number = 0
        self._sending = False

    def greeting(self) -> Greeting:
        frame = self._next()
        if not isinstance(frame, Greeting):
            raise GoneError
        return frame

    def run(self, source: str, width: int, say: Callable[[Output], None]) -> Finished:
        """Run `source` there; Ctrl-C interrupts it. Raises GoneError, and KeyboardInterrupt when that has no effect."""
        with self._interrupts_go_there():
            self._send(Run(sendable(source), width))
            while True:
                frame = self._next()
                if isinstance(frame, Output):
                    say(frame)
                elif isinstance(frame, Finished):
                    return frame

    def complete(self, text: str) -> list[str]:
        self._number += 1
        with _interrupts_wait():
            self._pipe.settimeout(COMPLETION_PATIENCE)
            try:
                self._send(Complete(self._number, sendable(text)))
                while True:
                    frame = self._next()
                    if isinstance(frame, Completions) and frame.number == self._number:
                        return frame.names
            except (TimeoutError, GoneError):
                return []  # the next line will tell
            finally:
                self._pipe.settimeout(None)

    def _next(self) -> PromptFrame:
        while not self._frames:
            try:
                data = self._pipe.recv(65536)
            except TimeoutError:
                raise
            except OSError:
                data = b""
            if not data:
                raise GoneError
            try:
                self._frames = self._splitter.feed_untrusted(data)
            except UntrustedDataError as exc:
                raise GoneError from exc
        return self._frames.pop(0)

    def _send(self, frame: PromptFrame) -> None:
        self._sending = True
        try:
            self._pipe.sendall(encode(frame))
        except TimeoutError:
            raise
        except OSError as exc:
            raise GoneError from exc
        finally:
            self._sending = False

    @contextmanager
    def _interrupts_go_there(self) -> Iterator[None]:
        """Ctrl-C becomes an Interrupt. It never breaks into the middle of a frame, as KeyboardInterrupt would."""
        pressed = 0

        def interrupt(*_: object) -> None:
            nonlocal pressed
            pressed += 1
            if self._sending:
                return  # a frame of its own can't be put into another
            if pressed >= LEAVE_AFTER:
                raise KeyboardInterrupt
            if pressed == LEAVE_AFTER - 1:
                os.write(2, b"\nit does not stop yet; Ctrl-C once more leaves\n")
            with suppress(OSError):
                self._pipe.send(encode(Interrupt()), socket.MSG_DONTWAIT)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until this is over (it is short), and then is forgotten: it would drop an answer's half."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- the ways to use it -------------------------------------------------------------------------------------------


def run_once(talk: Conversation, code: str, as_json: bool) -> int:
    """Run `code`, print what it says (as JSON: all of it at the end); the exit code. Raises GoneError."""
    said: list[Output] = []
    finished = talk.run(code, _width(), said.append if as_json else write_plainly)
    if as_json:
        texts = {"output": False, "error": True}
        found = {key: "".join(one.text for one in said if one.error is error) for key, error in texts.items()}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return int(finished.failed)


def talk_from_terminal(talk: Conversation, name: str) -> None:
    """Lines from the terminal until Ctrl-D. Raises GoneError."""
    editor = _Editor(talk)
    try:
        _talk(talk, editor.read, editor.done, f"{name}> ", terminal_output())
    finally:
        editor.close()


def talk_from_pipe(talk: Conversation) -> None:
    """Lines from stdin until its end, without prompts. Raises GoneError."""

    def read(_: str) -> str:
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    _talk(talk, read, lambda _lines, _secret: None, "", write_plainly)


def _talk(
    talk: Conversation,
    read: Callable[[str], str],
    done: Callable[[list[str], bool], None],
    prompt: str,
    say: Callable[[Output], None],
) -> None:
    """Read, run, tell `done` the lines and whether a secret is in them; until EOFError or exit()."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    further = "...".ljust(len(prompt) - 1) + " " if prompt else ""
    lines: list[str] = []
    while True:
        try:
            lines.append(read(further if lines else prompt))
        except KeyboardInterrupt:
            print()
            lines.clear()
            continue
        except EOFError:
            if prompt:
                print()
            if not any(line.strip() for line in lines) or prompt:
                return
            lines.append("")  # the end of a file ends its last block too
            talk.run("\n".join(lines), _width(), say)
            return
        source = "\n".join(lines)
        if not source.strip():
            lines.clear()
            continue
        try:
            if compiler(source, "<repl>", "single") is None:
                continue
        except (SyntaxError, ValueError, OverflowError):
            pass  # the actor reports it
        finished = talk.run(source, _width(), say)
        done(lines, finished.secret)
        lines = []
        if finished.leave:
            return


class _Editor:
    """Line editing, completion and history, as far as this Python has readline."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._names: list[str] = []
        self._readline: ModuleType | None
        try:
            import readline
        except ImportError:
            self._readline = None
            return
        self._readline = readline
        self._file = history.path()
        self._keeps = history.prepare(self._file)
        readline.set_auto_history(False)
        readline.set_history_length(history.MAX_LINES)
        if self._keeps:
            with suppress(OSError):
                readline.read_history_file(self._file)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" \t\n`~!@#$%^&*()-=+[{]}\\|;:'\",<>/?")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        if not libedit:
            readline.parse_and_bind("set show-all-if-ambiguous on")

    def read(self, prompt: str) -> str:
        return input(prompt)

    def done(self, lines: list[str], secret: bool) -> None:
        if self._readline is None or secret:
            return
        kept = [line for line in lines if history.may_keep(line)]
        if len(kept) != sum(1 for line in lines if line.strip()):
            return  # a block without one of its lines is of no use
        for line in kept:
            self._readline.add_history(line)
        if self._keeps and kept:
            with suppress(OSError):
                # By lines and at once: other prompts write here too, and this one may be killed.
                self._readline.append_history_file(len(kept), self._file)

    def close(self) -> None:
        if self._readline is None:
            return
        self._readline.set_completer(None)
        if self._keeps:
            with suppress(OSError):
                self._trim()

    def _trim(self) -> None:
        kept = self._file.read_text(errors="replace").splitlines(keepends=True)
        if len(kept) > 2 * history.MAX_LINES:
            self._file.write_text("".join(kept[-history.MAX_LINES :]))

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            dotted = _DOTTED_END.search(text)
            self._names = self._talk.complete(dotted.group()) if dotted else []
        return self._names[state] if state < len(self._names) else None


# --- showing ------------------------------------------------------------------------------------------------------


def write_plainly(output: Output) -> None:
    stream = sys.stderr if output.error else sys.stdout
    stream.write(harmless(output.text))
    stream.flush()


def terminal_output() -> Callable[[Output], None]:
    """How to write to this terminal: in colours, where it has them."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("", "dumb", None):
        return write_plainly
    highlight: Any = None

    def write(output: Output) -> None:
        nonlocal highlight
        text = harmless(output.text)
        if highlight is None and not output.error:
            highlight = _highlighter()
        sys.stdout.write(f"\033[31m{text}\033[0m" if output.error else highlight(text))
        sys.stdout.flush()

    return write


def _highlighter() -> Callable[[str], str]:
    # Rich takes 50 ms to import: not before there is something to show.
    from rich.console import Console
    from rich.highlighter import ReprHighlighter

    console = Console(force_terminal=True, soft_wrap=True, width=10_000)
    find = ReprHighlighter()

    def highlight(text: str) -> str:
        if len(text) > 20_000:
            return text  # colours are not worth a second
        with console.capture() as captured:
            console.print(find(text), end="", soft_wrap=True)
        return captured.get()

    return highlight


def harmless(text: str) -> str:
    """`text` without what a terminal would act on, but for the ends of lines: peers named things in it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or unicodedata.category(letter)[0] != "C" else "?" for letter in text)


def _width() -> int:
    try:
        return max(40, os.get_terminal_size().columns)
    except OSError:
        return 100
