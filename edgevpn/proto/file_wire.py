"""How files travel between nodes of ours: `/edgevpn-py/file/1`.

Every message is `length, u32 big-endian | msgpack`. The receiver asks and goes on asking, the sender answers in that
order; both may be ahead of each other by what the stream holds.

    receiver -> sender   Ask(name)                              what is there under this name?
    sender -> receiver   Offer(...), then `count` times Item    or Refusal, which ends the stream
    receiver -> sender   Get(number, offset)                    the rest of an item's content, from its offset
    sender -> receiver   Data(number, offset, length), then `length` plain bytes; or Changed(number): ask anew
    receiver -> sender   Finished()                             all is there and its hashes are right

An item's path is relative to what is offered, its parts divided by "/"; a single file's is its own name. Nothing of
the sender's word leads out of the receiver's directory: `check_path_untrusted`, and edgevpn/tunnels/landing.py.
"""

from __future__ import annotations

import struct
from typing import TypeAlias, TypeVar

import msgspec

from edgevpn.errors import UntrustedDataError

MAX_MESSAGE = 16 * 1024
MAX_ITEMS = 100_000
MAX_SIZE = 1 << 62
MAX_PART = 255  # bytes of one part of a path: NAME_MAX
MAX_PATH = 2048
MAX_DEPTH = 64
HASH_SIZE = 32
PART_SUFFIX = b".edgevpn-part"

_LENGTH = struct.Struct(">I")
LENGTH_SIZE = _LENGTH.size
# Names that are devices on other systems, and trouble when such a directory is shared with one.
_DEVICES = frozenset(
    [b"CON", b"PRN", b"AUX", b"NUL"] + [b"COM%d" % n for n in range(1, 10)] + [b"LPT%d" % n for n in range(1, 10)]
)


class _Base(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message; the tag is the class name."""


class Ask(_Base, frozen=True):
    name: str


class Offer(_Base, frozen=True):
    """`directory`: a tree of `count` items, else one file. `size`: bytes of all contents."""

    name: str
    directory: bool
    count: int
    size: int


class Item(_Base, frozen=True):
    """A file with its size and SHA-256, or a directory (size 0, no hash)."""

    path: bytes
    size: int
    sha256: bytes
    executable: bool = False
    directory: bool = False


class Get(_Base, frozen=True):
    number: int
    offset: int


class Data(_Base, frozen=True):
    number: int
    offset: int
    length: int


class Changed(_Base, frozen=True):
    """The item is not what it was when it was offered."""

    number: int


class Refusal(_Base, frozen=True):
    why: str


class Finished(_Base, frozen=True):
    """The receiver has all of it."""


FromReceiver: TypeAlias = Ask | Get | Finished
FromSender: TypeAlias = Offer | Item | Data | Changed | Refusal
M = TypeVar("M")
_FROM_RECEIVER: msgspec.msgpack.Decoder[FromReceiver] = msgspec.msgpack.Decoder(FromReceiver)
_FROM_SENDER: msgspec.msgpack.Decoder[FromSender] = msgspec.msgpack.Decoder(FromSender)


def write(message: FromReceiver | FromSender) -> bytes:
    """Raises ValueError for one that would be too long to be read."""
    payload = msgspec.msgpack.encode(message)
    if len(payload) > MAX_MESSAGE:
        raise ValueError(f"a {type(message).__name__} of {len(payload)} bytes")
    return _LENGTH.pack(len(payload)) + payload


def length_untrusted(head: bytes) -> int:
    """The length of the message that LENGTH_SIZE bytes announce. Raises UntrustedDataError."""
    if len(head) != LENGTH_SIZE:
        raise UntrustedDataError("a file message is cut short")
    length: int = _LENGTH.unpack(head)[0]
    if not 0 < length <= MAX_MESSAGE:
        raise UntrustedDataError(f"a file message of {length} bytes")
    return length


def read_from_receiver_untrusted(payload: bytes) -> FromReceiver:
    """Raises UntrustedDataError."""
    message = _decoded_untrusted(payload, _FROM_RECEIVER)
    if isinstance(message, Get) and not (0 <= message.number < MAX_ITEMS and 0 <= message.offset <= MAX_SIZE):
        raise UntrustedDataError("a file's number or offset is out of range")
    return message


def read_from_sender_untrusted(payload: bytes) -> FromSender:
    """Raises UntrustedDataError; an item's path is checked too."""
    message = _decoded_untrusted(payload, _FROM_SENDER)
    if isinstance(message, Offer):
        if not (0 <= message.count <= MAX_ITEMS and 0 <= message.size <= MAX_SIZE):
            raise UntrustedDataError("an offer is larger than can be")
        if not message.directory and message.count != 1:
            raise UntrustedDataError("an offer of one file has another number of them")
    elif isinstance(message, Item):
        check_path_untrusted(message.path)
        if not 0 <= message.size <= MAX_SIZE or len(message.sha256) != (0 if message.directory else HASH_SIZE):
            raise UntrustedDataError("an item's size or hash can't be")
        if message.directory and (message.size or message.executable):
            raise UntrustedDataError("a directory has content")
    elif isinstance(message, Data) and not (0 <= message.offset <= MAX_SIZE and 0 <= message.length <= MAX_SIZE):
        raise UntrustedDataError("data at a place that can't be")
    return message


def _decoded_untrusted(payload: bytes, decoder: msgspec.msgpack.Decoder[M]) -> M:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise UntrustedDataError(f"not a file message: {exc}") from exc


def check_path_untrusted(path: bytes) -> tuple[bytes, ...]:
    """The parts of a relative path that stays below its directory. Raises UntrustedDataError."""
    if not path or len(path) > MAX_PATH:
        raise UntrustedDataError("a path is empty or too long")
    parts = tuple(path.split(b"/"))
    if len(parts) > MAX_DEPTH:
        raise UntrustedDataError("a path is too deep")
    for part in parts:
        if part in (b"", b".", b".."):
            raise UntrustedDataError(f"the path {_shown(path)} leaves its directory, or would")
        if len(part) > MAX_PART or b"\0" in part or b"\\" in part:
            raise UntrustedDataError(f"the path {_shown(path)} has a part that is no name")
        if any(byte < 32 or byte == 127 for byte in part):
            raise UntrustedDataError(f"the path {_shown(path)} has control characters")
        if part.upper().split(b".")[0].rstrip(b" ") in _DEVICES:
            raise UntrustedDataError(f"the path {_shown(path)} names a device")
        if part.endswith(PART_SUFFIX):
            raise UntrustedDataError(f"the path {_shown(path)} has the name of an unfinished file")
    return parts


def check_items_untrusted(offer: Offer, items: list[Item]) -> None:
    """That the items of an offer fit together: no path twice, no file where a directory must be. UntrustedDataError."""
    if len(items) != offer.count or sum(item.size for item in items) != offer.size:
        raise UntrustedDataError("an offer's items are not what it says")
    if not offer.directory and (items[0].directory or b"/" in items[0].path):
        raise UntrustedDataError("an offer of one file is none")
    files = {item.path for item in items if not item.directory}
    if len({item.path for item in items}) != len(items):
        raise UntrustedDataError("an offer has a path twice")
    for item in items:
        end = item.path.rfind(b"/")
        while end >= 0:
            if item.path[:end] in files:
                raise UntrustedDataError(f"{_shown(item.path[:end])} is a file and a directory")
            end = item.path.rfind(b"/", 0, end)


def _shown(path: bytes) -> str:
    return ascii(path[:80].decode(errors="replace"))
