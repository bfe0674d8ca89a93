"""Takes in what actors write to their log: a pipe for each life of an actor, read by the supervisor.

An actor's stderr is its pipe (with --debug, when somebody may sit at its crash prompt, a descriptor beside it), so the
log also has what an interpreter or a library says at the end of a process: the kernel keeps it until it is read,
however the actor ended. Whose pipe it is says who speaks. What is no log line becomes one, a block of text at a time.

An actor can't flood the log: it has a budget of lines, and what is over that is counted and left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import trio

from edgevpn.actors.log import PIPE_VARIABLE
from edgevpn.errors import UntrustedDataError
from edgevpn.proto.log_lines import MAX_LINE, LineBudget, LogLine, RawText, read_line_untrusted

BESIDE_STDERR = 40  # the pipe's number in an actor whose stderr stays the terminal's
_STDERR = 2
_READ = 64 * 1024
_MOST_AT_THE_END = 32  # reads; the rest of a process that filled its pipe in its last moment, and who forges one
_QUIET = 0.05  # seconds without more: a block of text is complete


class Intake:
    """One life of one actor, as its log hears it."""

    def __init__(self, actor: str, say: Callable[[LogLine], None], *, keep_stderr: bool = False) -> None:
        """`say` gets the lines. Raises OSError when there is no pipe to be had."""
        self._actor = actor
        self._say = say
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._number = BESIDE_STDERR if keep_stderr else _STDERR
        self._partial = b""
        self._skipping = False
        self._raw = RawText()
        self._budget = LineBudget(time.monotonic())

    @property
    def descriptor(self) -> tuple[int, int]:
        """(our number, its number) of what the actor's process must be given."""
        return self._writing, self._number

    @property
    def environment(self) -> dict[str, str]:
        """What the actor's process must be told."""
        return {PIPE_VARIABLE: str(self._number)}

    async def run(self) -> None:
        """Read until `finish`, or until nobody can write any more."""
        try:
            while True:
                with trio.move_on_after(_QUIET) if self._raw else trio.CancelScope() as quiet:
                    await trio.lowlevel.wait_readable(self._reading)
                if quiet.cancelled_caught:
                    self._end_block()
                elif self._read() == b"":
                    return
        except trio.ClosedResourceError:
            return

    def handed_over(self) -> None:
        """The actor's process has its end of the pipe, or there never will be one: ours is not needed any more."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def finish(self) -> None:
        """The actor is gone: take what it left, and close."""
        self.handed_over()
        if self._reading < 0:
            return
        for _ in range(_MOST_AT_THE_END):
            if not self._read():
                break
        self._take(b"\n")
        self._end_block()
        trio.lowlevel.notify_closing(self._reading)
        os.close(self._reading)
        self._reading = -1

    def _read(self) -> bytes | None:
        """Take what there is; None: nothing now, b"": nothing ever again."""
        try:
            data = os.read(self._reading, _READ)
        except BlockingIOError:
            return None
        self._take(data)
        return data

    def _take(self, data: bytes) -> None:
        *rows, self._partial = (self._partial + data).split(b"\n")
        for row in rows:
            if not self._skipping:
                self._take_row(row)
            self._skipping = False
        if len(self._partial) > MAX_LINE:  # no line of ours: what it begins with is enough
            if not self._skipping:
                self._take_row(self._partial[:MAX_LINE])
            self._partial, self._skipping = b"", True

    def _take_row(self, row: bytes) -> None:
        if row.startswith(b"{"):
            with suppress(UntrustedDataError):
                line = read_line_untrusted(row)
                self._end_block()
                self._pass_on(LogLine(line.time, line.level, self._actor, line.event, line.facts))
                return
        self._raw.add(row)

    def _end_block(self) -> None:
        event, whole = self._raw.take()
        if event:
            self._pass_on(LogLine(time.time(), "error", self._actor, event, {"traceback": whole} if whole else {}))

    def _pass_on(self, line: LogLine) -> None:
        left_out = self._budget.allow(time.monotonic())
        if left_out is None:
            return
        if left_out:
            facts = {"lines_left_out": left_out}
            self._say(LogLine(line.time, "warning", self._actor, "it logged too much at once", facts))
        self._say(line)
