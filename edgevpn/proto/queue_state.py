"""What a queue says of itself, the same for all: that is how `edgevpn actors` shows queues without knowing them.

Whoever owns a queue has a method, by custom `queue_state()`, that gives a QueueState, and puts it into the shell's
`queues` under a name. Of several queues of one kind (one a peer, one a reader) the fullest is told, and what all lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple


class QueueState(NamedTuple):
    """`depth` of at most `limit` wait now; `dropped` were lost since the actor began. `unit`: "" (items) or "bytes"."""

    depth: int
    limit: int
    dropped: int
    unit: str = ""


Tell = Callable[[], QueueState]


def fullest(depths: Iterable[int], limit: int, dropped: int, unit: str = "") -> QueueState:
    """The state of several queues with the same limit."""
    return QueueState(max(depths, default=0), limit, dropped, unit)
