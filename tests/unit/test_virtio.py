"""Cutting super-packets and finishing checksums, against a slow reference."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.ip import TCP, UDP, checksum, ones_complement_sum, split_packets_untrusted
from edgevpn.proto.packet_stream import PLAIN
from edgevpn.tun import virtio
from edgevpn.tun.virtio import GSO_TCPV4, GSO_TCPV6, GSO_UDP, HEADER, NEEDS_CHECKSUM, check_untrusted, segment

V4 = (ipaddress.ip_address("10.1.0.1").packed, ipaddress.ip_address("10.1.0.2").packed)
V6 = (ipaddress.ip_address("fd42::1").packed, ipaddress.ip_address("fd42::2").packed)


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(addresses: tuple[bytes, bytes], protocol: int, length: int) -> bytes:
    return addresses[0] + addresses[1] + struct.pack(">II", length, protocol)


def make(version: int, protocol: int, payload: bytes, *, flags: int = 0x18, ident: int = 65534) -> bytes:
    """A packet as the kernel hands it over: transport checksum holds the pseudo-header's sum only."""
    addresses = V4 if version == 4 else V6
    if protocol == TCP:
        options = b"\1\1\10\12" + bytes(8)
        length = 20 + len(options) + len(payload)
        start = slow_sum(pseudo(addresses, TCP, length))
        transport = struct.pack(">HHIIBBHHH", 1000, 2000, 2**32 - 5, 7, 8 << 4, flags, 500, start, 0) + options
    else:
        length = 8 + len(payload)
        start = slow_sum(pseudo(addresses, UDP, length))
        transport = struct.pack(">HHHH", 1000, 2000, length & 0xFFFF, start)
    body = transport + payload
    if version == 6:
        return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + b"".join(V6) + body
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0x4000, 64, protocol, 0) + b"".join(V4)
    return header[:10] + (65535 - slow_sum(header)).to_bytes(2, "big") + header[12:] + body


def frame_of(version: int, protocol: int, payload: bytes, size: int, **more: int) -> bytes:
    packet = make(version, protocol, payload, **more)
    start = 20 if version == 4 else 40
    kind = GSO_UDP if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6
    if len(payload) <= size:
        kind = size = 0
    offset = 16 if protocol == TCP else 6
    return HEADER.pack(NEEDS_CHECKSUM, kind, start, size, start, offset) + packet


def verify(packet: bytes) -> bytes:
    """Every checksum and length is right; the payload."""
    version, start = packet[0] >> 4, 20 if packet[0] >> 4 == 4 else 40
    protocol = packet[9] if version == 4 else packet[6]
    if version == 4:
        assert slow_sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet)
    else:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    body = packet[start:]
    addresses = V4 if version == 4 else V6
    assert slow_sum(pseudo(addresses, protocol, len(body)) + body) == 0xFFFF
    if protocol == UDP:
        assert int.from_bytes(body[4:6], "big") == len(body)
        return body[8:]
    return body[(body[12] >> 4) * 4 :]


@given(
    st.sampled_from([4, 6]), st.sampled_from([TCP, UDP]), st.binary(min_size=1, max_size=9000), st.integers(200, 1400)
)
def test_segments_carry_the_payload_whole_with_every_checksum_right(
    version: int, protocol: int, payload: bytes, size: int
) -> None:
    packets = segment(frame_of(version, protocol, payload, size))
    assert b"".join(map(verify, packets)) == payload
    assert all(len(verify(packet)) == size for packet in packets[:-1])
    joined, rest = split_packets_untrusted(b"".join(packets))
    assert (joined, rest) == (packets, b"")


def test_sequence_numbers_and_flags_are_those_of_the_pieces() -> None:
    packets = segment(frame_of(4, TCP, bytes(2500), 1000, flags=0x99))  # CWR, ACK, PSH, FIN
    sequences = [int.from_bytes(packet[24:28], "big") for packet in packets]
    assert sequences == [2**32 - 5, 995, 1995]
    assert [packet[33] for packet in packets] == [0x90, 0x10, 0x19]
    assert [int.from_bytes(packet[4:6], "big") for packet in packets] == [65534, 65535, 0]


@pytest.mark.parametrize(("version", "protocol"), [(4, TCP), (6, TCP), (4, UDP), (6, UDP)])
def test_a_checksum_of_zero_is_written_the_same_alone_and_as_part_of_a_train(version: int, protocol: int) -> None:
    """A piece that is the only one left of its train must be the packet that the whole would have given."""
    start, offset = 20 if version == 4 else 40, 16 if protocol == TCP else 6
    field = slice(start + offset, start + offset + 2)
    [packet] = segment(frame_of(version, protocol, b"abcdefgh\0\0", 100))
    [packet] = segment(frame_of(version, protocol, b"abcdefgh" + packet[field], 100))
    assert packet[field] == (b"\0\0" if protocol == TCP else b"\xff\xff")
    as_train = bytearray(frame_of(version, protocol, verify(packet), 100))
    as_train[1], as_train[4:6] = GSO_UDP if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6, b"\x64\0"
    assert segment(as_train) == [packet]


def test_a_plain_packet_passes_as_it_is() -> None:
    packet = segment(frame_of(4, TCP, b"x", 1000))[0]
    assert segment(PLAIN + packet) == [packet]


@given(st.binary(max_size=200))
def test_frames_of_peers_are_checked_without_surprise(frame: bytes) -> None:
    with suppress(UntrustedDataError):
        check_untrusted(frame)


@given(
    st.sampled_from([4, 6]), st.sampled_from([TCP, UDP]), st.integers(1, 5000), st.integers(0, 9), st.integers(0, 255)
)
def test_a_changed_header_is_refused_or_harmless(version: int, protocol: int, size: int, at: int, value: int) -> None:
    frame = bytearray(frame_of(version, protocol, bytes(size), 1000))
    check_untrusted(frame)
    frame[at] = value
    with suppress(UntrustedDataError):
        check_untrusted(frame)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f[:-1],  # shorter than it says
        lambda f: f + b"x",
        lambda f: f[:1] + bytes([GSO_TCPV6]) + f[2:],  # the wrong family
        lambda f: f[:4] + b"\0\0" + f[6:],  # segments of nothing
        lambda f: f[:6] + b"\xff\xff" + f[8:],  # a checksum beyond the packet
        lambda f: f[:1] + bytes([77]) + f[2:],  # no such offload
        lambda f: bytes([0]) + f[1:],  # offload without checksum
    ],
)
def test_what_does_not_fit_together_is_refused(spoil: object) -> None:
    frame = frame_of(4, TCP, bytes(3000), 1000)
    with pytest.raises(UntrustedDataError):
        check_untrusted(spoil(frame))  # type: ignore[operator]


def test_a_peer_that_takes_no_udp_offload_is_sent_none() -> None:
    frame = frame_of(4, UDP, bytes(3000), 1000)
    check_untrusted(frame)
    with pytest.raises(UntrustedDataError):
        check_untrusted(frame, takes_udp=False)


@given(st.binary(max_size=300), st.integers(0, 2**20))
def test_the_fast_sum_is_the_slow_sum(data: bytes, start: int) -> None:
    padded = data + b"\0" * (len(data) % 2)
    assert ones_complement_sum(data, start) % 65535 == (slow_sum(padded) + start) % 65535
    assert checksum(data) == 65535 - slow_sum(data)
    assert virtio.checksum(data) == checksum(data)
