"""A ledger as a file: bytes that tell whether they are whole, and of which network.

    "edgevpn ledger 2" LF | network tag, 16 bytes | u64be length | SHA-256 of tag and JSON | JSON of the block

The tag (edgevpn/proto/network_tag.py) keeps the ledger of one network out of another; what never leaves its node's run
directory has NO_TAG. The checksum finds what was cut or damaged; who wrote an entry is told by the entry's signature.

What a node kept while it was away may be long gone elsewhere, its tombstones too. So `still_valid` leaves out what has
expired by its lease: were it told again, a live owner's deleted entry would come back.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Final

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.leases import Leases, is_older
from edgevpn.ledger.policy import policy_of
from edgevpn.ledger.reap import TOMBSTONE_TTL
from edgevpn.proto.block import MAX_BLOCK_SIZE, MAX_ENTRIES, Block, Bucket, read_block_untrusted, to_ns, write_block
from edgevpn.proto.network_tag import TAG_SIZE

NO_TAG: Final = bytes(TAG_SIZE)

_MAGIC: Final = b"edgevpn ledger 2\n"
_FAMILY: Final = b"edgevpn ledger "
_HEAD: Final = struct.Struct(f">{TAG_SIZE}sQ32s")
MAX_SIZE: Final = len(_MAGIC) + _HEAD.size + MAX_BLOCK_SIZE  # bytes of a file; read one more to see that it is larger


def write_snapshot(block: Block, tag: bytes = NO_TAG) -> bytes:
    """A file's content that read_snapshot_untrusted takes."""
    return with_head(write_block(block), tag)


def with_head(content: bytes, tag: bytes) -> bytes:
    """The file for a block's JSON."""
    return _MAGIC + _HEAD.pack(tag, len(content), hashlib.sha256(tag + content).digest()) + content


def read_snapshot_untrusted(
    data: bytes, tag: bytes = NO_TAG, *, max_size: int = MAX_BLOCK_SIZE, max_entries: int = MAX_ENTRIES
) -> Block:
    """The block of a snapshot of the network `tag`. Raises UntrustedDataError: what is wrong with the file.

    `max_size`: bytes of the block's JSON.
    """
    if not data:
        raise UntrustedDataError("it is empty")
    if not data.startswith(_MAGIC):
        if _MAGIC.startswith(data):
            raise UntrustedDataError("it is cut short")
        if data.startswith(_FAMILY):
            raise UntrustedDataError("it is of another version of the format")
        raise UntrustedDataError("it is not a ledger")
    start = len(_MAGIC) + _HEAD.size
    if len(data) < start:
        raise UntrustedDataError("it is cut short")
    found, size, digest = _HEAD.unpack_from(data, len(_MAGIC))
    if size > max_size:
        raise UntrustedDataError(f"it is larger than {max_size} bytes")
    content = data[start:]
    if len(content) < size:
        raise UntrustedDataError("it is cut short")
    if len(content) > size:
        raise UntrustedDataError("it has something behind its end")
    if hashlib.sha256(found + content).digest() != digest:
        raise UntrustedDataError("it is damaged: its checksum is wrong")
    if found != tag:
        raise UntrustedDataError("it is another network's")
    return read_block_untrusted(content, max_size=max_size, max_entries=max_entries)


def still_valid(block: Block, now: float, ttl: float, mine: str) -> Block:
    """The block without what has expired: others' entries by their leases (`ttl` seconds), and old tombstones.

    Entries of the peer `mine` stay: it is here to answer for them.
    """
    leases = Leases(block.storage, now, ttl)
    storage: dict[str, Bucket] = {}
    for bucket, entries in block.storage.items():
        policy = policy_of(bucket)
        kept = {
            key: entry
            for key, entry in entries.items()
            if (
                not is_older(entry, to_ns(TOMBSTONE_TTL), to_ns(now))
                if entry.deleted
                else entry.owner == mine or not policy.owned or not leases.has_expired(policy, key, entry)
            )
        }
        if kept:
            storage[bucket] = kept
    return replace(block, storage=storage)
