"""A block: the whole ledger as one node holds it, buckets of keys of entries, with a number and a hash.

    {"Index": 3, "Timestamp": "...", "Storage": {bucket: {key: entry}}, "Hash": "<hex>", "PrevHash": "<hex>"}

The hash is the SHA-256 of Go's `fmt.Sprint(Index, Timestamp, Storage, PrevHash)`, that is, with nothing between them,
the number, the time, `map[bucket:map[key:{value owner version updated true|false [sig bytes in decimal]} ...] ...]`
with keys in byte order, and the previous hash. It is integrity only: receivers do not check it, and only `--ownership
off` looks at it (as text). The first block carries the hash of the empty one.

JSON is written byte for byte as Go writes it, and read as Go reads it (go_json.py), within bounds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_json
from edgevpn.proto.entry import Entry, entry_from_json_untrusted, entry_to_json

Bucket: TypeAlias = Mapping[str, Entry]
Storage: TypeAlias = Mapping[str, Bucket]

# Go tells a null map from an empty one when it writes; to readers both are empty. Compared by identity.
NULL_BUCKET: Final[Bucket] = MappingProxyType({})
NULL_STORAGE: Final[Storage] = MappingProxyType({})

MAX_BLOCK_SIZE: Final = 32 * 1024 * 1024  # characters of JSON
MAX_ENTRIES: Final = 65_536  # of one block, all buckets together
MAX_NAME: Final = 4096  # characters of a bucket's name or a key
MAX_VALUE: Final = 1024 * 1024  # characters of an entry's value

MAX_INDEX: Final = 2**63 - 1

_DECIMAL: Final = tuple(str(byte) for byte in range(256))
_STRUCTURE_PER_ENTRY: Final = 16  # commas and brackets, those inside a typical value counted


@dataclass(frozen=True, slots=True)
class Block:
    """The fields of the JSON above. `storage` is not changed once it is in a block."""

    index: int = 0
    timestamp: str = ""
    storage: Storage = field(default_factory=lambda: NULL_STORAGE)
    hash: str = ""
    prev_hash: str = ""


def hash_input(block: Block) -> bytes:
    """What is hashed: Go's fmt.Sprint of the block's fields but the hash."""
    buckets = []
    for bucket in sorted(block.storage):
        entries = [f"{key}:{_sprint(entry)}" for key, entry in sorted(block.storage[bucket].items())]
        buckets.append(f"{bucket}:map[{' '.join(entries)}]")
    return f"{block.index}{block.timestamp}map[{' '.join(buckets)}]{block.prev_hash}".encode()


def _sprint(entry: Entry) -> str:
    sig = " ".join([_DECIMAL[byte] for byte in entry.sig or b""])
    deleted = "true" if entry.deleted else "false"
    return f"{{{entry.value} {entry.owner} {entry.version} {entry.updated_at} {deleted} [{sig}]}}"


def checksum(block: Block) -> str:
    """The hash that the block should carry, hex."""
    return hashlib.sha256(hash_input(block)).hexdigest()


def timestamp_text(now: float) -> str:
    """Go's time.String() in UTC of a unix time: the fraction without trailing zeros, none when it is zero."""
    nanoseconds = to_ns(now)
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    if fraction:
        text += f".{fraction:09d}".rstrip("0")
    return f"{text} +0000 UTC"


