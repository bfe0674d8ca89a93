"""What nodes of ours say to each other about the ledger, on `/edgevpn-py/ledger/1` (docs/wire.md).

    stream   = "EVPL" | u8 version = 1 | frames         one direction: each side opens a stream to speak on
    frame    = u32be length | sealed                    length of what is sealed
    sealed   = nonce, 12 bytes | AES-256-GCM(seal key, body, additional data) | tag, 16 bytes
    additional data = "edgevpn ledger 1" | sender's peer ID | 0 | receiver's peer ID
    body     = a MessagePack array whose first item is the kind

| kind | fields |
|---|---|
| 1 Digest | root (16 bytes), as_of (unix s), time (sender's clock, unix ms), echo: whether an answer is wanted |
| 2 Ask | as_of, prefixes (at most 256) |
| 3 Summary | as_of, nodes [[prefix, 16 sums of 8 bytes]], leaves [[prefix, items of 20 bytes]] |
| 4 Want | positions (8 bytes each), lazy |
| 5 Entries | why (0 told, 1 asked for by Want, 2 by a lazy one), last, urgent, published, told, entries |
| 6 Have | hints, 8 bytes each |
| 7 Peers | members that the sender is connected with: [[peer ID, [multiaddr without /p2p]]] |

An item is position, u64, version, u64, and check, u32. A hint is the upper 40 bits of a position and, below, the lower
24 bits of version >> 30 (about seconds); a lazy Want gives such hints back. `entries` is the deflate (RFC 1951, raw,
with the preset dictionary DICTIONARY) of a MessagePack array of [bucket, key, value, owner, version, updated_at,
deleted, signature or nil]. What positions, sums and roots are is told by edgevpn/ledger/inventory.py.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.block import MAX_NAME, MAX_VALUE
from edgevpn.proto.entry import MAX_SIGNATURE, Entry

HELLO: Final = b"EVPL\x01"
LENGTH: Final = struct.Struct(">I")
MAX_FRAME: Final = 2 * 1024 * 1024  # bytes, sealed
MAX_TEXT: Final = 4 * 1024 * 1024  # bytes of one Entries' inflated array: one entry of the largest value fits
MAX_PREFIXES: Final = 256
MAX_ITEMS: Final = 8192  # of one frame: items, positions or entries
MAX_TOLD: Final = 256
TOLD_SIZE: Final = 4
MAX_PEERS: Final = 32  # of one frame
MAX_PEER_ID: Final = 128  # characters
MAX_ADDRS: Final = 8  # of one peer
MAX_ADDR: Final = 256  # characters
FILL: Final = 128 * 1024  # bytes of values after which a next Entries frame is begun

TOLD, ASKED, ASKED_LAZILY = 0, 1, 2

DICTIONARY: Final = (
    b'trustzoneAuthusersdhcpegressfilesservices{"PeerID":"","Name":""}dnshealthcheckmachines'
    b'","Address":"10.1.0.","Version":""}","OS":"linux","Arch":"amd64","Hostname":"{"PeerID":"12D3KooW"2026-01-T:00Z"'
)

_ITEM: Final = struct.Struct(">QQI")
_POSITION: Final = struct.Struct(">Q")
_SUMS: Final = struct.Struct(">16Q")
_PREFIX: Final = re.compile(r"[0-9a-f]{0,16}")
_U64: Final = 2**64
_I64: Final = 2**63
_MAX_TIME: Final = 2**40

Told: TypeAlias = tuple[str, str, Entry]  # bucket, key, entry


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Digest(_Frame, frozen=True, tag=1):
    root: bytes
    as_of: int
    time_ms: int
    echo: bool


class Ask(_Frame, frozen=True, tag=2):
    as_of: int
    prefixes: list[str]


class Summary(_Frame, frozen=True, tag=3):
    as_of: int
    nodes: list[tuple[str, bytes]]
    leaves: list[tuple[str, bytes]]


class Want(_Frame, frozen=True, tag=4):
    positions: bytes
    lazy: bool


class Entries(_Frame, frozen=True, tag=5):
    """`told`: 4-byte names of peers that have it, or get it from the sender. `published`: it is on the topic too."""

    why: int
    last: bool
    urgent: bool
    published: bool
    told: bytes
    entries: bytes


class Have(_Frame, frozen=True, tag=6):
    hints: bytes


class Peers(_Frame, frozen=True, tag=7):
    peers: list[tuple[str, list[str]]]


Frame: TypeAlias = Digest | Ask | Summary | Want | Entries | Have | Peers
_DECODER: Final = msgspec.msgpack.Decoder(Frame)
_ROWS: Final = msgspec.msgpack.Decoder(list[tuple[str, str, str, str, int, int, bool, bytes | None]])


def write_frame(frame: Frame) -> bytes:
    """The body of a frame, to be sealed."""
    return msgspec.msgpack.encode(frame)


def read_frame_untrusted(data: bytes) -> Frame:
    """A frame from its body; what is in it keeps to the bounds above. Raises UntrustedDataError."""
    if len(data) > MAX_FRAME:
        raise UntrustedDataError(f"a ledger frame is larger than {MAX_FRAME} bytes")
    try:
        frame: Frame = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UntrustedDataError(f"not a ledger frame: {exc}") from None
    match frame:
        case Digest():
            _check(len(frame.root) == 16 and 0 <= frame.time_ms < _MAX_TIME * 1000)
            _check_time(frame.as_of)
        case Ask():
            _check_time(frame.as_of)
            _check(len(frame.prefixes) <= MAX_PREFIXES and all(map(_PREFIX.fullmatch, frame.prefixes)))
        case Summary():
            _check_time(frame.as_of)
            parts = [*frame.nodes, *frame.leaves]
            _check(len(parts) <= MAX_PREFIXES and all(_PREFIX.fullmatch(prefix) for prefix, _ in parts))
            _check(all(len(sums) == _SUMS.size and len(prefix) < 16 for prefix, sums in frame.nodes))
            _check(all(len(items) % _ITEM.size == 0 for _, items in frame.leaves))
            _check(sum(len(items) for _, items in frame.leaves) <= MAX_ITEMS * _ITEM.size)
        case Want():
            _check_list(frame.positions, _POSITION.size, MAX_ITEMS)
        case Entries():
            _check(frame.why in (TOLD, ASKED, ASKED_LAZILY))
            _check_list(frame.told, TOLD_SIZE, MAX_TOLD)
        case Have():
            _check_list(frame.hints, _POSITION.size, MAX_ITEMS)
        case Peers():
            _check(len(frame.peers) <= MAX_PEERS)
            _check(all(len(peer) <= MAX_PEER_ID and len(addrs) <= MAX_ADDRS for peer, addrs in frame.peers))
            _check(all(len(addr) <= MAX_ADDR for _, addrs in frame.peers for addr in addrs))
    return frame


def _check(holds: bool) -> None:
    if not holds:
        raise UntrustedDataError("a ledger frame has a field of an impossible size")


def _check_time(as_of: int) -> None:
    _check(0 <= as_of < _MAX_TIME)


def _check_list(data: bytes, size: int, most: int) -> None:
    _check(len(data) % size == 0 and len(data) <= most * size)


# --- the lists inside


def pack_items(items: Iterable[tuple[int, int, int]]) -> bytes:
    """(position, version, check) each."""
    return b"".join([_ITEM.pack(*item) for item in items])


def unpack_items(data: bytes) -> Iterator[tuple[int, int, int]]:
    return _ITEM.iter_unpack(data)


HINT_TIME: Final = 24  # bits


def hint_of(position: int, version: int) -> int:
    """Names a version at a position well enough to see whether it is new."""
    return position >> HINT_TIME << HINT_TIME | (version >> 30) % (1 << HINT_TIME)


def is_ahead(hint: int, version: int) -> bool:
    """Whether a hint's version is higher than this one (a window of 24 bits, which wraps)."""
    ahead = (hint - (version >> 30)) % (1 << HINT_TIME)
    return 0 < ahead < 1 << (HINT_TIME - 1)


