"""The leader's clean-up: what expired gets a tombstone, and tombstones that all have seen are dropped.

The leader does this every 10 minutes. A tombstone has the next version, an empty value and the leader's signature; it
is kept for three times the longest heartbeat age (2700 s), so that a node which still holds the deleted entry can't
bring it back. Old tombstones are dropped from all buckets, values expire in owned ones only. Leases are judged by the
ledger before the clean-up, so a dead node's heartbeat and its entries go together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from edgevpn.ledger.leases import Leases, is_older
from edgevpn.ledger.merge import Place
from edgevpn.ledger.policy import DEFAULT_TTL, policy_of
from edgevpn.proto.block import Bucket, Storage, to_ns
from edgevpn.proto.entry import MAX_VERSION, Entry, sign_entry
from edgevpn.proto.peer_key import PrivateKey

TOMBSTONE_TTL: Final = 2700.0  # seconds


@dataclass(frozen=True, slots=True)
class ReapResult:
    """`tombstones`: those written; `dropped`: places whose old tombstone is gone. Without both, nothing changed."""

    storage: Storage
    tombstones: Mapping[Place, Entry]
    dropped: tuple[Place, ...]


def version_after(previous: int, now: float) -> int:
    """The version of a write: one more than the previous, and at least the time in ns; it wraps at 64 bits as Go's."""
    return max((previous + 1) & MAX_VERSION, to_ns(now))


def tombstone(signer: PrivateKey, place: Place, previous: Entry, now: float) -> Entry:
    """A signed deletion of `previous`."""
    version = version_after(previous.version, now)
    return sign_entry(signer, place.bucket, place.key, "", version, int(now // 1), deleted=True)


def reap(
    storage: Storage, signer: PrivateKey, now: float, ttl: float = DEFAULT_TTL, tombstone_ttl: float = TOMBSTONE_TTL
) -> ReapResult:
    """Clean up (not under `--ownership off`). Times in seconds."""
    leases = Leases(storage, now, ttl)
    tombstones: dict[Place, Entry] = {}
    dropped: list[Place] = []
    cleaned: dict[str, Bucket] = {}
    for bucket, entries in storage.items():
        policy = policy_of(bucket)
        kept: dict[str, Entry] = {}
        for key, entry in entries.items():
            place = Place(bucket, key)
            if entry.deleted:
                if is_older(entry, to_ns(tombstone_ttl), to_ns(now)):
                    dropped.append(place)
                    continue
            elif policy.owned and leases.has_expired(policy, key, entry):
                entry = tombstones[place] = tombstone(signer, place, entry, now)  # noqa: PLW2901
            kept[key] = entry
        cleaned[bucket] = kept
    return ReapResult(cleaned if tombstones or dropped else storage, tombstones, tuple(dropped))
