"""Which gossip topics a node is on, and on which it publishes, around a change of windows.

A node publishes on the topic of the current window only: that is all a Go node listens to. It joins the next topic
JOIN_EARLY seconds before its window begins and leaves the old one LEAVE_LATE seconds after, so that no message is
missed by clocks that differ a little or by nodes that are still changing over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

JOIN_EARLY = 5.0
LEAVE_LATE = 15.0


@dataclass(frozen=True, slots=True)
class TopicWindow:
    """A topic and its window in unix seconds: start <= t < end."""

    topic: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """`publish` is None when no window holds now; `until`: when to look again (unix seconds)."""

    publish: str | None
    join: frozenset[str]
    until: float


def schedule(windows: Iterable[TopicWindow], now: float) -> Schedule:
    """What to be on at `now`."""
    known = list(windows)
    publish = next((w.topic for w in known if w.start <= now < w.end), None)
    join = frozenset(w.topic for w in known if w.start - JOIN_EARLY <= now < w.end + LEAVE_LATE)
    edges = [edge for w in known for edge in (w.start - JOIN_EARLY, w.start, w.end, w.end + LEAVE_LATE) if edge > now]
    return Schedule(publish, join, min(edges, default=now + 1.0))
