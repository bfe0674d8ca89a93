"""The ledger of one node: what it holds, and how it writes.

Storages are never changed in place, so whoever took `storage` or `block` keeps a consistent view. Under `enforce` a
write that our own rules would refuse from others is refused here: peers would drop it, and we would differ for ever.
A write's version is max(previous + 1, now in ns), so a node that lost its state still outdoes what others kept of it.

The block's hash costs a pass over all entries and is needed only to publish: it is made when `block` is asked for.
How a block is kept on disk is in snapshot.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from edgevpn.errors import EdgevpnError
from edgevpn.ledger import merge as rules, reap as cleaning
from edgevpn.ledger.leases import Leases
from edgevpn.ledger.merge import MergeResult, Place
from edgevpn.ledger.policy import DEFAULT_TTL, Mode, policy_of
from edgevpn.ledger.quota import Quota, Usage
from edgevpn.ledger.reap import ReapResult
from edgevpn.proto.block import (
    MAX_INDEX,
    MAX_NAME,
    MAX_VALUE,
    Block,
    Storage,
    checksum,
    first_block,
    timestamp_text,
)
from edgevpn.proto.entry import MAX_VERSION, Entry, same_entry, sign_entry
from edgevpn.proto.peer_key import PrivateKey


class WriteRefusedError(EdgevpnError):
    """An entry can't be written: it is another node's, or too large."""


class LedgerState:
    """The present storage, and the operations on it. Times are unix seconds, durations seconds."""

    def __init__(
        self,
        signer: PrivateKey,
        now: float,
        *,
        mode: Mode = Mode.ENFORCE,
        ttl: float = DEFAULT_TTL,
        max_ahead: float | None = rules.MAX_AHEAD,
        quota: Quota = Quota(),  # noqa: B008 - frozen
        block: Block | None = None,
    ) -> None:
        """`block`: a kept one to begin with. Under `off` the signer is not used. `max_ahead` None: no bound.

        `on_change` is called after each change with the places that changed; None: look at all of them.
        """
        self.signer: Final = signer
        self.mode: Final = mode
        self.ttl: Final = ttl
        self._max_ahead = max_ahead
        self._quota = quota
        self.on_change: Callable[[Collection[Place] | None], None] = lambda _places: None
        self._present = block or first_block(now)
        self._usage: tuple[Storage, Usage] | None = None  # what a storage takes of the quota
        self._last_block = self._present, self._present  # what was asked for last: as it was held, and with its hash

    @property
    def storage(self) -> Storage:
        """All entries, tombstones too. Not to be changed."""
        return self._present.storage

    @property
    def index(self) -> int:
        """The number of the present block; it grows with each change."""
        return self._present.index

    @property
    def block(self) -> Block:
        """The present storage as a block with its hash. May be asked for in another thread."""
        present = self._present
        made_of, block = self._last_block
        if made_of is not present:
            block = replace(present, prev_hash=block.hash)
            block = replace(block, hash=checksum(block))
            self._last_block = present, block
        return block

    @property
    def kept(self) -> Block:
        """What is to be kept on disk. With ownership without the present hash, which costs a pass and means nothing."""
        return self.block if self.mode is Mode.OFF else self._present

    def get(self, bucket: str, key: str) -> Entry | None:
        """The entry there, a tombstone too."""
        return self.storage.get(bucket, {}).get(key)

    def entries(self, bucket: str) -> dict[str, Entry]:
        """The entries of a bucket by key, without tombstones."""
        return {key: entry for key, entry in self.storage.get(bucket, {}).items() if not entry.deleted}

    def lacks(self, incoming: Block) -> bool:
        """Whether a (whole) block lacks keys that we have: its sender has yet to hear of them."""
        theirs = incoming.storage
        return any(not content.keys() <= theirs.get(bucket, {}).keys() for bucket, content in self.storage.items())

    def leases(self, now: float) -> Leases:
        """Who is live, and what has expired."""
        return Leases(self.storage, now, self.ttl)

    def restore(self, block: Block) -> None:
        """Go on from a kept block instead of what is held now."""
        self._present = block  # hash and the one before are of no meaning, until the block is asked for
        self._last_block = block, block
        self.on_change(None)

    def outdo(self, incoming: Block) -> bool:
        """Have the next block count for newer than `incoming`, which lacks something of ours; whether that was needed.

        Among nodes with ownership an index means nothing. A node without it adopts no block but one with a higher
        index: unless ours rises above its own, it hears nothing from us before we happen to have written more often.
        """
        if self.mode is Mode.OFF or not self.index <= incoming.index < MAX_INDEX or not _tells_bare(incoming):
            return False
        self._present = replace(self._present, index=incoming.index + 1)
        return True

    def _install(self, storage: Storage, now: float, places: Collection[Place] | None) -> None:
        self._count(storage, places)
        index = min(self._present.index + 1, MAX_INDEX)
        self._present = Block(index, timestamp_text(now), storage)
        self.on_change(places)

    def _count(self, storage: Storage, places: Collection[Place] | None) -> None:
        """Keep up what is taken of the quota, if it was asked for before, with what will be `storage`."""
        known, self._usage = self._usage, None
        if known is None or known[0] is not self.storage or places is None:
            return
        usage = known[1].copy()  # a thread may be judging by the other one
        for place in set(places):
            usage.take(place.key, storage.get(place.bucket, {}).get(place.key), self.get(place.bucket, place.key))
        self._usage = storage, usage

    def usage(self) -> Usage:
        """What the present storage takes of the quota; not to be changed. May be asked for in another thread."""
        storage, known = self.storage, self._usage
        if known is None or known[0] is not storage:
            known = self._usage = storage, Usage(storage, self._quota)
        return known[1]

    def announce(
        self, bucket: str, key: str, value: str, now: float, *, force: bool = False, above: int = 0
    ) -> Entry | None:
        """Write a value (JSON text). None when it stands there already as ours, unless `force` asks to sign it anew.

        `above`: a version heard of, which the new one shall outdo. Raises WriteRefusedError.
        """
        if len(bucket) > MAX_NAME or len(key) > MAX_NAME or len(value) > MAX_VALUE:
            raise WriteRefusedError(f"{bucket[:40]}/{key[:40]} is too large for the ledger: shorten it")
        existing = self.get(bucket, key)
        if existing is None and not self.usage().admits(key, Entry(value, self.signer.peer_id), None):
            raise WriteRefusedError("the ledger is full, or this node has written more than its share: delete some")
        if self.mode is Mode.OFF:
            entry = Entry(value)
            if existing == entry and not force:
                return None
        else:
            if existing is not None and self._is_ours(existing) and existing.value == value and not force:
                return None
            entry = self._signed(Place(bucket, key), value, existing, now, above=above)
        place = Place(bucket, key)
        self._install(rules.with_entries(self.storage, {place: entry}), now, (place,))
        return entry

    def _is_ours(self, entry: Entry) -> bool:
        return entry.owner == self.signer.peer_id and not entry.deleted and entry.sig is not None

    def _signed(
        self, place: Place, value: str, existing: Entry | None, now: float, *, deleted: bool = False, above: int = 0
    ) -> Entry:
        previous = max(above, 0 if existing is None else existing.version)
        if previous >= MAX_VERSION:
            raise WriteRefusedError(f"{place.bucket}/{place.key} has the last version there is: use another name")
        version = cleaning.version_after(previous, now)
        try:
            entry = sign_entry(self.signer, place.bucket, place.key, value, version, int(now // 1), deleted=deleted)
        except ValueError:
            raise WriteRefusedError(f"a value for {place.key!a} can't be written: is it Unicode?") from None
        policy = policy_of(place.bucket)
        if self.mode is Mode.ENFORCE and policy.owned:
            reason = rules.why_not_writable(place.key, entry, existing, policy, self.leases(now))
            if reason is not None:
                owner = existing.owner if existing else "another node"
                raise WriteRefusedError(f"{place.bucket}/{place.key} is not ours to write ({owner}): {reason}")
        return entry

    def delete(self, bucket: str, key: str, now: float) -> Entry | None:
        """Put a tombstone (under `off`: take the entry away) and return it; None if there was nothing to delete.

        Raises WriteRefusedError.
        """
        existing = self.get(bucket, key)
        if existing is None or existing.deleted:
            return None
        place = Place(bucket, key)
        if self.mode is Mode.OFF:
            rest = {name: entry for name, entry in self.storage[bucket].items() if name != key}
            self._install({**self.storage, bucket: rest}, now, (place,))
            return Entry("", deleted=True)
        entry = self._signed(place, "", existing, now, deleted=True)
        self._install(rules.with_entries(self.storage, {place: entry}), now, (place,))
        return entry

    def drop_bucket(self, bucket: str, now: float) -> None:
        """Under `off`: take a whole bucket away, as the leader does with the heartbeats."""
        if self.mode is not Mode.OFF:
            raise ValueError("with ownership entries are deleted one by one")
        if bucket in self.storage:
            self._install({name: content for name, content in self.storage.items() if name != bucket}, now, None)

    def merge(self, incoming: Block, now: float) -> MergeResult:
        """Take in a block from a peer."""
        result = self.judge(incoming, now)
        self.take(result, incoming, now)
        return result

    def judge(self, incoming: Block, now: float) -> MergeResult:
        """What merging a block will do. It may take long, and may run in another thread: nothing is changed."""
        if self.mode is Mode.OFF:
            return self._judge_whole(incoming)
        usage = self.usage()
        return rules.merge_storage(
            self.storage,
            incoming.storage,
            mode=self.mode,
            now=now,
            ttl=self.ttl,
            max_ahead=self._max_ahead,
            usage=usage,
        )

    def take(self, result: MergeResult, incoming: Block, now: float) -> None:
        """Do what judge() said of a block. The storage must be the one that it was judged by."""
        if self.mode is Mode.OFF:
            if result.storage is incoming.storage:
                self.restore(incoming)
        elif result.changed:
            self._install(result.storage, now, result.changed)

    def _judge_whole(self, incoming: Block) -> MergeResult:
        changed: dict[Place, Entry] = {}
        identical = 0
        for bucket, entries in incoming.storage.items():
            for key, entry in entries.items():
                existing = self.get(bucket, key)
                if existing is not None and same_entry(existing, entry):
                    identical += 1
                else:
                    changed[Place(bucket, key)] = entry
        received = identical + len(changed)
        if not rules.adopts(self.block, incoming):
            behind = int(incoming.index < self.index)
            return MergeResult(self.storage, {}, (), received, identical, behind)
        return MergeResult(incoming.storage, changed, (), received, identical, 0)

    def reap(self, now: float, tombstone_ttl: float = cleaning.TOMBSTONE_TTL) -> ReapResult:
        """The leader's clean-up; under `off` there is none."""
        if self.mode is Mode.OFF:
            return ReapResult(self.storage, {}, ())
        result = cleaning.reap(self.storage, self.signer, now, self.ttl, tombstone_ttl)
        if result.storage is not self.storage:
            self._install(result.storage, now, (*result.tombstones, *result.dropped))
        return result

    def partial_block(self, entries: Mapping[Place, Entry], now: float) -> Block:
        """A block of some entries, to tell only those: it merges like a whole one.

        Its index is 0, so that a node without ownership, to which blocks are all or nothing, passes it by.
        """
        return Block(0, timestamp_text(now), rules.with_entries({}, entries), "", "")


def _tells_bare(block: Block) -> bool:
    """Whether its sender does without ownership, or takes in what such nodes write: entries nobody has signed."""
    return any(
        entry.is_bare and not entry.deleted
        for bucket, entries in block.storage.items()
        if policy_of(bucket).owned
        for entry in entries.values()
    )
