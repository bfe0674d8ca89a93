"""How much a ledger takes in: a bound on memory, whoever writes.

A member may sign what it likes, under as many keys as it likes. So all entries together are bounded, in number and in
bytes, and so is what one owner has (the unsigned entries are one owner's). What would go beyond is refused with the
reason `FULL`; what is there already may be replaced by something no larger. An entry's bytes are those of its texts,
and its signature's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgevpn.proto.block import MAX_ENTRIES, Storage
from edgevpn.proto.entry import Entry

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_OWNED_ENTRIES: Final = 1024
MAX_OWNED_BYTES: Final = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Quota:
    """Bounds of one ledger: entries and bytes, of all and of one owner."""

    entries: int = MAX_ENTRIES
    bytes: int = MAX_BYTES
    owned_entries: int = MAX_OWNED_ENTRIES
    owned_bytes: int = MAX_OWNED_BYTES


def size_of(key: str, entry: Entry) -> int:
    return len(key) + len(entry.value) + len(entry.owner) + len(entry.sig or b"")


class Usage:
    """What a storage takes of a quota, kept up while entries are let in. To make one is a pass over all entries."""

    def __init__(self, storage: Storage, quota: Quota) -> None:
        self._quota = quota
        self._entries = self._bytes = 0
        self._owned: dict[str, tuple[int, int]] = {}
        for content in storage.values():
            for key, entry in content.items():
                self._add(key, entry, 1)

    def copy(self) -> Usage:
        """One of its own; a pass over the owners."""
        other = Usage({}, self._quota)
        other._entries, other._bytes, other._owned = self._entries, self._bytes, self._owned.copy()
        return other

    def _add(self, key: str, entry: Entry, sign: int) -> None:
        size = sign * size_of(key, entry)
        count, total = self._owned.get(entry.owner, (0, 0))
        if count + sign:
            self._owned[entry.owner] = (count + sign, total + size)
        else:
            self._owned.pop(entry.owner, None)
        self._entries += sign
        self._bytes += size

    def admits(self, key: str, entry: Entry, existing: Entry | None) -> bool:
        """Whether there is room for the entry in the place of `existing`."""
        before = 0 if existing is None else size_of(key, existing)
        more = size_of(key, entry) - before
        count, total = self._owned.get(entry.owner, (0, 0))
        new_here = existing is None
        new_owned = new_here or (existing is not None and existing.owner != entry.owner)
        grows = more > 0
        quota = self._quota
        if new_here and self._entries >= quota.entries:
            return False
        if grows and self._bytes + more > quota.bytes:
            return False
        if new_owned and not entry.deleted and count >= quota.owned_entries:
            return False
        return not (grows or new_owned) or entry.deleted or total + max(more, 0) <= quota.owned_bytes

    def take(self, key: str, entry: Entry | None, existing: Entry | None) -> None:
        """It counts from now on (None: nothing does), and `existing` no more."""
        if existing is not None:
            self._add(key, existing, -1)
        if entry is not None:
            self._add(key, entry, 1)


def needs_room(key: str, entry: Entry, existing: Entry | None) -> bool:
    """Whether an entry takes more than what it replaces: only then a quota has a say."""
    return existing is None or existing.owner != entry.owner or size_of(key, entry) > size_of(key, existing)
