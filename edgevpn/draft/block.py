"""A block: the whole ledger as a node holds it, or the part of it that a message carries."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from edgevpn.errors import UntrustedDataError
from edgevpn.draft import entry as entries
from edgevpn.draft import go_json
from edgevpn.draft.entry import Entry

Bucket: TypeAlias = Mapping[str, Entry]
Storage: TypeAlias = Mapping[str, Bucket | None]

MAX_ENTRIES = 1_000_000
_MAX_INDEX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Block:
    """`storage` None and a bucket of None are Go's nil maps: they differ from empty ones in JSON only."""

    index: int = 0
    timestamp: str = ""
    storage: Storage | None = field(default_factory=dict)
    hash: str = ""
    prev_hash: str = ""

    def buckets(self) -> dict[str, dict[str, Entry]]:
        """A copy of the storage, nil maps as empty ones."""
        return {bucket: dict(items or {}) for bucket, items in (self.storage or {}).items()}


def read_untrusted(text: bytes | str, max_entries: int = MAX_ENTRIES) -> Block:
    """A block from its JSON. Raises UntrustedDataError; one ill-typed entry refuses the whole."""
    value = go_json.parse_untrusted(text)
    if value is None:
        return Block(storage=None)
    if not isinstance(value, go_json.Pairs):
        raise UntrustedDataError("a block is not a JSON object")
    found: dict[str, Any] = {}
    storage: dict[str, dict[str, Entry] | None] | None = None
    for name, item in ((go_json.fold(name), item) for name, item in value):
        if name == "storage":
            storage = None if item is None else {**(storage or {}), **_storage(item, max_entries)}
        elif item is None:
            continue
        elif name == "index":
            found["index"] = go_json.integer(item, -_MAX_INDEX - 1, _MAX_INDEX, "a block's index")
        elif name in ("timestamp", "hash", "prevhash"):
            found["prev_hash" if name == "prevhash" else name] = go_json.text(item, f"a block's {name}")
    return Block(storage=storage, **found)


def _storage(value: Any, max_entries: int) -> dict[str, dict[str, Entry] | None]:
    if not isinstance(value, go_json.Pairs):
        raise UntrustedDataError("a block's storage is not an object")
    storage: dict[str, dict[str, Entry] | None] = {}
    count = 0
    for bucket, items in value:
        if items is None:
            storage[go_json.clean(bucket)] = None
            continue
        if not isinstance(items, go_json.Pairs):
            raise UntrustedDataError("a bucket is not an object")
        count += len(items)
        if count > max_entries:
            raise UntrustedDataError(f"a block has more than {max_entries} entries")
        storage[go_json.clean(bucket)] = {go_json.clean(key): entries.read_untrusted(item) for key, item in items}
    return storage


def write(block: Block) -> bytes:
    """The block's JSON, as Go writes it."""
    return (
        f'{{"Index":{block.index},"Timestamp":{go_json.quote(block.timestamp)},"Storage":{_write_storage(block)},'
        f'"Hash":{go_json.quote(block.hash)},"PrevHash":{go_json.quote(block.prev_hash)}}}'
    ).encode()


def _write_storage(block: Block) -> str:
    if block.storage is None:
        return "null"
    buckets = {
        bucket: "null" if items is None else go_json.dump_object({key: entries.write(e) for key, e in items.items()})
        for bucket, items in block.storage.items()
    }
    return go_json.dump_object(buckets)


def checksum(block: Block) -> str:
    """The block's hash, hex."""
    return hashlib.sha256(hash_input(block)).hexdigest()


def hash_input(block: Block) -> bytes:
    """What the hash is over."""

    def by_bytes(name: str) -> bytes:
        return name.encode("utf-8", "replace")

    def show(entry: Entry) -> str:
        sig = " ".join(map(str, entry.sig or b""))
        deleted = "true" if entry.deleted else "false"
        return f"{{{entry.value} {entry.owner} {entry.version} {entry.updated_at} {deleted} [{sig}]}}"

    storage = block.storage or {}
    buckets = []
    for bucket in sorted(storage, key=by_bytes):
        items = storage[bucket] or {}
        inner = " ".join(f"{key}:{show(items[key])}" for key in sorted(items, key=by_bytes))
        buckets.append(f"{bucket}:map[{inner}]")
    return f"{block.index}{block.timestamp}map[{' '.join(buckets)}]{block.prev_hash}".encode("utf-8", "replace")


def next_block(previous: Block, storage: Storage, timestamp: str) -> Block:
    """The block after `previous` with this storage."""
    made = Block(previous.index + 1, timestamp, storage, "", previous.hash)
    return Block(made.index, timestamp, storage, checksum(made), previous.hash)


def go_time(now_ns: int) -> str:
    """Nanoseconds since 1970 as Go's time.String() in UTC."""
    seconds, nanos = divmod(now_ns, 10**9)
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{stamp}{fraction} +0000 UTC"


def adopt_higher(ours: Block, theirs: Block) -> Block:
    """`--ownership off`: the block with the higher index, of equal ones that with the higher hash as text; else ours."""
    if theirs.index > ours.index:
        return theirs
    if theirs.index == ours.index and theirs.hash.encode("utf-8", "replace") > ours.hash.encode("utf-8", "replace"):
        return theirs
    return ours