def to_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds; exact for whole seconds of any size."""
    whole = int(seconds // 1)
    return whole * 1_000_000_000 + int((seconds - whole) * 1_000_000_000)


def first_block(now: float) -> Block:
    """The block that a node begins with: empty, and with the hash of the block that has nothing in it."""
    return Block(0, timestamp_text(now), {}, checksum(Block()), "")


def next_block(previous: Block, storage: Storage, timestamp: str) -> Block:
    """The block after `previous`, with its hash."""
    block = Block(previous.index + 1, timestamp, storage, "", previous.hash)
    return replace(block, hash=checksum(block))


def write_block(block: Block) -> bytes:
    """The block's JSON, byte for byte as Go's encoding/json writes it."""
    storage: dict[str, Any] | None = None
    if block.storage is not NULL_STORAGE:
        storage = {bucket: _bucket_to_json(block.storage[bucket]) for bucket in sorted(block.storage)}
    return go_json.write(
        {
            "Index": block.index,
            "Timestamp": block.timestamp,
            "Storage": storage,
            "Hash": block.hash,
            "PrevHash": block.prev_hash,
        }
    ).encode()


def _bucket_to_json(bucket: Bucket) -> dict[str, Any] | None:
    if bucket is NULL_BUCKET:
        return None
    return {key: entry_to_json(bucket[key]) for key in sorted(bucket)}


def count_entries(storage: Storage) -> int:
    return sum(map(len, storage.values()))


def read_block_untrusted(data: str | bytes, *, max_size: int = MAX_BLOCK_SIZE, max_entries: int = MAX_ENTRIES) -> Block:
    """Read a block's JSON. Raises UntrustedDataError: one entry of a wrong form refuses the whole block, as in Go.

    `max_size`: bytes (characters for text). Besides, names and values have their own bounds (MAX_NAME, MAX_VALUE).
    """
    if len(data) > max_size:
        raise UntrustedDataError(f"a block is larger than {max_size} bytes")
    try:
        text = data if isinstance(data, str) else data.decode()
        if isinstance(data, str):
            data.encode()
    except UnicodeError:
        raise UntrustedDataError("a block is not UTF-8") from None
    # A few bytes of brackets become objects of a hundred: bound them before the parser makes them.
    if sum(map(text.count, "{[,")) > _STRUCTURE_PER_ENTRY * max_entries:
        raise UntrustedDataError("a block has too many parts")
    top = go_json.parse_untrusted(text)
    if top is None:
        return Block()
    if not isinstance(top, go_json.Object):
        raise UntrustedDataError("a block is not a JSON object")
    fields: dict[str, Any] = {}
    for name, item in top:
        attribute = _FIELDS.get(go_json.field_name(name))
        if attribute == "storage":
            fields["storage"] = _storage(item, fields.get("storage", NULL_STORAGE), max_entries)
        elif attribute == "index" and item is not None:
            fields["index"] = go_json.integer_untrusted(item, -MAX_INDEX - 1, MAX_INDEX, "a block's Index")
        elif attribute is not None and item is not None:
            fields[attribute] = go_json.text_untrusted(item, f"a block's {attribute}")
    return Block(**fields)


_FIELDS: Final = {
    "index": "index",
    "timestamp": "timestamp",
    "storage": "storage",
    "hash": "hash",
    "prevhash": "prev_hash",
}


def _storage(item: Any, before: Storage, max_entries: int) -> Storage:
    """The buckets of a Storage; a second Storage adds to the first (`before`), null empties it."""
    if item is None:
        return NULL_STORAGE
    if not isinstance(item, go_json.Object):
        raise UntrustedDataError("a block's Storage is not an object")
    storage = dict(before)
    for bucket, content in item:
        _check_name(bucket)
        if content is not None and not isinstance(content, go_json.Object):
            raise UntrustedDataError("a bucket is not an object")
        storage[bucket] = NULL_BUCKET if content is None else _entries(content)
    if count_entries(storage) > max_entries:
        raise UntrustedDataError(f"a block has more than {max_entries} entries")
    return storage


def _entries(content: go_json.Object) -> Bucket:
    entries: dict[str, Entry] = {}
    for key, item in content:
        _check_name(key)
        entry = entry_from_json_untrusted(item)
        if len(entry.value) > MAX_VALUE or len(entry.owner) > MAX_NAME:
            raise UntrustedDataError("an entry is too large")
        entries[key] = entry
    return entries


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise UntrustedDataError("a bucket's name or a key is too long")
