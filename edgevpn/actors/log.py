"""One log for all processes of a node: a line an event.

`get(actor)` gives a logger that carries the actor's name and takes facts as keywords. It writes through the standard
library's logging (structlog would cost 0.2 s at every start). An actor writes JSON into the pipe that the supervisor
gave it (log_intake.py); it never waits for room there, what does not fit is lost and counted. The supervisor passes
all lines on to stderr, for people on a terminal and as JSON otherwise, and to its `sinks` (log_store.py).

`RateLimit` is for what peers can cause: an event is said at most once per `interval` seconds, with the number of times
it happened since; counters hold the rest.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from edgevpn.proto.log_lines import LogLine, for_people, write_line

PIPE_VARIABLE = "EDGEVPNLOGFD"  # in an actor's environment: the number of its pipe's descriptor
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "dpanic": logging.CRITICAL,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
_ROOT = "edgevpn"
_STDERR = 2

Sink = Callable[[LogLine], None]

# The usual level, set before actors are forked: setting it walks over all loggers, and copies the page of each.
logging.getLogger(_ROOT).setLevel(logging.INFO)


def _as_line(record: logging.LogRecord) -> LogLine:
    facts = dict(record.__dict__.get("facts", {}))
    if record.exc_info and record.exc_info[0] is not None:
        facts["traceback"] = logging.Formatter().formatException(record.exc_info)
    return LogLine(
        record.created,
        record.levelname.lower(),
        record.__dict__.get("actor", "supervisor"),
        record.getMessage(),
        facts,
    )


class _IntoPipe(logging.Handler):
    """An actor's lines, into a pipe that nobody may read for a while."""

    def __init__(self, descriptor: int, actor: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._actor = actor
        self._lost = 0
        self._torn = False
        os.set_blocking(descriptor, False)

    def emit(self, record: logging.LogRecord) -> None:
        line = _as_line(record)
        line = LogLine(line.time, line.level, self._actor, line.event, line.facts)
        if self._lost:
            line = LogLine(
                line.time, line.level, line.actor, line.event, {**line.facts, "lines_lost_before": self._lost}
            )
        data = write_line(line)
        if self._torn:
            data = b"\n" + data
        try:
            written = os.write(self._descriptor, data)
        except OSError:  # full, or nobody reads any more
            self._lost += 1
            return
        self._lost = 0
        self._torn = written < len(data)


class _IntoNode(logging.Handler):
    """The supervisor's own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        say(_as_line(record))


class _Stderr:
    """stderr, as long as it takes what we write: a stopped terminal must not stop the supervisor."""

    def __init__(self, *, as_json: bool, traceback: bool, colour: bool) -> None:
        self._as_json = as_json
        self._traceback = traceback
        self._colour = colour
        self._poll = select.poll()
        self._poll.register(_STDERR, select.POLLOUT)

    def __call__(self, line: LogLine) -> None:
        if self._as_json:
            data = write_line(line)
        else:
            text = for_people(line, colour=self._colour, traceback=self._traceback)
            data = text.encode("utf-8", "replace") + b"\n"
        with suppress(OSError):
            while data and self._poll.poll(0):
                # Where there is room for anything, a pipe has room for PIPE_BUF bytes (pipe(7)).
                data = data[os.write(_STDERR, data[: select.PIPE_BUF]) :]


_sinks: list[Sink] = []


def say(line: LogLine) -> None:
    """Pass a line on to everything that `configure` and `add_sink` named: in the supervisor only."""
    for sink in _sinks:
        sink(line)


def add_sink(sink: Sink) -> None:
    """Have all lines go there too. It must not raise, nor log."""
    _sinks.append(sink)


def remove_sink(sink: Sink) -> None:
    """Undo `add_sink`; a sink that is not there is none to remove."""
    with suppress(ValueError):
        _sinks.remove(sink)


class Log:
    """A logger whose lines carry an actor's name."""

    def __init__(self, actor: str) -> None:
        self._actor = actor
        self._logger = logging.getLogger(_ROOT)

    def debug(self, event: str, **facts: object) -> None:
        self._say(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: object) -> None:
        self._say(logging.INFO, event, facts)

    def warning(self, event: str, **facts: object) -> None:
        self._say(logging.WARNING, event, facts)

    def error(self, event: str, **facts: object) -> None:
        self._say(logging.ERROR, event, facts)

    def _say(self, level: int, event: str, facts: dict[str, object]) -> None:
        self._logger.log(level, "%s", event, extra={"actor": self._actor, "facts": facts})


def configure(level: str, *, debug: bool = False) -> None:
    """Make this process the one that passes all lines on: `level` as the Go program names them; JSON unless stderr is a
    terminal, where tracebacks are shown with `debug` only."""
    terminal = sys.stderr.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")
    _sinks[:] = [_Stderr(as_json=not terminal, traceback=debug, colour=colour)]
    _install(_IntoNode(), level)


def configure_actor(level: str, actor: str) -> None:
    """Make this process an actor's: its lines go into its pipe, and so do the interpreter's last words at a crash."""
    given = os.environ.get(PIPE_VARIABLE, "")
    if not given.isdigit():
        configure(level)  # started without a supervisor that collects lines
        return
    _install(_IntoPipe(int(given), actor), level)
    faulthandler.enable(int(given))


def _install(handler: logging.Handler, level: str) -> None:
    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [handler]
    logger.propagate = False
    wanted = _LEVELS.get(level.lower(), logging.INFO)
    if logger.level != wanted:
        logger.setLevel(wanted)


def get(actor: str) -> Log:
    """The logger of an actor."""
    return Log(actor)


class RateLimit:
    """Lets an event through at most once per `interval` seconds, for a bounded number of distinct events."""

    def __init__(self, interval: float = 60.0, most: int = 64) -> None:
        self._interval = interval
        self._most = most
        self._said: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def allow(self, event: str, now: float) -> int | None:
        """None: keep quiet. Else say it; the number is how often it happened unsaid since the last time."""
        said = self._said.get(event)
        if said is not None and now - said < self._interval:
            self._held[event] = self._held.get(event, 0) + 1
            return None
        if said is None and len(self._said) >= self._most:
            oldest = min(self._said, key=self._said.__getitem__)
            del self._said[oldest]
            self._held.pop(oldest, None)
        self._said[event] = now
        return self._held.pop(event, 0)
