"""Which gossip topics a node is on, and on which it publishes, around a change of windows.

A node publishes on the topic of the current window: that is all a Go node with the right clock listens to. It is on
every topic whose window is within half an interval of now, so always on two: it hears, and is heard by, nodes whose
clocks are off by up to half an interval. A little more than that (JOIN_EARLY, LEAVE_LATE seconds) is for nodes that
are still changing over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
    spans = [(w.topic, w.start - _early(w), w.end + _late(w)) for w in known]
    join = frozenset(topic for topic, start, end in spans if start <= now < end)
    edges = [edge for _, *span in spans for edge in span] + [edge for w in known for edge in (w.start, w.end)]
    return Schedule(publish, join, min((edge for edge in edges if edge > now), default=now + 1.0))


def publish_topics(windows: Iterable[TopicWindow], others: Iterable[Collection[str]], now: float) -> list[str]:
    """Where a block is published: on the current topic, and on that of an adjacent window for whoever is on it alone.

    `others`: the topics that each Go node is on. One whose clock is off is on one topic, and reads only what is sealed
    with that window's key. Empty when no window holds now.
    """
    known = list(windows)
    topics = [w.topic for w in known if w.start <= now < w.end]
    for theirs in others:
        if not any(topic in theirs for topic in topics):
            topics += [w.topic for w in known if w.topic in theirs]
    return topics


def _early(window: TopicWindow) -> float:
    """Only the next window is known: no topic is joined earlier than that."""
    interval = window.end - window.start
    return min(interval, interval / 2 + JOIN_EARLY)


def _late(window: TopicWindow) -> float:
    interval = window.end - window.start
    return min(interval, interval / 2 + LEAVE_LATE)
