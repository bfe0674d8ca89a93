"""Messages that every actor answers."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message, Scalar


class Heartbeat(Message, frozen=True):
    """Answered by Done while the actor's loop runs. Pipe: each byte comes back."""


class StatsRequest(Message, frozen=True):
    """Answered by Stats."""


class Stats(Message, frozen=True):
    """Counters and gauges of an actor, by name."""

    values: dict[str, Scalar]


class VitalsRequest(Message, frozen=True):
    """Answered by Vitals."""


class QueueStatus(Message, frozen=True):
    """`depth` of at most `limit` wait now, `dropped` were lost since the actor began; `unit`: "" (items) or "bytes"."""

    name: str
    depth: int
    limit: int
    dropped: int
    unit: str


class Vitals(Message, frozen=True):
    """What passes through an actor's mailbox, since it began: connections served (requests, subscriptions, pipes),
    updates sent to subscribers, pipes open now, messages (served or sent) a second of late; and its queues."""

    requests: int
    updates: int
    pipes: int
    messages_per_s: float
    queues: list[QueueStatus]


class Leave(Message, frozen=True):
    """To an actor that announced something: the node ends, and what is of no use without it is withdrawn, so that
    others may take it. Answered by Done."""


class OpenRepl(Message, frozen=True):
    """Pipe: a Python prompt inside the actor (same user or root only), with the frames of prompt_frames.py."""


Bodies: TypeAlias = Heartbeat | StatsRequest | Stats | VitalsRequest | Vitals | Leave | OpenRepl
