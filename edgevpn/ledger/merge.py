"""How a received block changes the ledger: entry by entry, by the rules of each bucket.

An entry for an owned bucket (policy.py) must carry a good signature, and then

| in the ledger | a value is taken if its signer is the owner it names, and | a tombstone is taken if |
|---|---|---|
| nothing | always | never |
| a tombstone | its version is higher, whoever wrote the tombstone | it has the same author, and is higher |
| a value | it has the same owner, and (version, owner, signature) is higher | it has the same owner, and is higher |

where for "the same" it is enough that the lease of what is there has expired.

In open buckets the higher version wins, signed or not. Leases are judged by the ledger before the merge. An entry that
we have already, byte for byte, is skipped before anything else.

Under `observe` what breaks a rule is stored all the same; under `off` there are no rules: the block with the higher
index replaces ours, or at the same index the one with the higher hash (as text, not verified).

These are Go's rules. Ours beyond them, and optional: a version may not lie further ahead than `max_ahead` of our clock,
since a version of 2^64 - 1 would lock its key for ever; and a ledger takes no more than its `quota` (quota.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgevpn.ledger.leases import Leases
from edgevpn.ledger.policy import DEFAULT_TTL, Mode, Policy, owner_of, policy_of
from edgevpn.ledger.quota import Usage, needs_room
from edgevpn.proto.block import NULL_BUCKET, Block, Bucket, Storage, to_ns
from edgevpn.proto.entry import Entry, same_entry, verify_entry

MAX_AHEAD: Final = 86_400.0  # seconds

BAD_SIGNATURE: Final = "invalid signature"
UNKNOWN_TOMBSTONE: Final = "tombstone for unknown key"
FOREIGN_TOMBSTONE: Final = "tombstone by non-owner of a live entry"
STALE_TOMBSTONE: Final = "stale tombstone"
WRONG_OWNER: Final = "value owner does not match signer"
STALE_RECLAIM: Final = "stale re-claim over tombstone"
FOREIGN_LIVE: Final = "overwrite of a live entry owned by another peer"
ROLLBACK: Final = "rollback to an older version"
LOST_TIE: Final = "lost deterministic tie-break"
TOO_FAR_AHEAD: Final = "version too far ahead of our clock"
FULL: Final = "the ledger is full"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry is, or would be."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Violation:
    """An entry that broke a rule: dropped under `enforce`, stored under `observe`."""

    place: Place
    entry: Entry
    reason: str

    def __str__(self) -> str:
        return f"{self.place.bucket}/{self.place.key} from {self.entry.owner or 'nobody'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a block did. Storages are never changed in place: without `changed`, `storage` is the one given.

    `received` counts the block's entries, `identical` those we had, `older` those of which we keep a newer version: its
    sender has yet to hear of ours.
    """

    storage: Storage
    changed: Mapping[Place, Entry]
    violations: tuple[Violation, ...]
    received: int
    identical: int
    older: int


def merge_storage(
    local: Storage,
    incoming: Storage,
    *,
    mode: Mode,
    now: float,
    ttl: float = DEFAULT_TTL,
    max_ahead: float | None = None,
    usage: Usage | None = None,
) -> MergeResult:
    """Merge entries under `enforce` or `observe`. `now`: unix seconds; `ttl`, `max_ahead`: seconds (None: no bound).

    `usage`: what `local` takes of a quota; it is left as it is. None: no bound either.
    """
    if mode is Mode.OFF:
        raise ValueError("without ownership whole blocks are adopted, see adopts()")
    leases = Leases(local, now, ttl)
    highest = None if max_ahead is None else to_ns(now + max_ahead)
    changed: dict[Place, Entry] = {}
    violations: list[Violation] = []
    received = identical = older = 0
    taken: Usage | None = None  # a pass over the owners: made when an entry needs room
    for bucket, entries in incoming.items():
        policy = policy_of(bucket)
        ours: Bucket = local.get(bucket, {})
        received += len(entries)
        for key, entry in entries.items():
            existing = ours.get(key)
            if existing is not None and same_entry(existing, entry):
                identical += 1
                continue
            place = Place(bucket, key)
            if usage is not None and needs_room(key, entry, existing):
                taken = taken or usage.copy()
                if not taken.admits(key, entry, existing):
                    violations.append(Violation(place, entry, FULL))  # a bound on memory, so under observe too
                    continue
            if existing is not None and entry.version < existing.version:
                older += 1
            if highest is not None and entry.version > highest:
                reason: str | None = TOO_FAR_AHEAD
            elif policy.owned:
                reason = why_refused(bucket, key, entry, existing, policy, leases)
            elif existing is None or entry.version > existing.version:
                reason = None
            else:
                continue  # an older entry of an open bucket breaks no rule
            if reason is not None:
                violations.append(Violation(place, entry, reason))
            if reason is not None and mode is not Mode.OBSERVE:
                continue
            if taken is not None:
                taken.take(key, entry, existing)
            changed[place] = entry
    storage = with_entries(local, changed, empty=incoming) if changed else local
    return MergeResult(storage, changed, tuple(violations), received, identical, older)


