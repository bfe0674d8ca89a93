"""One log for all actors: a line an event on stderr, for people on a terminal and as JSON otherwise.

`get(actor)` gives a logger that carries the actor's name and takes facts as keywords. It writes through the standard
library's logging (structlog would cost 0.2 s at every start). `RateLimit` is for what peers can cause: an event is
said at most once per `interval` seconds, with the number of times it happened since; counters hold the rest.
"""

from __future__ import annotations

import json
import logging
import sys
import time

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


class _ForPeople(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = record.__dict__.get("facts", {})
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        tail = "".join(f" {name}={value}" for name, value in facts.items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {record.__dict__.get('actor', '-')}: {level}{record.getMessage()}{tail}"


class _ForPrograms(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "actor": record.__dict__.get("actor", "-"),
            "event": record.getMessage(),
        }
        return json.dumps(line | record.__dict__.get("facts", {}), default=str)


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


def configure(level: str, *, as_json: bool | None = None) -> None:
    """Set the process's log: `level` as the Go program names them; JSON unless stderr is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    use_json = not sys.stderr.isatty() if as_json is None else as_json
    handler.setFormatter(_ForPrograms() if use_json else _ForPeople())
    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(_LEVELS.get(level.lower(), logging.INFO))


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
