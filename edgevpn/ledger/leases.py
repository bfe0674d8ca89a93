"""Leases: who is live, and what has expired.

A node writes a heartbeat (its time, RFC 3339) into `healthcheck` under its own peer ID. It is live while that is
younger than the TTL, strictly; a heartbeat from the future counts. An entry expires with its owner; a heartbeat entry
itself by its signed UpdatedAt, and there the edge is the other one: exactly TTL old is not yet expired.

Everything is judged by one ledger (before a merge, as in Go) and one clock, in whole nanoseconds.
"""

from __future__ import annotations

from typing import Final

from edgevpn.ledger.policy import Expiry, Policy, owner_of
from edgevpn.proto.block import Storage, to_ns
from edgevpn.proto.entry import Entry
from edgevpn.proto.values import HEALTHCHECK, heartbeat_time_untrusted

_SECOND: Final = 1_000_000_000
_I64: Final = 2**63
_YEAR_1_TO_1970: Final = 62_135_596_800  # seconds


class Leases:
    """Liveness as `storage` shows it at `now` (unix seconds), with heartbeats valid for `ttl` seconds."""

    def __init__(self, storage: Storage, now: float, ttl: float) -> None:
        self._heartbeats = storage.get(HEALTHCHECK, {})
        self._now = to_ns(now)
        self._ttl = to_ns(ttl)
        self._known: dict[str, bool] = {}

    def is_live(self, owner: str) -> bool:
        """Whether the owner's heartbeat is there, not deleted, readable, and younger than the TTL."""
        live = self._known.get(owner)
        if live is None:
            live = self._known[owner] = self._look_up(owner)
        return live

    def _look_up(self, owner: str) -> bool:
        entry = self._heartbeats.get(owner)
        if entry is None or entry.deleted:
            return False
        time = heartbeat_time_untrusted(entry.value)
        return time is not None and time + self._ttl > self._now

    def live_peers(self) -> list[str]:
        """All who are live, sorted."""
        return sorted(filter(self.is_live, self._heartbeats))

    def has_expired(self, policy: Policy, key: str, entry: Entry) -> bool:
        """Whether others may take over the entry, and the leader may delete it."""
        if policy.expiry is Expiry.LIVENESS:
            return not self.is_live(owner_of(policy, key, entry))
        if policy.expiry is Expiry.ABSOLUTE:
            return is_older(entry, self._ttl, self._now)
        return False


def is_older(entry: Entry, age_ns: int, now_ns: int) -> bool:
    """Whether the entry's UpdatedAt is more than `age_ns` before `now_ns`.

    Go counts seconds from the year 1 in 64 bits: times at the far end of UpdatedAt wrap around, and are long past.
    """
    seconds = (entry.updated_at + _YEAR_1_TO_1970 + _I64) % (2 * _I64) - _I64 - _YEAR_1_TO_1970
    return seconds * _SECOND + age_ns < now_ns
