"""Which connections are given up when there are many: `--connection-high-water` and `--connection-low-water`.

Above the high mark connections are closed until the low one is reached, as the Go program's library does: none that is
younger than GRACE, none to a peer named by hand; strangers first (peers that speak none of our protocols: those of a
public DHT), then those that carry the fewest streams and were silent longest. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GRACE: Final = 20.0  # s
LOW_OF_HIGH: Final = 0.75  # the low mark where only the high one is given


@dataclass(frozen=True, slots=True)
class Held:
    """A peer we are connected with. Times are seconds of one clock."""

    peer: str
    connections: int
    since: float
    last_heard: float
    streams: int
    of_the_network: bool
    kept: bool  # named by hand


def low_mark(high: int, low: int) -> int:
    """The low mark to use."""
    return min(high, low) if low else int(high * LOW_OF_HIGH)


def whom_to_part_with(held: Iterable[Held], high: int, low: int, now: float) -> list[str]:
    """The peers whose connections are to be closed. `high` 0: none, ever."""
    peers = list(held)
    spare = sum(one.connections for one in peers) - low_mark(high, low)
    if not high or sum(one.connections for one in peers) <= high:
        return []
    found = []
    for one in sorted(peers, key=lambda one: (one.of_the_network, one.streams, one.last_heard)):
        if spare <= 0:
            break
        if not one.kept and now - one.since >= GRACE:
            found.append(one.peer)
            spare -= one.connections
    return found
