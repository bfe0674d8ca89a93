"""Merging a block that came from a peer into our storage, entry by entry.

The rules are the Go program's, entry by entry in an owned bucket: the same entry is skipped; the signature must be the
owner's; a tombstone needs an entry to delete, that is the signer's own or past its lease, and a higher version; the
owner that the value (or key) names must be the signer; a free key may be claimed, a tombstone re-claimed with a higher
version; another's entry only when its lease has ended; a lower version is a rollback; a tie goes to the higher
(owner, signature). In an open bucket the strictly higher version wins, unchecked.

`enforce` drops what breaks a rule, `observe` notes it and takes it all the same. Liveness is that of our storage before
the merge. `off` is not here: it adopts whole blocks (state.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgevpn.draft.leases import Liveness, owner_of
from edgevpn.draft.policy import Policy, policy_of
from edgevpn.draft.block import Block
from edgevpn.draft.entry import Entry, is_signed_by_owner

NS = 10**9


@dataclass(frozen=True, slots=True)
class Violation:
    """An entry that breaks a rule."""

    bucket: str
    key: str
    owner: str
    reason: str


@dataclass(slots=True)
class Merged:
    """`storage` after; `changed`: (bucket, key) that are new or different; `stale`: ours is newer than theirs."""

    storage: dict[str, dict[str, Entry]]
    changed: list[tuple[str, str]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    stale: bool = False


def merge(
    storage: Mapping[str, Mapping[str, Entry]],
    incoming: Block,
    *,
    now: float,
    ttl: float,
    observe: bool = False,
    max_ahead: float | None = None,
) -> Merged:
    """Merge `incoming` into a copy of `storage` (unix seconds, seconds).

    `max_ahead`: refuse versions further ahead of `now` than that; None: take any, as the Go program does.
    """
    merged = Merged({bucket: dict(items) for bucket, items in storage.items()})
    liveness = Liveness(storage, ttl, now)
    for bucket, items in (incoming.storage or {}).items():
        policy = policy_of(bucket)
        ours = merged.storage.get(bucket)
        for key, entry in (items or {}).items():
            if ours is None:
                ours = merged.storage[bucket] = {}
            present = ours.get(key)
            if present is not None and present.same_as(entry):
                continue
            if max_ahead is not None and entry.version > (now + max_ahead) * NS:
                reason = "version too far ahead of the clock"
                merged.violations.append(Violation(bucket, key, entry.owner, reason))
                continue
            if not policy.owned:
                if present is None or entry.version > present.version:
                    ours[key] = entry
                    merged.changed.append((bucket, key))
                else:
                    merged.stale = merged.stale or entry.version < present.version
                continue
            reason = why_not(bucket, key, entry, present, policy, liveness)
            if reason:
                merged.violations.append(Violation(bucket, key, entry.owner, reason))
                if present is not None and entry.version < present.version:
                    merged.stale = True
                if not observe:
                    continue
            ours[key] = entry
            merged.changed.append((bucket, key))
    return merged


def why_not(bucket: str, key: str, entry: Entry, present: Entry | None, policy: Policy, liveness: Liveness) -> str:
    """Why `entry` may not take the place of `present` in an owned bucket; empty when it may."""
    if not is_signed_by_owner(bucket, key, entry):
        return "invalid signature"
    if entry.deleted:
        if present is None:
            return "tombstone for unknown key"
        if entry.owner != owner_of(key, present, policy) and not liveness.expired(key, present, policy):
            return "tombstone by non-owner of a live entry"
        return "stale tombstone" if entry.version <= present.version else ""
    if policy.owner_of is not None and policy.owner_of(key, entry.value) != entry.owner:
        return "value owner does not match signer"
    if present is None:
        return ""
    if present.deleted:
        return "stale re-claim over tombstone" if entry.version <= present.version else ""
    if entry.owner != owner_of(key, present, policy) and not liveness.expired(key, present, policy):
        return "overwrite of a live entry owned by another peer"
    if entry.version < present.version:
        return "rollback to an older version"
    if entry.version == present.version:
        ours = (present.owner.encode(), present.sig or b"")
        return "" if (entry.owner.encode(), entry.sig or b"") > ours else "lost deterministic tie-break"
    return ""
