"""Who is live, and which entries are past their lease.

An owner is live while its heartbeat is younger than the TTL; heartbeats from the future count as live. An entry of
the healthcheck bucket itself expires a TTL after its `updated_at`.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgevpn.draft.policy import Lease, Policy
from edgevpn.draft.entry import Entry
from edgevpn.draft.values import HEALTHCHECK, heartbeat_time_untrusted


class Liveness:
    """Liveness as a ledger's healthcheck bucket has it at `now` (unix seconds)."""

    def __init__(self, storage: Mapping[str, Mapping[str, Entry]], ttl: float, now: float) -> None:
        self._heartbeats = storage.get(HEALTHCHECK, {})
        self._ttl = ttl
        self._now = now
        self._known: dict[str, bool] = {}

    def is_live(self, owner: str) -> bool:
        live = self._known.get(owner)
        if live is None:
            entry = self._heartbeats.get(owner)
            beat = heartbeat_time_untrusted(entry.value) if entry is not None and not entry.deleted else None
            live = self._known[owner] = beat is not None and beat + self._ttl > self._now
        return live

    def expired(self, key: str, entry: Entry, policy: Policy) -> bool:
        """Whether the entry's lease has ended."""
        if policy.lease is Lease.ABSOLUTE:
            return entry.updated_at + self._ttl < self._now
        if policy.lease is Lease.LIVENESS:
            return not self.is_live(owner_of(key, entry, policy))
        return False


def owner_of(key: str, entry: Entry, policy: Policy) -> str:
    """Who an entry belongs to: its signer, or for an unsigned one whoever its value (or key) names."""
    if entry.owner or policy.owner_of is None:
        return entry.owner
    return policy.owner_of(key, entry.value)
