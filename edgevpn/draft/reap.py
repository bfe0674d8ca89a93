"""The leader's clean-up: tombstones over entries past their lease, and the end of tombstones everyone has seen."""

from __future__ import annotations

from collections.abc import Mapping

from edgevpn.draft.leases import Liveness
from edgevpn.draft.policy import Lease, policy_of
from edgevpn.draft.entry import Entry, sign
from edgevpn.draft.peer_key import PrivateKey

NS = 10**9


def next_version(previous: int, now_ns: int) -> int:
    """The version of a write: one more, or the clock in nanoseconds if that is ahead. Wraps as a u64 does."""
    return max((previous + 1) & (2**64 - 1), now_ns)


def tombstone(bucket: str, key: str, over: Entry, signer: PrivateKey, now_ns: int) -> Entry:
    """A signed tombstone over an entry."""
    blank = Entry(version=next_version(over.version, now_ns), updated_at=now_ns // NS, deleted=True)
    return sign(bucket, key, blank, signer)


def reap(
    storage: Mapping[str, Mapping[str, Entry]], signer: PrivateKey, *, now_ns: int, ttl: float, tombstone_ttl: float
) -> tuple[dict[str, dict[str, Entry]], bool]:
    """(storage after, whether anything changed)."""
    now = now_ns / NS
    after = {bucket: dict(items) for bucket, items in storage.items()}
    liveness = Liveness(storage, ttl, now)
    changed = False
    for bucket, items in storage.items():
        policy = policy_of(bucket)
        for key, entry in items.items():
            if entry.deleted:
                if entry.updated_at + tombstone_ttl < now:
                    del after[bucket][key]
                    changed = True
            elif policy.owned and policy.lease is not Lease.NEVER and liveness.expired(key, entry, policy):
                after[bucket][key] = tombstone(bucket, key, entry, signer, now_ns)
                changed = True
    return after, changed
