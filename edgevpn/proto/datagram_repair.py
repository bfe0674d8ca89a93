"""What two nodes say to each other to repair random loss on the datagram path: the format. See docs/wire.md.

Control messages (edgevpn/proto/datagram.py), sealed as any other, beside the last train (index 256 and on), so that
they leave no gap in the trains themselves. All numbers are big-endian.

    ASK     0xFF 3  base, u64   then for each train:  train - base, u16   n, u8   which, n bytes
    PARITY  0xFF 4  time, u32   lengths, u16   size, u16   offset, u16   step, u8   ranges, u8   base, u64
                    then for each range:  train - base, u16   first, u8   count, u8
                    then the XOR of those datagrams' sealed parts from `offset` on
    CODED   0xFF 7  row, u8   rows, u8   and then as PARITY, from time on
    STAMP   0xFF 5  time, u32   newest train, u64
    REPORT  0xFF 6  echo, u32   held, u32   received, u64   lost, u32   runs, u32   delay, u32

ASK: bit i of `which` (a little-endian number) asks for the datagram with index i of the train; no bytes: for all of it.

PARITY: of a group of datagrams, each range `count` of them with indices first, first + step... `lengths` is the XOR of
the lengths of the sealed parts, `size` the greatest of them; what does not fit in one datagram comes in two pieces.
`time` is of the sender's clock, microseconds.

CODED: row `row` (from 0) of `rows` over the group, by edgevpn/tun/erasure.py: of symbols, which begin with the length
of the sealed part, so `lengths` is 0, and `size` and `offset` are of symbols. Only for peers with the flag CODES.

REPORT: `echo` the newest time that came, `held` for so long (microseconds); datagrams received, lost otherwise than by
a full queue, and runs of those, all since the session began; `delay`: how far the way's delay is above its least now.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import CONTROL, MAX_PIECES, MAX_TRAIN

REPAIRS: Final = 4  # the flag in the handshake (1, 2 and 8: packet_stream.py and datagram.py)
CODES: Final = 16  # ... with REPAIRS: it understands CODED
WHOLE: Final = 0  # the mask that asks for a whole train
ROWS: Final = 3  # of the code, at most
MAX_RANGES: Final = 40
_MAX_ASKED = 256

_ASK, _PARITY, _STAMP, _REPORT, _CODED = 3, 4, 5, 6, 7
_BASE = struct.Struct(">Q")
_ENTRY = struct.Struct(">HB")
_PARITY_FORM = struct.Struct(">BBIHHHBBQ")
_CODED_FORM = struct.Struct(">BBBBIHHHBBQ")
_RANGE = struct.Struct(">HBB")
_STAMP_FORM = struct.Struct(">BBIQ")
_REPORT_FORM = struct.Struct(">BBIIQIII")
PARITY_HEAD: Final = _CODED_FORM.size
RANGE_SIZE: Final = _RANGE.size


class Range(NamedTuple):
    """Datagrams of one train: `members` of them from index `first`, every `step`-th of the group."""

    train: int
    first: int
    members: int


@dataclass(frozen=True, slots=True)
class Ask:
    """`wanted`: train to a mask of indices, or WHOLE."""

    wanted: dict[int, int]


@dataclass(frozen=True, slots=True)
class Parity:
    """The XOR of a group's sealed parts, or the piece of it from `offset` on; with `rows` a row of the erasure code."""

    time: int
    lengths: int
    size: int
    offset: int
    step: int
    ranges: tuple[Range, ...]
    data: bytes
    row: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Stamp:
    """When it was sent (microseconds, modulo 2^32), and the newest train by then."""

    time: int
    newest: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the other side sees; see above."""

    echo: int
    held: int
    received: int
    lost: int
    runs: int
    delay: int


def longest_wait(rtt: float, *, in_runs: bool) -> float:
    """Seconds after which a group ends whatever it has: within the reordering that TCP inside comes to bear (RFC 8985).

    `in_runs`: where losses come in runs, more is needed to spread them over.
    """
    return min(max(rtt / 2, 0.008), 0.025) if in_runs else min(max(rtt / 5, 0.004), 0.01)


Repair: TypeAlias = Ask | Parity | Stamp | Report


def write_asks(wanted: Sequence[tuple[int, int]], room: int) -> list[bytes]:
    """Messages of at most `room` bytes for (train, mask) in the order of trains."""
    messages: list[bytes] = []
    parts: list[bytes] = []
    size = base = 0
    for train, mask in wanted:
        which = mask.to_bytes((mask.bit_length() + 7) // 8, "little")
        if parts and (train - base > 0xFFFF or size + 3 + len(which) > room or len(parts) > _MAX_ASKED):
            messages.append(b"".join(parts))
            parts = []
        if not parts:
            base = train
            parts = [bytes((CONTROL, _ASK)), _BASE.pack(base)]
            size = 10
        parts.append(_ENTRY.pack(train - base, len(which)) + which)
        size += 3 + len(which)
    if parts:
        messages.append(b"".join(parts))
    return messages


def write_parity(parity: Parity) -> bytes:
    base = min(one.train for one in parity.ranges)
    kind = (CONTROL, _CODED, parity.row, parity.rows) if parity.rows else (CONTROL, _PARITY)
    head = (_CODED_FORM if parity.rows else _PARITY_FORM).pack(
        *kind,
        parity.time & 0xFFFFFFFF,
        parity.lengths,
        parity.size,
        parity.offset,
        parity.step,
        len(parity.ranges),
        base,
    )
    ranges = [_RANGE.pack(one.train - base, one.first, one.members) for one in parity.ranges]
    return head + b"".join(ranges) + parity.data


def write_stamp(stamp: Stamp) -> bytes:
    return _STAMP_FORM.pack(CONTROL, _STAMP, stamp.time & 0xFFFFFFFF, stamp.newest)


def write_report(report: Report) -> bytes:
    mask = 0xFFFFFFFF
    return _REPORT_FORM.pack(
        CONTROL,
        _REPORT,
        report.echo & mask,
        min(report.held, mask),
        report.received,
        report.lost & mask,
        report.runs & mask,
        min(report.delay, mask),
    )


def is_repair(data: bytes) -> bool:
    """Whether a control message is one of these, by its kind."""
    return len(data) > 1 and _ASK <= data[1] <= _CODED


def read_repair_untrusted(data: bytes) -> Repair:
    """A control message's plaintext. Raises UntrustedDataError."""
    kind = data[1] if len(data) > 1 else 0
    if kind == _ASK:
        return _read_ask_untrusted(data)
    if kind == _PARITY and len(data) > _PARITY_FORM.size:
        return _read_parity_untrusted(data, _PARITY_FORM.unpack_from(data)[2:], _PARITY_FORM.size)
    if kind == _CODED and len(data) > _CODED_FORM.size:
        row, rows, *rest = _CODED_FORM.unpack_from(data)[2:]
        if not row < rows <= ROWS:
            raise UntrustedDataError("a row that no code has")
        return replace(_read_parity_untrusted(data, tuple(rest), _CODED_FORM.size), row=row, rows=rows)
    if kind == _STAMP and len(data) == _STAMP_FORM.size:
        _, _, time, newest = _STAMP_FORM.unpack(data)
        if newest <= MAX_TRAIN:
            return Stamp(time, newest)
    if kind == _REPORT and len(data) == _REPORT_FORM.size:
        return Report(*_REPORT_FORM.unpack(data)[2:])
    raise UntrustedDataError("a repair message has no known form")


