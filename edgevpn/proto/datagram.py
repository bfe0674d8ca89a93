"""Packets between two nodes of ours in UDP datagrams: the format. docs/wire.md tells the whole.

    0              4                      12                                  n-16        n
    +--------------+----------------------+-----------------------------------+-----------+
    | session, u32 | counter, u64         | sealed piece, or control message  | AEAD tag  |
    +--------------+----------------------+-----------------------------------+-----------+
                     = train << 10 | index          nonce = the first 12 bytes

A frame (virtio_net_hdr and packet, edgevpn/tun/virtio.py) that is a super-packet travels as a train: one datagram for
each segment, indices 0, 1, 2... Each piece carries the frame's headers again, so whoever has only some of them can
still make packets of those:

    +--------------------------------------+----------------------+--------------------------+
    | virtio_net_hdr, 10                   | IP and TCP or UDP    | the segment's payload    |
    | hdr_len: see below                   | headers, whole frame |                          |
    +--------------------------------------+----------------------+--------------------------+

In the place of hdr_len stand two bytes: how many segments more than one the payload has (but in the train's last piece;
0 unless the receiver said SEVERAL in the handshake), and the length of the first two parts.

Any other frame is a train of one piece, with the frame as it is. A control message begins with 0xFF, which no
virtio_net_hdr does:

    PROBE   0xFF 1  id, 8  padding        "does this way carry a datagram of this size?"
    ANSWER  0xFF 2  id, 8  address, 16  port, u16     with the address that the probe came from

All numbers are big-endian, except those of the virtio_net_hdr. An IPv4 address is mapped (IPv6).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from edgevpn.errors import UntrustedDataError

HEAD: Final = 12  # session and counter
TAG: Final = 16
OVERHEAD: Final = HEAD + TAG
INDEX_BITS: Final = 10
MAX_PIECES: Final = 256  # of one train
MAX_TRAIN: Final = 2**54 - 1
CONTROL: Final = 0xFF
SEVERAL: Final = 8  # flag of the handshake: a piece may have several segments

_PROBE, _ANSWER = 1, 2
_PROBE_FORM = struct.Struct(">BB8s")
_ANSWER_FORM = struct.Struct(">BB8s16sH")

Address: TypeAlias = tuple[str, int]  # an IP address in text, IPv4 not mapped, and a port


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks whether a way works; `size` is that of the whole datagram."""

    number: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Answers the probe `number`, which was seen coming from `observed`."""

    number: bytes
    observed: Address


def write_probe(probe: Probe, size: int) -> bytes:
    """A probe's plaintext, padded so that the datagram has `size` bytes."""
    return _PROBE_FORM.pack(CONTROL, _PROBE, probe.number).ljust(size - OVERHEAD, b"\0")


def write_answer(answer: Answer) -> bytes:
    return _ANSWER_FORM.pack(CONTROL, _ANSWER, answer.number, pack_ip(answer.observed[0]), answer.observed[1])


def read_control_untrusted(data: bytes) -> Probe | Answer:
    """A control message's plaintext. Raises UntrustedDataError."""
    if len(data) >= _PROBE_FORM.size and data[:2] == bytes((CONTROL, _PROBE)):
        return Probe(data[2:10])
    if len(data) == _ANSWER_FORM.size and data[:2] == bytes((CONTROL, _ANSWER)):
        _, _, number, packed, port = _ANSWER_FORM.unpack(data)
        return Answer(number, (unpack_ip(packed), port))
    raise UntrustedDataError("a datagram's control message has no known form")


def pack_ip(text: str) -> bytes:
    """16 bytes; IPv4 is mapped (RFC 4291, 2.5.5.2)."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def unpack_ip(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
