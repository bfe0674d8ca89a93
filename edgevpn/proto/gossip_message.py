"""What a pubsub message carries: a JSON envelope around a sealed text.

    {"Message": "<sealed hex>", "SenderID": "", "Annotations": null}

On the main topic the sealed text is a gzip of one block's JSON; on the public topic it is a plain word, signed in the
annotations (peerguard.py). Reading follows Go's encoding/json where that costs nothing: field names in any case,
unknown fields ignored, the last of duplicates wins, null leaves a field as it was; and Go's gzip: concatenated members
are one text, anything else after a member is refused. What goes beyond Go: decompression is bounded, and text that is
not Unicode is refused. SenderID is what the sender says: use the peer that the message came from.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import seal

MAX_BLOCK_SIZE = 32 * 1024 * 1024
"""Default bound of a decompressed block, bytes: a message of 20 MiB is 10 MiB sealed, and blocks shrink to a third."""

_MAX_MEMBERS = 16  # of a gzip: each costs a copy of what follows it, so thousands of empty ones would cost minutes
_GZIP = 16 + zlib.MAX_WBITS
# Go folds case by Unicode: these two letters are the only ones outside ASCII that equal one inside.
_FOLD = str.maketrans({"\u017f": "s", "\u212a": "k"})


@dataclass(frozen=True)
class Envelope:
    """The outer JSON. `annotations` maps text to JSON values (numbers as exact as floats); None: there are none."""

    message: str
    sender_id: str = ""
    annotations: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class OpenedMessage:
    """`plaintext` is what was sealed (a gzip, or a public word); `key_index` says which of the keys opened it."""

    plaintext: bytes
    key_index: int
    annotations: Mapping[str, Any] | None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with its duplicates, in the order they came."""


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value  # so that 2 is written as 2 again


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {name: _plain(item) for name, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def parse_envelope_untrusted(data: bytes) -> Envelope:
    """Read the data of a pubsub message. Raises UntrustedDataError."""
    message, sender_id = "", ""
    annotations: dict[str, Any] | None = None
    try:
        text = data.decode()
        top = json.loads(text, object_pairs_hook=_Pairs, parse_int=_number, parse_float=_number, parse_constant=_number)
        if top is not None and not isinstance(top, _Pairs):
            raise UntrustedDataError("a gossip message is not a JSON object")
        for name, value in top or ():
            field = name.translate(_FOLD).lower()
            if field == "message" and value is not None:
                message = _text(value, "Message")
            elif field == "senderid" and value is not None:
                sender_id = _text(value, "SenderID")
            elif field == "annotations":
                if value is None:
                    annotations = None
                elif isinstance(value, _Pairs):
                    annotations = (annotations or {}) | _plain(value)
                else:
                    raise UntrustedDataError("Annotations of a gossip message is not a map")
        # A lone surrogate ("\ud800") is text to Python's JSON but cannot be passed on as UTF-8.
        json.dumps([message, sender_id, annotations], ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise UntrustedDataError("a gossip message is not valid JSON") from None
    return Envelope(message, sender_id, annotations)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise UntrustedDataError(f"{field} of a gossip message is not text")
    return value


def write_envelope(envelope: Envelope) -> bytes:
    """The envelope as Go writes it: fixed order, no spaces, sorted annotations, HTML characters escaped."""
    annotations = None if envelope.annotations is None else dict(envelope.annotations)
    value = {"Message": envelope.message, "SenderID": envelope.sender_id, "Annotations": annotations}
    if annotations is not None:
        value["Annotations"] = dict(sorted(annotations.items()))
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def write_message(
    plaintext: bytes, key: str, annotations: Mapping[str, Any] | None = None, nonce: bytes | None = None
) -> bytes:
    """Seal `plaintext` (a compressed block or a public word) under `key` into the data of a pubsub message."""
    return write_envelope(Envelope(seal.seal(plaintext, key, nonce), "", annotations))


def open_message_untrusted(data: bytes, keys_to_try: Sequence[str]) -> OpenedMessage:
    """Read and open the data of a pubsub message with the first key that fits. Raises UntrustedDataError."""
    envelope = parse_envelope_untrusted(data)
    plaintext, index = seal.open_with_any_untrusted(envelope.message, list(keys_to_try))
    return OpenedMessage(plaintext, index, envelope.annotations)


def compress(block: bytes) -> bytes:
    """gzip of a block's JSON; the same bytes for the same block (no time in the header)."""
    compressor = zlib.compressobj(wbits=_GZIP)
    return compressor.compress(block) + compressor.flush()


def decompress_untrusted(data: bytes, max_size: int = MAX_BLOCK_SIZE) -> bytes:
    """The text of a gzip, members joined, of at most `max_size` bytes (RFC 1952). Raises UntrustedDataError."""
    parts: list[bytes] = []
    room = max_size
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            # One byte more than there is room for tells a full buffer from an overflow.
            part = member.decompress(data, room + 1)
        except zlib.error:
            raise UntrustedDataError("a block is not gzip") from None
        room -= len(part)
        if room < 0:
            raise UntrustedDataError(f"a block is larger than {max_size} bytes")
        if not member.eof:
            raise UntrustedDataError("a block's gzip is cut short")
        parts.append(part)
        data = member.unused_data
        if not data:
            return b"".join(parts)
    raise UntrustedDataError("a block's gzip has too many members")
