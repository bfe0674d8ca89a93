"""One entry of the ledger: a value, who wrote it and when, and the signature over all of it.

Signed are, with L(x) = u64be(len(x)) || x over UTF-8 bytes (lengths first, so no two entries share an encoding):

    L(bucket) L(key) L(owner) u64be(version) u64be(updated_at) u8(deleted) L(value)

In JSON an entry is an object of six fields, or a bare text (its value) when it has neither owner, signature, version
nor deletion: the unsigned form of old nodes and of `--ownership off`. The public key comes out of the owner's peer ID.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_json, peer_key
from edgevpn.proto.peer_key import PrivateKey

MAX_VERSION: Final = 2**64 - 1
MAX_SIGNATURE: Final = 4096  # bytes; ours have 64, those of secp256k1 at most 72

_LENGTH: Final = struct.Struct(">Q")
_MIDDLE: Final = struct.Struct(">Qq?")
_I64: Final = 2**63


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A value as it stands in the ledger: a record without setters, made and compared in C.

    `value` is JSON text (not parsed); `owner` a peer ID's text or ""; `version` u64, for our writes at least the time
    in ns; `updated_at` i64, unix seconds; `deleted` marks a tombstone; `sig` is None where there is none at all.
    """

    value: str
    owner: str = ""
    version: int = 0
    updated_at: int = 0
    deleted: bool = False
    sig: bytes | None = None

    @property
    def is_bare(self) -> bool:
        """Whether it is written as a bare text, which loses `updated_at`."""
        return not self.owner and self.sig is None and not self.deleted and self.version == 0


def same_entry(one: Entry, other: Entry) -> bool:
    """Whether two entries are equal byte for byte; no signature equals an empty one."""
    if one == other:
        return True
    return not one.sig and not other.sig and msgspec.structs.replace(one, sig=other.sig) == other


def _field(text: str) -> bytes:
    data = text.encode()
    return _LENGTH.pack(len(data)) + data


def canonical_bytes(bucket: str, key: str, entry: Entry) -> bytes:
    """The bytes that are signed."""
    middle = _MIDDLE.pack(entry.version, entry.updated_at, entry.deleted)
    return b"".join((_field(bucket), _field(key), _field(entry.owner), middle, _field(entry.value)))


def sign_entry(
    signer: PrivateKey, bucket: str, key: str, value: str, version: int, updated_at: int, *, deleted: bool = False
) -> Entry:
    """An entry owned and signed by `signer`. Raises ValueError when a number or a text can't be encoded."""
    unsigned = Entry(value, signer.peer_id, version, updated_at, deleted)
    try:
        message = canonical_bytes(bucket, key, unsigned)
    except struct.error:
        raise ValueError("a version has 64 bits and no sign, a time 64 bits and a sign") from None
    return msgspec.structs.replace(unsigned, sig=signer.sign(message))


def verify_entry(bucket: str, key: str, entry: Entry) -> bool:
    """Whether the entry's owner signed it, for this bucket and key. False for unsigned entries."""
    return bool(entry.sig) and peer_key.verify(entry.owner, canonical_bytes(bucket, key, entry), entry.sig or b"")


def entry_to_json(entry: Entry) -> str | dict[str, Any]:
    """What go_json.write turns into the JSON of an entry."""
    if entry.is_bare:
        return entry.value
    return {
        "Value": entry.value,
        "Owner": entry.owner,
        "Version": entry.version,
        "UpdatedAt": entry.updated_at,
        "Deleted": entry.deleted,
        "Sig": None if entry.sig is None else base64.b64encode(entry.sig).decode(),
    }


def entry_from_json_untrusted(value: Any) -> Entry:
    """An entry from what go_json.parse_untrusted gave. Raises UntrustedDataError.

    Beyond the form above, as in Go: null is the empty bare entry; missing and null fields are empty; a field of a wrong
    type refuses the entry even if a right one follows.
    """
    if isinstance(value, str):
        return Entry(value)
    if value is None:
        return Entry("")
    if not isinstance(value, go_json.Object):
        raise UntrustedDataError("an entry is neither a text nor an object")
    fields: dict[str, Any] = {"value": ""}
    for name, item in value:
        reader = _READERS.get(name) or _READERS.get(go_json.field_name(name))
        if reader is None:
            continue
        attribute, read = reader
        if item is not None:
            fields[attribute] = read(item)
        elif attribute == "sig":  # null leaves a field as it was, but empties a list of bytes
            fields["sig"] = None
    return Entry(**fields)


def _value(item: Any) -> str:
    return go_json.text_untrusted(item, "an entry's Value")


def _owner(item: Any) -> str:
    return go_json.text_untrusted(item, "an entry's Owner")


def _version(item: Any) -> int:
    return go_json.integer_untrusted(item, 0, MAX_VERSION, "an entry's Version")


def _updated_at(item: Any) -> int:
    return go_json.integer_untrusted(item, -_I64, _I64 - 1, "an entry's UpdatedAt")


def _deleted(item: Any) -> bool:
    if not isinstance(item, bool):
        raise UntrustedDataError("an entry's Deleted is not true or false")
    return item


def _signature(item: Any) -> bytes:
    """In base64; Go reads a list of numbers as well, where null is 0."""
    if isinstance(item, list) and not isinstance(item, go_json.Object):
        if len(item) > MAX_SIGNATURE:
            raise UntrustedDataError("an entry's Sig is too long")
        return bytes(0 if one is None else go_json.integer_untrusted(one, 0, 255, "a byte of a Sig") for one in item)
    text = go_json.text_untrusted(item, "an entry's Sig")
    if len(text) > 2 * MAX_SIGNATURE:
        raise UntrustedDataError("an entry's Sig is too long")
    try:
        # Go ignores line ends inside base64.
        return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except ValueError:
        raise UntrustedDataError("an entry's Sig is not base64") from None


# By the names that Go writes (found at once) and by their lower case (for all other spellings).
_READERS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    spelling: reader
    for name, reader in (
        ("Value", ("value", _value)),
        ("Owner", ("owner", _owner)),
        ("Version", ("version", _version)),
        ("UpdatedAt", ("updated_at", _updated_at)),
        ("Deleted", ("deleted", _deleted)),
        ("Sig", ("sig", _signature)),
    )
    for spelling in (name, name.lower())
}
