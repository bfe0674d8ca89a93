"""What the ledger actor shows of the ledger: one state for each thing that somebody else follows.

    routes                           which peer has which address
    dns                              the patterns of the bucket `dns`, in the order to take them
    buckets                          a mark for each bucket that changes with it, for who asks for the whole then
    users, services, files, egress   the entries of these buckets, by key
    trust                            those of the trust zone, with --peerguard

Storages share the buckets that did not change, so what is made of one bucket is made anew only when that one changed.
"""

from __future__ import annotations

import time

from edgevpn.actors.mailbox import Mailbox
from edgevpn.ledger.dns_entries import dns_entries
from edgevpn.ledger.routes import routing_table
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Storage
from edgevpn.proto.entry import Entry
from edgevpn.proto.messages import BucketMark, DnsPattern, LedgerEntry, Route
from edgevpn.proto.values import DNS, EGRESS, FILES, SERVICES, TRUSTZONE, TRUSTZONE_AUTH, USERS

_SHOWN = (USERS, SERVICES, FILES, EGRESS)
_OF_TRUST = (TRUSTZONE, TRUSTZONE_AUTH)


class LedgerViews:
    """The states, kept up with `state` by `show`."""

    def __init__(self, mailbox: Mailbox, state: LedgerState, *, peerguard: bool) -> None:
        self._state = state
        self._routes = mailbox.state("routes")
        self._dns = mailbox.state("dns")
        self._buckets = mailbox.state("buckets")
        self._shown = {bucket: mailbox.state(bucket) for bucket in _SHOWN}
        self._trust = mailbox.state("trust") if peerguard else None
        self._before: Storage = {}

    def show(self) -> None:
        """Bring the states up to date."""
        storage = self._state.storage
        table = routing_table(storage, time.time(), self._state.ttl, self._state.mode)
        self._routes.replace({address: Route(route.peer_id, route.hostname) for address, route in table.items()})
        if self._has_changed(DNS):
            found = dns_entries(storage)
            self._dns.replace({key: DnsPattern(one.value, place) for place, (key, one) in enumerate(found.items())})
        for bucket, shown in self._shown.items():
            if self._has_changed(bucket):
                shown.replace({key: entry_told(bucket, key, one) for key, one in self._state.entries(bucket).items()})
        if self._trust is not None and any(map(self._has_changed, _OF_TRUST)):
            told = [entry for bucket in _OF_TRUST for entry in bucket_told(storage, bucket) if not entry.deleted]
            self._trust.replace({f"{entry.bucket}/{entry.key}": entry for entry in told})
        self._mark_buckets()
        self._before = storage

    def _has_changed(self, bucket: str) -> bool:
        return self._state.storage.get(bucket) is not self._before.get(bucket)

    def _mark_buckets(self) -> None:
        storage, marks = self._state.storage, self._buckets.items
        for name, content in storage.items():
            if self._has_changed(name):
                before = marks.get(name)
                change = before.change + 1 if isinstance(before, BucketMark) else 1
                self._buckets.put(name, BucketMark(sum(not entry.deleted for entry in content.values()), change))
        for name in [name for name in marks if name not in storage]:
            self._buckets.remove(name)


def entry_told(bucket: str, key: str, entry: Entry) -> LedgerEntry:
    return LedgerEntry(bucket, key, entry.value, entry.owner, entry.version, entry.updated_at, entry.deleted)


def bucket_told(storage: Storage, bucket: str) -> list[LedgerEntry]:
    """The entries of a bucket, deleted ones too, by key."""
    return [entry_told(bucket, key, entry) for key, entry in sorted(storage.get(bucket, {}).items())]