def _read_ask_untrusted(data: bytes) -> Ask:
    wanted: dict[int, int] = {}
    at = 10
    try:
        (base,) = _BASE.unpack_from(data, 2)
        while at < len(data):
            delta, count = _ENTRY.unpack_from(data, at)
            at += 3
            which = data[at : at + count]
            mask = int.from_bytes(which, "little")
            if len(which) != count or mask.bit_length() > MAX_PIECES or len(wanted) > _MAX_ASKED:
                raise UntrustedDataError("an ask asks for what no train has")
            wanted[base + delta] = mask
            at += count
    except struct.error:
        raise UntrustedDataError("an ask is cut short") from None
    return Ask(wanted)


def _read_parity_untrusted(data: bytes, fields: tuple[int, ...], begin: int) -> Parity:
    """`fields`: from time to base; the ranges begin at `begin`."""
    time, lengths, size, offset, step, count, base = fields
    start = begin + count * RANGE_SIZE
    if offset + len(data) - start > size:
        raise UntrustedDataError("a parity is longer than what it is of")
    if not count or count > MAX_RANGES or len(data) <= start or not step or base > MAX_TRAIN:
        raise UntrustedDataError("a parity makes no sense")
    ranges = []
    members_of_all = 0
    for delta, first, members in _RANGE.iter_unpack(data[begin:start]):
        members_of_all += members
        if not members or first + (members - 1) * step >= MAX_PIECES or members_of_all > MAX_PIECES - 1:
            raise UntrustedDataError("a parity is of datagrams that no train has")
        ranges.append(Range(base + delta, first, members))
    return Parity(time, lengths, size, offset, step, tuple(ranges), data[start:])
