"""What a node writes of itself, and when: its announcements, its heartbeat, and, as the leader, the clean-up.

Announcements (machines, mostly) are written where they are missing or another's, again and again: a tombstone or an
older state may have hit them. What belongs to another live node is left alone and told once. An entry of ours that a
leader buried, who had not heard our heartbeat, is signed anew: under a higher version, else it stays buried there.

The heartbeat is renewed at intervals drawn from the half to the one and a half of `heartbeat_interval`, as in Go; in a
network of more than LARGE nodes, after 1.5 to 2.5 of it, if the owners' time to live is four intervals or more. After
one, every `scrub_interval`, whoever leads (leader.py) puts tombstones over what has expired (reap.py). Pure: the caller
sleeps until `next_wakeup` and asks `expire`; what was written comes back, to be told.

When time went on without us (clock_jump.py) all heartbeats but ours look old, those of nodes that live, too. So the
clean-up then waits until each that lives has had the time to be heard, and our own heartbeat is renewed at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from edgevpn.ledger.leader import available_peers, leader_of
from edgevpn.ledger.merge import TOO_FAR_AHEAD, Place, Violation
from edgevpn.ledger.policy import Expiry, Mode, policy_of
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto.clock_jump import ClockLooks
from edgevpn.proto.entry import Entry, verify_entry
from edgevpn.proto.values import HEALTHCHECK, write_heartbeat

LARGE: Final = 200  # heartbeats in the ledger


@dataclass(frozen=True, slots=True)
class Written:
    """`urgent`: not just a heartbeat renewed. `conflicts`: places that another live node has, told the first time."""

    entries: Mapping[Place, Entry] = field(default_factory=dict)
    urgent: bool = False
    conflicts: tuple[Place, ...] = ()


class OwnEntries:
    """Writes into `state`. `now` is seconds of a monotonic clock, `wall` unix seconds, intervals in seconds."""

    def __init__(
        self,
        state: LedgerState,
        chance: random.Random,
        now: float,
        wall: float,
        *,
        announce_interval: float,
        heartbeat_interval: float,
        scrub_interval: float,
        max_heartbeat_age: float,
        heartbeats: bool = True,
    ) -> None:
        """`heartbeats`: False for a node that tells it is alive only while an entry of its own expires without."""
        self.announcements: dict[Place, str] = {}  # values (JSON text) by place
        self._state: Final = state
        self._chance = chance
        self._peer_id = state.signer.peer_id
        self._announce_interval = announce_interval
        self._heartbeat_interval = heartbeat_interval
        self._scrub_interval = scrub_interval
        self._max_heartbeat_age = max_heartbeat_age
        self._heartbeats = heartbeats
        self._conflicts: set[Place] = set()
        self._announce_at = now + announce_interval
        self._beat_at = now + self._until_beat()
        self._scrubbed = wall
        self._looks = ClockLooks(now, wall)
        self._looked, self._due = now, self.next_wakeup()

    def _until_beat(self) -> float:
        interval = self._heartbeat_interval
        if len(self._state.storage.get(HEALTHCHECK, {})) > LARGE and 4 * interval <= self._state.ttl:
            return interval * (1.5 + self._chance.random())
        return interval * (0.5 + self._chance.random())

    def announce(self, wall: float) -> Written:
        """Our announcements and heartbeat, where they are missing or another's."""
        entries: dict[Place, Entry] = {}
        conflicts: list[Place] = []
        for place, value in self.announcements.items():
            try:
                entry = self._state.announce(place.bucket, place.key, value, wall)
            except WriteRefusedError:
                if place not in self._conflicts:
                    self._conflicts.add(place)
                    conflicts.append(place)
                continue
            self._conflicts.discard(place)
            if entry is not None:
                entries[place] = entry
        heartbeat = self._state.get(HEALTHCHECK, self._peer_id)
        if heartbeat is None or heartbeat.deleted:
            entries |= self._beat(wall)
        return Written(entries, bool(entries), tuple(conflicts))

    def _tells_alive(self) -> bool:
        return self._heartbeats or any(
            entry.owner == self._peer_id and not entry.deleted
            for name, bucket in self._state.storage.items()
            if policy_of(name).expiry is Expiry.LIVENESS
            for entry in bucket.values()
        )

    def _beat(self, wall: float) -> dict[Place, Entry]:
        if not self._tells_alive():
            return {}
        try:
            entry = self._state.announce(HEALTHCHECK, self._peer_id, write_heartbeat(wall), wall)
        except WriteRefusedError:  # the ledger is full
            return {}
        return {} if entry is None else {Place(HEALTHCHECK, self._peer_id): entry}

    def renew_buried(self, violations: Iterable[Violation], wall: float) -> Written:
        """Sign anew what others put a tombstone on that we refused."""
        entries: dict[Place, Entry] = {}
        for violation in violations:
            place = violation.place
            ours = self._state.get(place.bucket, place.key)
            if not violation.entry.deleted or violation.reason == TOO_FAR_AHEAD:
                continue  # no value of ours is buried, or our rules and those of all nodes of ours pass it by
            if ours is None or ours.owner != self._peer_id or ours.deleted or ours.version > violation.entry.version:
                continue
            if not verify_entry(place.bucket, place.key, violation.entry):
                continue
            try:
                entry = self._state.announce(
                    place.bucket, place.key, ours.value, wall, force=True, above=violation.entry.version
                )
            except WriteRefusedError:
                continue
            if entry is not None:
                entries[place] = entry
        return Written(entries, bool(entries))

    def resume(self, now: float, share: float) -> None:
        """Go on as if `share` (0 to 1) of the time until the next heartbeat were over."""
        self._beat_at = now + self._until_beat() * (1 - share)

    def next_wakeup(self) -> float:
        return min(self._announce_at, self._beat_at)

    def expire(self, now: float, wall: float) -> Written:
        """Let time pass."""
        written = Written()
        if self._looks.look(now, wall, max(0.0, self._due - self._looked)) is not None:
            self._scrubbed = wall + max(0.0, self._state.ttl - self._scrub_interval)
            self._beat_at = now
        self._looked = now
        if now >= self._announce_at:
            self._announce_at = now + self._announce_interval
            written = self.announce(wall)
        if now >= self._beat_at:
            self._beat_at = now + self._until_beat()
            entries = dict(written.entries) | self._beat(wall)
            cleaned = self._clean_up(wall)
            written = Written(entries | cleaned, written.urgent or bool(cleaned), written.conflicts)
        self._due = self.next_wakeup()
        return written

    def _clean_up(self, wall: float) -> dict[Place, Entry]:
        """As the leader: tombstones over what has expired. Without ownership the heartbeats start anew."""
        if wall - self._scrubbed < self._scrub_interval:
            return {}
        self._scrubbed = wall
        peers = available_peers(self._state.storage, wall, self._max_heartbeat_age)
        if leader_of(peers) != self._peer_id:
            return {}
        if self._state.mode is Mode.OFF:
            self._state.drop_bucket(HEALTHCHECK, wall)
            return self._beat(wall)
        return dict(self._state.reap(wall, 3 * self._max_heartbeat_age).tombstones)