def pack_positions(positions: Iterable[int]) -> bytes:
    return b"".join(map(_POSITION.pack, positions))


def unpack_positions(data: bytes) -> list[int]:
    return [position for (position,) in _POSITION.iter_unpack(data)]


def pack_sums(sums: Sequence[int]) -> bytes:
    return _SUMS.pack(*sums)


def unpack_sums(data: bytes) -> tuple[int, ...]:
    return _SUMS.unpack(data)


def told_name(peer: str) -> bytes:
    """How a peer is named in `told`: the first 4 bytes of the SHA-256 of its ID's text."""
    return hashlib.sha256(peer.encode()).digest()[:TOLD_SIZE]


def told_names(told: bytes) -> set[bytes]:
    return {told[at : at + TOLD_SIZE] for at in range(0, len(told), TOLD_SIZE)}


def pack_entries(entries: Iterable[Told]) -> bytes:
    """Entries as `Entries.entries` carries them."""
    rows = [(b, k, e.value, e.owner, e.version, e.updated_at, e.deleted, e.sig) for b, k, e in entries]
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=DICTIONARY)
    return packer.compress(msgspec.msgpack.encode(rows)) + packer.flush()


def entries_untrusted(data: bytes) -> list[Told]:
    """The entries in `Entries.entries`, not yet judged. Raises UntrustedDataError."""
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, MAX_TEXT + 1)
    except zlib.error:
        raise UntrustedDataError("the entries of a ledger frame are not deflate") from None
    if len(text) > MAX_TEXT or not unpacker.eof or unpacker.unused_data:
        raise UntrustedDataError("the entries of a ledger frame are too large, or cut short")
    try:
        rows = _ROWS.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UntrustedDataError(f"the entries of a ledger frame are not what they should be: {exc}") from None
    _check(len(rows) <= MAX_ITEMS)
    found: list[Told] = []
    for bucket, key, value, owner, version, updated_at, deleted, sig in rows:
        _check(len(bucket) <= MAX_NAME and len(key) <= MAX_NAME and len(owner) <= MAX_NAME)
        _check(len(value) <= MAX_VALUE and len(sig or b"") <= MAX_SIGNATURE)
        _check(0 <= version < _U64 and -_I64 <= updated_at < _I64)
        found.append((bucket, key, Entry(value, owner, version, updated_at, deleted, sig)))
    return found


def in_portions(entries: Iterable[Told]) -> Iterator[list[Told]]:
    """Entries cut into what fits one frame each; at least one portion."""
    portion: list[Told] = []
    size = 0
    for told in entries:
        portion.append(told)
        size += len(told[1]) + len(told[2].value) + len(told[2].owner) + 100
        if size >= FILL or len(portion) >= MAX_ITEMS:
            yield portion
            portion, size = [], 0
    yield portion


def additional_data(sender: str, receiver: str) -> bytes:
    """What a frame is bound to: it can be neither turned back nor passed on."""
    return b"edgevpn ledger 1" + sender.encode() + b"\0" + receiver.encode()
