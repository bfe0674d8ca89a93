"""What a simulated network must hold, and how long it takes: watches every entry that any node takes.

Times are from a write to the moment when the last node that was up at the write (and still is) has it, or has something
newer there. Broken rules are collected as text, each with the virtual time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgevpn.ledger.merge import Place
from edgevpn.proto.entry import Entry
from edgevpn.proto.values import HEALTHCHECK, MACHINES
from scripts.simkit.nodes import Node
from scripts.simkit.world import World

_MOST_BROKEN = 20


@dataclass(slots=True)
class _Write:
    version: int
    began: float
    waiting: set[int]


@dataclass
class Judge:
    """Of one run."""

    world: World
    tracking: bool = False
    writes: list[float] = field(default_factory=list)  # seconds until known by all
    beats: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    owned: dict[Place, int] = field(default_factory=dict)  # what must be there: the number of its owner
    withdrawn: dict[Place, int] = field(default_factory=dict)  # what must not: the version of its deletion
    _graves: dict[Place, dict[int, int]] = field(default_factory=dict)  # who has seen it deleted, in which version
    _open: dict[Place, _Write] = field(default_factory=dict)

    def watch(self, node: Node, place: Place, before: Entry | None, after: Entry | None) -> None:
        """Given to all nodes."""
        if after is None:
            return
        if before is not None and after.version < before.version:
            self.fault(
                f"{place.bucket}/{place.key} went back from {before.version} to {after.version} on {node.number}"
            )
        if after.deleted:
            self._graves.setdefault(place, {})[node.number] = after.version
        if after.owner == node.peer_id and (before is None or before.version < after.version):
            known = self._open.get(place)
            if self.tracking and (known is None or known.version < after.version):
                waiting = {number for number in self.world.nodes if number != node.number}
                self._open[place] = _Write(after.version, self.world.now, waiting)
                self._close_if_done(place)
                return
        write = self._open.get(place)
        if write is not None and after.version >= write.version:
            write.waiting.discard(node.number)
            self._close_if_done(place)

    def _close_if_done(self, place: Place) -> None:
        write = self._open[place]
        if not write.waiting:
            del self._open[place]
            (self.beats if place.bucket == HEALTHCHECK else self.writes).append(self.world.now - write.began)

    def gone(self, number: int) -> None:
        """A node left: nobody waits for it, and what it owned need not stay."""
        for place in list(self._open):
            self._open[place].waiting.discard(number)
            self._close_if_done(place)
        self.owned = {place: owner for place, owner in self.owned.items() if owner != number}

    def wrote(self, node: Node, place: Place) -> None:
        self.owned[place] = node.number
        self.withdrawn.pop(place, None)

    def withdrew(self, place: Place, entry: Entry) -> None:
        self.owned.pop(place, None)
        self.withdrawn[place] = entry.version

    def fault(self, text: str) -> None:
        if len(self.broken) < _MOST_BROKEN:
            self.broken.append(f"{self.world.now:.3f} s: {text}")

    def unfinished(self) -> list[tuple[Place, float, int]]:
        """Writes that some node still waits for: where, for how long, and by how many."""
        return [(place, self.world.now - w.began, len(w.waiting)) for place, w in self._open.items()]

    def equal(self, nodes: Iterable[Node]) -> bool:
        """Whether all have the same entries (heartbeats not counted)."""
        roots = set()
        for node in nodes:
            held = {
                (bucket, key): entry.version
                for bucket, content in node.state.storage.items()
                if bucket != HEALTHCHECK
                for key, entry in content.items()
                if not entry.deleted
            }
            roots.add(frozenset(held.items()))
        return len(roots) <= 1

    def check_end(self, nodes: list[Node]) -> None:
        """After quiet: what must hold on every node."""
        if not self.equal(nodes):
            self.fault(f"ledgers differ at the end: {_differences(nodes)}")
        owners: dict[str, set[str]] = {}
        for node in nodes:
            for key, entry in node.state.entries(MACHINES).items():
                owners.setdefault(key, set()).add(entry.owner)
            for place, owner in self.owned.items():
                entry = node.state.get(place.bucket, place.key)
                if entry is None or entry.deleted:
                    self.fault(f"{place.bucket}/{place.key} of {owner}, which lives, is lost on {node.number}")
            for place, version in self.withdrawn.items():
                knew = self._graves.get(place, {})
                if not any(knew.get(number, 0) >= version for number in self.world.nodes):
                    continue  # all who knew of the deletion are gone, and the knowledge with them
                entry = node.state.get(place.bucket, place.key)
                if entry is not None and not entry.deleted and entry.version <= version:
                    self.fault(f"{place.bucket}/{place.key}, deleted, is back on {node.number}")
            for other in nodes:
                beat = node.state.get(HEALTHCHECK, other.peer_id)
                if beat is None or beat.deleted:
                    self.fault(f"{node.number} does not know that {other.number} lives")
        for key, found in owners.items():
            if len(found) > 1:
                self.fault(f"address {key} is owned by {len(found)}")


def _differences(nodes: list[Node]) -> str:
    held = [
        {
            (bucket, key): (entry.version, entry.owner[-4:], entry.deleted)
            for bucket, content in node.state.storage.items()
            if bucket != HEALTHCHECK
            for key, entry in content.items()
        }
        for node in nodes
    ]
    places = sorted({place for one in held for place in one})
    found = []
    for place in places:
        kinds = [one.get(place) for one in held]
        if len({kind for kind in kinds if kind is None or not kind[2]}) > 1 or len(set(kinds)) > 1:
            found.append(f"{'/'.join(place)}: {kinds[:6]}")
    return "; ".join(found[:3])
