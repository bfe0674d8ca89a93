"""The ledger's `dns` bucket as the DNS server takes it: not more than it can use, and each owner in turn.

One member can write thousands of patterns. So that it does not crowd out the others, every owner's shortest pattern
comes first, then every owner's second one, and so on; what is over the bound is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgevpn.proto.block import Storage
from edgevpn.proto.values import DNS

MAX_ENTRIES: Final = 1024
MAX_KEY: Final = 255  # characters
MAX_VALUE: Final = 8192


@dataclass(frozen=True, slots=True)
class DnsEntry:
    """A pattern's JSON as it stands in the ledger, and who signed it."""

    value: str
    owner: str


def dns_entries(storage: Storage, limit: int = MAX_ENTRIES) -> dict[str, DnsEntry]:
    """The entries by pattern, in the order in which they are to be taken."""
    by_owner: dict[str, list[tuple[int, str, DnsEntry]]] = {}
    for key, entry in storage.get(DNS, {}).items():
        if not entry.deleted and len(key) <= MAX_KEY and len(entry.value) <= MAX_VALUE:
            by_owner.setdefault(entry.owner, []).append((len(key), key, DnsEntry(entry.value, entry.owner)))
    turns = []
    for owner, entries in by_owner.items():
        entries.sort(key=lambda one: one[:2])
        turns += [(turn, length, key, owner, entry) for turn, (length, key, entry) in enumerate(entries[:limit])]
    turns.sort(key=lambda one: one[:4])
    return {key: entry for _, _, key, _, entry in turns[:limit]}
