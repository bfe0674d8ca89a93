"""One entry of the ledger: a value with its owner, version and signature.

In JSON it is an object with the fields below, or, when it has neither owner, signature, version nor tombstone mark
(`--ownership off`), the bare value as a string. What is signed, by the owner's libp2p key, is

    L(bucket) L(key) L(owner) u64(version) u64(updated_at) u8(deleted) L(value)     L(x): u64(length) and UTF-8

all big-endian; updated_at is written as its two's complement.
"""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from edgevpn.errors import UntrustedDataError
from edgevpn.draft import go_json
from edgevpn.draft.peer_key import PrivateKey, verify_untrusted

MAX_VERSION = 2**64 - 1
_MAX_TIME = 2**63 - 1
_NUMBERS = struct.Struct(">QqB")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """`value` holds JSON as text; `updated_at` is unix seconds; `sig` None: unsigned."""

    value: str = ""
    owner: str = ""
    version: int = 0
    updated_at: int = 0
    deleted: bool = False
    sig: bytes | None = None

    def same_as(self, other: Entry) -> bool:
        """Byte-identical; no signature and an empty one are the same."""
        return self == other or replace(self, sig=self.sig or b"") == replace(other, sig=other.sig or b"")


def _field(value: str) -> bytes:
    raw = value.encode("utf-8", "replace")
    return len(raw).to_bytes(8, "big") + raw


def signed_bytes(bucket: str, key: str, entry: Entry) -> bytes:
    """What an entry's signature is over."""
    numbers = _NUMBERS.pack(entry.version, entry.updated_at, entry.deleted)
    return _field(bucket) + _field(key) + _field(entry.owner) + numbers + _field(entry.value)


def sign(bucket: str, key: str, entry: Entry, signer: PrivateKey) -> Entry:
    """The entry as `signer`'s, signed."""
    owned = replace(entry, owner=signer.peer_id)
    return replace(owned, sig=signer.sign(signed_bytes(bucket, key, owned)))


def is_signed_by_owner(bucket: str, key: str, entry: Entry) -> bool:
    """Whether the signature is the owner's, over just this."""
    return verify_untrusted(entry.owner, signed_bytes(bucket, key, entry), entry.sig or b"")


def write(entry: Entry) -> str:
    """The entry's JSON, as Go writes it."""
    if not entry.owner and entry.sig is None and not entry.deleted and not entry.version:
        return go_json.quote(entry.value)
    sig = "null" if entry.sig is None else f'"{base64.b64encode(entry.sig).decode()}"'
    return (
        f'{{"Value":{go_json.quote(entry.value)},"Owner":{go_json.quote(entry.owner)},"Version":{entry.version},'
        f'"UpdatedAt":{entry.updated_at},"Deleted":{"true" if entry.deleted else "false"},"Sig":{sig}}}'
    )


def read_untrusted(value: Any) -> Entry:
    """An entry from parsed JSON (go_json). Raises UntrustedDataError."""
    if value is None:
        return Entry()
    if not isinstance(value, go_json.Pairs):
        return Entry(value=go_json.text(value, "an entry"))
    found: dict[str, Any] = {}
    for name, item in go_json.fields(value):
        if name in ("value", "owner"):
            found[name] = go_json.text(item, f"an entry's {name}")
        elif name == "version":
            found["version"] = go_json.integer(item, 0, MAX_VERSION, "an entry's version")
        elif name == "updatedat":
            found["updated_at"] = go_json.integer(item, -_MAX_TIME - 1, _MAX_TIME, "an entry's time")
        elif name == "deleted":
            if not isinstance(item, bool):
                raise UntrustedDataError("an entry's tombstone mark is neither true nor false")
            found["deleted"] = item
        elif name == "sig":
            found["sig"] = _signature(item)
    return Entry(**found)


def _signature(value: Any) -> bytes:
    text = go_json.text(value, "an entry's signature").replace("\r", "").replace("\n", "")
    if not _BASE64.fullmatch(text):
        raise UntrustedDataError("an entry's signature is not base64")
    return base64.b64decode(text)
