"""What a node offers to its links by name (Have), a while after it heard it; who lacks it asks (gossip_core.py)."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from edgevpn.ledger.inventory import position_of
from edgevpn.ledger.merge import Place
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.ledger_frames import MAX_ITEMS, Have, hint_of, pack_positions

LAZY: Final = 6.0  # s until what is not urgent is offered, at most
LAZY_IN_LARGE: Final = 10.0  # s, in a large network


class Offers:
    """Places, and which links have what is there. `now`: seconds of a monotonic clock."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._places: dict[Place, set[str]] = {}
        self._at = 0.0

    @property
    def due(self) -> float | None:
        """When they are to be told; None while there are none."""
        return self._at if self._places else None

    def add(self, places: Iterable[Place], has: Collection[str], now: float, *, large: bool) -> None:
        """`has`: the links that have them, or are told at once."""
        if not self._places:
            self._at = now + (LAZY_IN_LARGE if large else LAZY) * self._chance.uniform(0.5, 1.0)
        for place in places:
            self._places[place] = set(has)

    def heard(self, peer: str, hint: int, place: Place, version: int) -> None:
        """A peer offered what is at `place` here in this version: it need not be told."""
        if place in self._places and hint == hint_of(position_of(place), version):
            self._places[place].add(peer)

    def take(self, state: LedgerState, links: Iterable[str]) -> Mapping[str, list[Have]]:
        """All of them, for each link what it may lack; then there are none."""
        offered, self._places = self._places, {}
        found = [(place, state.get(place.bucket, place.key), has) for place, has in offered.items()]
        told: dict[str, list[Have]] = {}
        for peer in links:
            lacking = [(place, entry) for place, entry, has in found if entry is not None and peer not in has]
            hints = [hint_of(position_of(place), entry.version) for place, entry in lacking]
            told[peer] = [
                Have(pack_positions(hints[start : start + MAX_ITEMS])) for start in range(0, len(hints), MAX_ITEMS)
            ]
        return told
