"""The ledger as one node holds it: its last block, and what changes it. Pure: everything takes the time.

Under `enforce` and `observe` blocks of peers are merged entry by entry (merge.py), under `off` a higher one is adopted
whole. Every change makes a new block. A snapshot for the disk is

    "EVPNLEDG" u32(version) sha256(payload) payload        payload: the block's JSON, gzip
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Mapping

from edgevpn.draft import block as blocks
from edgevpn.draft.block import Block
from edgevpn.draft.entry import Entry, sign
from edgevpn.draft.merge import Merged, merge
from edgevpn.draft.peer_key import PrivateKey
from edgevpn.draft.reap import NS, next_version, reap, tombstone
from edgevpn.errors import UntrustedDataError

MAX_AHEAD = 86400.0  # seconds a version may be ahead of our clock
_MAGIC = b"EVPNLEDG"
_VERSION = 1
_HEADER = len(_MAGIC) + 4 + 32
MAX_SNAPSHOT = 256 * 1024 * 1024


class LedgerState:
    """Storage, signer and rules. Times are nanoseconds since 1970."""

    def __init__(self, mode: str, ttl: float, signer: PrivateKey | None, now_ns: int) -> None:
        """`mode`: enforce, observe or off (then `signer` is not used)."""
        self.mode = mode
        self.ttl = ttl
        self._signer = signer if mode != "off" else None
        self.block = Block(timestamp=blocks.go_time(now_ns))
        self._storage: dict[str, dict[str, Entry]] = {}

    @property
    def storage(self) -> Mapping[str, Mapping[str, Entry]]:
        """All entries, tombstones too, by bucket and key."""
        return self._storage

    def entries(self, bucket: str) -> dict[str, Entry]:
        """The bucket's entries that are not tombstones."""
        return {key: entry for key, entry in self._storage.get(bucket, {}).items() if not entry.deleted}

    def announce(self, bucket: str, key: str, value: str, now_ns: int, *, renew: bool = False) -> bool:
        """Write an entry of ours; False when it is there already and need not be signed anew."""
        present = self._storage.get(bucket, {}).get(key, Entry())
        if self._signer is None:
            if present.value == value and key in self._storage.get(bucket, {}):
                return False
            self._put(bucket, key, Entry(value=value), now_ns)
            return True
        unchanged = present.owner == self._signer.peer_id and not present.deleted and present.value == value
        if unchanged and present.sig is not None and not renew:
            return False
        blank = Entry(value=value, version=next_version(present.version, now_ns), updated_at=now_ns // NS)
        self._put(bucket, key, sign(bucket, key, blank, self._signer), now_ns)
        return True

    def withdraw(self, bucket: str, key: str, now_ns: int) -> bool:
        """Delete an entry by a tombstone (under `off`: plainly); False when there is none."""
        present = self._storage.get(bucket, {}).get(key)
        if present is None or present.deleted:
            return False
        if self._signer is None:
            del self._storage[bucket][key]
            self._new_block(now_ns)
        else:
            self._put(bucket, key, tombstone(bucket, key, present, self._signer, now_ns), now_ns)
        return True

    def merge(self, incoming: Block, now_ns: int) -> Merged:
        """Take in a peer's block."""
        if self.mode == "off":
            after = blocks.adopt_higher(self.block, incoming)
            merged = Merged(self._storage, stale=incoming.index < self.block.index)
            if after is not self.block:
                before = self._storage
                self._storage = after.buckets()
                self.block = after
                merged.storage = self._storage
                names = {(b, k) for b, items in (*before.items(), *self._storage.items()) for k in items}
                merged.changed = [
                    (b, k) for b, k in sorted(names) if before.get(b, {}).get(k) != self._storage.get(b, {}).get(k)
                ]
            return merged
        merged = merge(
            self._storage,
            incoming,
            now=now_ns / NS,
            ttl=self.ttl,
            observe=self.mode == "observe",
            max_ahead=MAX_AHEAD,
        )
        if merged.changed:
            self._storage = merged.storage
            self._new_block(now_ns)
        return merged

    def lacks(self, incoming: Block) -> bool:
        """Whether `incoming` lacks entries that we have: its sender does not know all that we do."""
        theirs = incoming.storage or {}
        return any(key not in (theirs.get(bucket) or {}) for bucket, items in self._storage.items() for key in items)

    def reap(self, tombstone_ttl: float, now_ns: int) -> bool:
        """The leader's clean-up; whether anything changed."""
        if self._signer is None:
            return False
        self._storage, changed = reap(
            self._storage, self._signer, now_ns=now_ns, ttl=self.ttl, tombstone_ttl=tombstone_ttl
        )
        if changed:
            self._new_block(now_ns)
        return changed

    def _put(self, bucket: str, key: str, entry: Entry, now_ns: int) -> None:
        self._storage.setdefault(bucket, {})[key] = entry
        self._new_block(now_ns)

    def _new_block(self, now_ns: int) -> None:
        # The hash is looked at under `off` only; over a large ledger it would be the cost of every write.
        made = Block(self.block.index + 1, blocks.go_time(now_ns), self._storage, "", self.block.hash)
        digest = blocks.checksum(made) if self.mode == "off" else self.block.hash
        self.block = Block(made.index, made.timestamp, self._storage, digest, made.prev_hash)

    # --- the disk

    def write_snapshot(self) -> bytes:
        payload = gzip.compress(blocks.write(self.block), 1)
        return _MAGIC + _VERSION.to_bytes(4, "big") + hashlib.sha256(payload).digest() + payload

    def load_snapshot_untrusted(self, data: bytes) -> None:
        """Start from a snapshot. Raises UntrustedDataError: torn, foreign, of another version, or too large."""
        if len(data) > MAX_SNAPSHOT:
            raise UntrustedDataError("it is too large")
        if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
            raise UntrustedDataError("it is not a ledger of edgevpn")
        if len(data) < _HEADER:
            raise UntrustedDataError("it is torn")
        if int.from_bytes(data[8:12], "big") != _VERSION:
            raise UntrustedDataError("it is of another version")
        payload = data[_HEADER:]
        if hashlib.sha256(payload).digest() != data[12:_HEADER]:
            raise UntrustedDataError("it is torn")
        try:
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            text = unpacker.decompress(payload, MAX_SNAPSHOT)
        except zlib.error:
            raise UntrustedDataError("it is torn") from None
        block = blocks.read_untrusted(text)
        self.block = block
        self._storage = block.buckets()
