"""A way for packets to reach one peer. The pump knows paths only by this.

`send` never waits: a path has a queue bounded in bytes, and what does not fit is dropped and counted, the newest
first, as a router does it: that is how TCP inside learns of it. So a stuck or slow peer costs its own queue and
never delays another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_QUEUE = 2 * 1024 * 1024  # bytes waiting for one peer


@dataclass(slots=True)
class PathStats:
    """Counters of one path since it was made. A super-packet counts as one packet."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    dropped: int = 0


class Path(Protocol):
    """The way to one peer."""

    stats: PathStats

    @property
    def kind(self) -> str:
        """ "stream", "edgevpn-stream", or "none" while no stream stands."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Queue frames (virtio header and packet each) from our own device. Drops what does not fit."""
