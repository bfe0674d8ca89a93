"""What a network, or a peer, can do to datagrams: for scripts/fuzz-datagrams. Pure, by a given random.Random."""

from __future__ import annotations

import ipaddress
import random
import struct

from edgevpn.proto.datagram import CONTROL, Address
from edgevpn.proto.ip import TCP, UDP, checksum
from edgevpn.tun.virtio import GSO_TCPV4, GSO_TCPV6, GSO_UDP, HEADER, NEEDS_CHECKSUM

Receive = tuple[bytes, int, Address]  # what one call gives: bytes, segment size (0: one datagram), source

_ADDRESSES = {
    4: [ipaddress.ip_address(f"10.1.0.{k}").packed for k in (1, 2)],
    6: [ipaddress.ip_address(f"fd42::{k}").packed for k in (1, 2)],
}


def frame_of(chance: random.Random, serial: int, *, from_one: bool) -> bytes:
    """A frame as the kernel makes it: TCP or UDP, IPv4 or IPv6, large or small; `serial` makes its packets unlike."""
    version, protocol = chance.choice((4, 6)), chance.choice((TCP, UDP))
    large = chance.random() < 0.3
    size = chance.choice((100, 100, 300, 1200))
    length = size * chance.choice((2, 5, 20, 40)) + chance.randrange(1, size) if large else chance.randrange(0, 300)
    payload = bytearray(chance.randbytes(length))
    for number, at in enumerate(range(0, length - 12, size if large else 1 << 20)):
        struct.pack_into(">QI", payload, at, serial, number)
    here, there = _ADDRESSES[version] if from_one else _ADDRESSES[version][::-1]
    start = 20 if version == 4 else 40
    header_length = 20 if protocol == TCP else 8
    total = header_length + length
    start_sum = ~checksum(here + there + struct.pack(">II", total, protocol)) & 0xFFFF
    if protocol == TCP:
        flags = chance.choice((0x10, 0x18, 0x19, 0x98))
        sequence = serial * 65536 & 0xFFFFFFFF
        transport = struct.pack(">HHIIBBHHH", 1000, 2000, sequence, serial, 5 << 4, flags, 500, start_sum, 0)
    else:
        transport = struct.pack(">HHHH", 1000 + serial % 60000, 2000, total, start_sum)
    body = transport + payload
    if version == 6:
        packet = struct.pack(">IHBB", 6 << 28 | serial & 0xFFFFF, len(body), protocol, 64) + here + there + body
    else:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), serial & 0xFFFF, 0x4000, 64, protocol, 0)
        head += here + there
        packet = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body
    kind = GSO_UDP if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6
    if not large:
        kind = size = 0
    return HEADER.pack(NEEDS_CHECKSUM, kind, start + header_length, size, start, 16 if protocol == TCP else 6) + packet


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Corrupted, cut or longer; never the same."""
    way = chance.randrange(5)
    if way == 0 and data:
        return data[: chance.randrange(len(data))]
    if way == 1:
        return data + chance.randbytes(chance.choice((1, 2, 16, 300)))
    if way == 2:
        return chance.randbytes(chance.choice((0, 1, 11, 12, 28, 29, 60, 300, 1400)))
    changed = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 1, 3, 8))):
        where = chance.randrange(min(len(changed), 12)) if way == 3 else chance.randrange(len(changed))
        changed[where] ^= 1 << chance.randrange(8)
    return bytes(changed) if bytes(changed) != data else data + b"\0"


def evil_receives(
    chance: random.Random, datagrams: list[bytes], captured: list[bytes], source: Address
) -> list[Receive]:
    """About three mutated datagrams for each that passed just now; `captured`: of all that ever did."""
    found: list[Receive] = []
    for datagram in datagrams:
        for _ in range(chance.choice((2, 3, 4))):
            found += _one(chance, datagram, captured, source)
    return found


def _one(chance: random.Random, datagram: bytes, captured: list[bytes], source: Address) -> list[Receive]:
    other = chance.choice(captured)
    elsewhere = source if chance.random() < 0.9 else (f"198.51.100.{chance.randrange(256)}", chance.randrange(1, 65536))
    way = chance.randrange(10)
    if way == 0:  # again, now
        return [(datagram, 0, elsewhere)]
    if way == 1:  # again, of any age
        return [(other, 0, elsewhere)]
    if way == 2:  # the head of one, the body of another
        return [(datagram[:12] + other[12:], 0, elsewhere)]
    if way == 3:  # another session's head, or another counter
        number = int.from_bytes(datagram[4:12], "big") + chance.choice((-1024, -1, 1, 1024, 1 << 40))
        return [(other[:4] + (number & (1 << 64) - 1).to_bytes(8, "big") + datagram[12:], 0, elsewhere)]
    if way == 4:  # in one receive, in a wrong order or with a stranger among them
        joined = [one for one in (datagram, other, datagram) if len(one) == len(datagram)]
        chance.shuffle(joined)
        return [(b"".join(joined), len(datagram) if len(joined) > 1 else 0, elsewhere)]
    if way == 5:  # cut at wrong places
        size = max(30, len(datagram) + chance.choice((-1, 1, -20, 7)))
        return [(datagram + other, min(size, len(datagram) + len(other) - 1), elsewhere)]
    if way == 6 and len(datagram) == len(other):  # as parity is made
        mixed = int.from_bytes(datagram, "big") ^ int.from_bytes(other, "big")
        return [(datagram[:12] + mixed.to_bytes(len(datagram), "big")[12:], 0, elsewhere)]
    return [(mutate(chance, datagram), 0, elsewhere)]


def evil_plaintext(chance: random.Random, plaintext: bytes) -> bytes:
    """What a peer with good keys may say; never empty."""
    way = chance.randrange(6)
    if way == 0:
        return bytes((CONTROL, chance.randrange(8))) + chance.randbytes(chance.choice((0, 8, 9, 26, 28, 40, 200)))
    if way == 1:
        changed = bytearray(plaintext)
        for _ in range(chance.choice((1, 2, 5))):
            changed[chance.randrange(min(len(changed), 60))] = chance.choice((0, 1, 4, 5, 127, 128, 255))
        return bytes(changed)
    if way == 2:
        return plaintext[: chance.randrange(1, len(plaintext) + 1)]
    return mutate(chance, plaintext) or b"\xff"
