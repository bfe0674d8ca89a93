"""A line of the log: its form for programs, its form for people, and which lines somebody wants.

A line is one event, as JSON (RFC 8259) without spaces, ended by a newline:

  {"time":"2025-01-31T12:00:00.123Z","level":"warning","actor":"host","event":"...", further facts by name}

Times are UTC with milliseconds (RFC 3339). No line is longer than MAX_LINE bytes: facts that don't fit are cut, the
longest first. What an actor writes may hold what peers said, so lines are read as untrusted, and what a terminal would
act on is replaced before people see it.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edgevpn.errors import UntrustedDataError

MAX_LINE = 24 * 1024  # bytes; a traceback has up to 20,000 characters
TRACEBACK = "traceback"  # the fact that people read on lines of its own
LEVELS = ("debug", "info", "warning", "error", "critical")
_CUT = "..."
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "31;1"}
_OWN_NAMES = ("time", "level", "actor", "event")
# How an actor's error looks after it came from the actor: what follows is about our own way of telling it.
_WRAPPED = re.compile(r"\n+The above exception was the direct cause of the following exception:\n")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One event. `time`: unix seconds; `level`: one of LEVELS; `facts`: JSON's types by name."""

    time: float
    level: str
    actor: str
    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_line(line: LogLine) -> bytes:
    """The line as JSON with its newline, at most MAX_LINE bytes."""
    facts = {str(name): value for name, value in line.facts.items() if name not in _OWN_NAMES}
    event = line.event
    while True:
        data = _encode(line, event, facts)
        over = len(data) - MAX_LINE
        if over <= 0:
            return data
        # A character takes up to 6 bytes of JSON; cut the longest text by what is surely too much, at least by half.
        longest = max(facts, key=lambda name: len(str(facts[name])), default=None)
        if longest is None or len(str(facts[longest])) <= len(event):
            event = _shortened(event, over)
        elif len(str(facts[longest])) <= 2 * len(_CUT):
            facts.clear()
        else:
            facts[longest] = _shortened(str(facts[longest]), over)


def _shortened(text: str, over: int) -> str:
    """Without some of its middle: the ends say most (of a traceback the last lines)."""
    keep = max(len(text) // 2, len(text) - over - len(_CUT) - 64)
    head = keep // 4
    return text[:head] + _CUT + text[len(text) - (keep - head) :]


def _encode(line: LogLine, event: str, facts: Mapping[str, Any]) -> bytes:
    moment = datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    value = {"time": moment, "level": line.level, "actor": line.actor, "event": event, **facts}
    # ASCII only: a lone surrogate has no UTF-8
    return json.dumps(value, default=str, separators=(",", ":")).encode() + b"\n"


def read_line_untrusted(data: bytes) -> LogLine:
    """The line of some JSON. Raises UntrustedDataError."""
    if len(data) > MAX_LINE:
        raise UntrustedDataError(f"a log line of {len(data)} bytes is over the limit of {MAX_LINE}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UntrustedDataError("not a log line: no JSON") from exc
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in _OWN_NAMES):
        raise UntrustedDataError("not a log line: it lacks time, level, actor or event")
    own = {name: value.pop(name) for name in _OWN_NAMES}
    try:
        moment = datetime.fromisoformat(own["time"]).timestamp()
    except (ValueError, OverflowError) as exc:
        raise UntrustedDataError("not a log line: no time") from exc
    level = own["level"] if own["level"] in LEVELS else "info"
    return LogLine(moment, level, own["actor"], own["event"], value)


def for_people(line: LogLine, *, colour: bool = False, date: bool = False, traceback: bool = True) -> str:
    """The line in local time, its traceback (unless unwanted) on indented lines below; without a newline at its end."""
    clock = time.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S", time.localtime(line.time))
    level = "" if line.level == "info" else f"{line.level}: "
    tail = "".join(f" {name}={_shown(value)}" for name, value in line.facts.items() if name != TRACEBACK)
    text = printable(f"{clock} {line.actor}: {level}{line.event}{tail}")
    if colour and line.level in _COLOURS:
        text = f"\x1b[{_COLOURS[line.level]}m{text}\x1b[0m"
    below = line.facts.get(TRACEBACK) if traceback else None
    if isinstance(below, str):
        text += "".join(f"\n    {printable(row)}" for row in below.splitlines())
    return text


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def printable(text: str) -> str:
    """`text` without what a terminal would act on: control, format and line-breaking characters become "?"."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "?" if unicodedata.category(letter)[0] in "C" or letter in "\u2028\u2029" else letter for letter in text
    )


def at_least(level: str, least: str) -> bool:
    """Whether `level` is as grave as `least`; both of LEVELS."""
    return LEVELS.index(level) >= LEVELS.index(least)


def tidy_traceback(text: str, reason: str) -> str:
    """A crashed actor's traceback as it happened, ending with the exit reason. "" stays ""."""
    told = text.strip("\n")
    wrapped = list(_WRAPPED.finditer(told))
    own = told[: wrapped[-1].start()] if wrapped and told.endswith(f": {reason}") else told
    if not own:
        return ""
    return own if own.rpartition("\n")[2] == reason else f"{own}\n{reason}"


class LineBudget:
    """How many lines a writer may cause: `burst` at once, `rate` a second in the long run. What is over is counted."""

    def __init__(self, now: float, rate: float = 20.0, burst: float = 400.0) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._last = now
        self._held = 0

    def allow(self, now: float) -> int | None:
        """None: leave this line out. Else take it; the number is how many were left out before it."""
        self._left = min(self._burst, self._left + (now - self._last) * self._rate)
        self._last = now
        if self._left < 1:
            self._held += 1
            return None
        self._left -= 1
        held, self._held = self._held, 0
        return held


class RawText:
    """Puts together what is no log line: an interpreter's last words, a library's print. One block is one event."""

    MOST = 16 * 1024  # characters of a block; of more the middle is lost

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace").rstrip("\r")
        if text.strip() or self._lines:
            self._lines.append(text)
            self._size += len(text) + 1
        while self._size > self.MOST and len(self._lines) > 2:
            middle = len(self._lines) // 2
            self._size -= len(self._lines.pop(middle)) + 1

    def take(self) -> tuple[str, str]:
        """The block's event (its last line of a Python traceback, else its first line), and all of it if it is more."""
        lines, self._lines, self._size = self._lines, [], 0
        while lines and not lines[-1].strip():
            lines.pop()
        if not lines:
            return "", ""
        first = lines[-1] if lines[0].startswith(("Traceback ", "  + Exception Group")) else lines[0]
        return first.strip(), "\n".join(lines) if len(lines) > 1 else ""