def in_parts(storage: Storage, most: int) -> Iterator[Storage]:
    """Cut into storages of at most `most` entries, in order."""
    part: dict[str, dict[str, Entry]] = {}
    count = 0
    for bucket, entries in storage.items():
        for key, entry in entries.items():
            part.setdefault(bucket, {})[key] = entry
            count += 1
            if count == most:
                yield part
                part, count = {}, 0
    if part:
        yield part


def joined(results: Sequence[MergeResult], local: Storage) -> MergeResult:
    """What merging one block after the other, into `local` first, did in all."""
    changed: dict[Place, Entry] = {}
    for result in results:
        changed.update(result.changed)
    return MergeResult(
        results[-1].storage if results else local,
        changed,
        tuple(violation for result in results for violation in result.violations),
        sum(result.received for result in results),
        sum(result.identical for result in results),
        sum(result.older for result in results),
    )


def why_refused(
    bucket: str, key: str, entry: Entry, existing: Entry | None, policy: Policy, leases: Leases
) -> str | None:
    """The rule of an owned bucket that an entry breaks; None if it may be stored.

    Go checks the signature first. It costs twenty times the rest, and what a peer that lags behind sends is refused
    anyway: here it is last, so of an entry that breaks two rules another one may be named.
    """
    reason = why_not_writable(key, entry, existing, policy, leases)
    if reason is None and not verify_entry(bucket, key, entry):
        return BAD_SIGNATURE
    return reason


def why_not_writable(key: str, entry: Entry, existing: Entry | None, policy: Policy, leases: Leases) -> str | None:
    """The same without the signature: for our own entries."""
    if not entry.deleted and policy.owner_of is not None and policy.owner_of(key, entry.value) != entry.owner:
        return WRONG_OWNER
    if existing is None:
        return UNKNOWN_TOMBSTONE if entry.deleted else None
    if existing.deleted and not entry.deleted:
        return None if entry.version > existing.version else STALE_RECLAIM
    if entry.owner != owner_of(policy, key, existing) and not leases.has_expired(policy, key, existing):
        return FOREIGN_TOMBSTONE if entry.deleted else FOREIGN_LIVE
    if entry.deleted:
        return None if entry.version > existing.version else STALE_TOMBSTONE
    if entry.version < existing.version:
        return ROLLBACK
    if entry.version == existing.version and _rank(entry) <= _rank(existing):
        return LOST_TIE
    return None


def _rank(entry: Entry) -> tuple[str, bytes]:
    return entry.owner, entry.sig or b""


def with_entries(storage: Storage, entries: Mapping[Place, Entry], empty: Storage | None = None) -> Storage:
    """A storage with the entries put in. Also the buckets of `empty` that have entries will be there, as in Go."""
    buckets: dict[str, Bucket] = {name: {} if bucket is NULL_BUCKET else bucket for name, bucket in storage.items()}
    fresh: dict[str, dict[str, Entry]] = {}
    for place, entry in entries.items():
        bucket = fresh.get(place.bucket)
        if bucket is None:
            bucket = fresh[place.bucket] = dict(storage.get(place.bucket, {}))
        bucket[place.key] = entry
    buckets.update(fresh)
    for name, content in (empty or {}).items():
        if content and name not in buckets:
            buckets[name] = {}
    return buckets


def changed_entries(before: Storage, after: Storage) -> dict[Place, Entry]:
    """What `after` has that `before` had not. Buckets that the two share cost nothing."""
    return {
        Place(name, key): entry
        for name, bucket in after.items()
        if bucket is not before.get(name)
        for key, entry in bucket.items()
        if before.get(name, {}).get(key) is not entry
    }


def adopts(local: Block, incoming: Block) -> bool:
    """Without ownership: whether the incoming block replaces ours."""
    return (incoming.index, incoming.hash) > (local.index, local.hash)
