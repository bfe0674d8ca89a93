"""What becomes of frames that a way does not carry whole: cut, fragmented, given another MSS, answered."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, strategies as st

from edgevpn.proto.ip import TCP, UDP, packet_length_untrusted
from edgevpn.proto.too_big import ICMP, ICMPV6, fragment, may_fragment, too_big_answer
from edgevpn.tun import virtio
from edgevpn.tun.fit import Fit, clamp_mss, fit
from tests.unit.test_virtio import V4, V6, frame_of, make, pseudo, slow_sum

VERSIONS = pytest.mark.parametrize("version", [4, 6])
PAYLOAD = bytes(range(256)) * 256


def finished(version: int, packet: bytes) -> bool:
    """Whether the transport's checksum, and IPv4's, are right."""
    start = (packet[0] & 15) * 4 if version == 4 else 40
    protocol = packet[9] if version == 4 else packet[6]
    addresses = (packet[12:16], packet[16:20]) if version == 4 else (packet[8:24], packet[24:40])
    head = version == 6 or slow_sum(packet[:start]) == 0xFFFF
    covered = b"" if protocol == ICMP else pseudo(addresses, protocol, len(packet) - start)
    return head and slow_sum(covered + packet[start:]) == 0xFFFF


def df(packet: bytes, *, dont: bool) -> bytes:
    """An IPv4 packet with the "don't fragment" bit as wanted."""
    head = packet[:6] + (0x4000 if dont else 0).to_bytes(2, "big") + packet[8:10] + b"\0\0" + packet[12:20]
    return head[:10] + (65535 - slow_sum(head)).to_bytes(2, "big") + head[12:] + packet[20:]


def syn(version: int, options: bytes, *, partial: bool, flags: int = 0x02) -> bytearray:
    """A frame with a SYN that has these options."""
    options = options.ljust(-(-len(options) // 4) * 4, b"\0")
    addresses = V4 if version == 4 else V6
    start, length = (20, 40)[version == 6], 20 + len(options)
    tcp = bytearray(struct.pack(">HHIIBBHHH", 1000, 2000, 77, 0, length // 4 << 4, flags, 500, 0, 0) + options)
    head = pseudo(addresses, TCP, length)
    tcp[16:18] = (slow_sum(head) if partial else 65535 - slow_sum(head + tcp)).to_bytes(2, "big")
    packet = make(version, TCP, b"")[:start]
    if version == 4:
        packet = packet[:2] + (20 + length).to_bytes(2, "big") + packet[4:10] + b"\0\0" + packet[12:20]
        packet = packet[:10] + (65535 - slow_sum(packet)).to_bytes(2, "big") + packet[12:]
    else:
        packet = packet[:4] + length.to_bytes(2, "big") + packet[6:]
    header = virtio.HEADER.pack(1 if partial else 0, 0, 0, 0, start if partial else 0, 16 if partial else 0)
    return bytearray(header + packet + tcp)


# --- TCP is cut finer


@VERSIONS
@given(length=st.integers(1, 60000), segment=st.integers(500, 1400), mtu=st.integers(512, 1500))
def test_tcp_is_cut_to_what_fits_and_is_the_same_stream(version: int, length: int, segment: int, mtu: int) -> None:
    payload = PAYLOAD[:length]
    frame = bytearray(frame_of(version, TCP, payload, segment))
    size = len(frame)
    assert fit(frame, size, mtu) is Fit.FITS
    assert len(frame) == size
    got, sequence = b"", (2**32 - 5)
    for packet in virtio.segment(frame):
        assert len(packet) <= mtu
        assert packet_length_untrusted(packet) == len(packet)
        assert finished(version, packet)
        start = 20 if version == 4 else 40
        assert int.from_bytes(packet[start + 4 : start + 8], "big") == (sequence + len(got)) % 2**32
        got += packet[start + (packet[start + 12] >> 4) * 4 :]
    assert got == payload
    virtio.check_untrusted(frame)


def test_tcp_that_fits_is_left_alone() -> None:
    for payload, segment in ((PAYLOAD[:40000], 1100), (PAYLOAD[:1100], 1100)):
        frame = bytearray(frame_of(4, TCP, payload, segment))
        before = bytes(frame)
        assert fit(frame, len(frame), 1200) is Fit.FITS
        assert frame == before


# --- others


def test_udp_super_packets_whose_datagrams_do_not_fit_are_refused() -> None:
    frame = bytearray(frame_of(4, UDP, PAYLOAD[:5000], 1300))
    assert fit(frame, len(frame), 1328) is Fit.FITS
    assert fit(frame, len(frame), 1327) is Fit.REFUSE


def test_an_ipv6_packet_that_no_sender_may_make_smaller_takes_the_other_path() -> None:
    for payload, outcome in ((1280 - 48, Fit.ELSEWHERE), (1281 - 48, Fit.REFUSE)):
        frame = bytearray(frame_of(6, UDP, PAYLOAD[:payload], 2000))
        assert fit(frame, len(frame), 1214) is outcome
    frame = bytearray(frame_of(6, UDP, PAYLOAD[:5000], 1232))
    assert fit(frame, len(frame), 1214) is Fit.ELSEWHERE


@given(st.integers(300, 1500), st.integers(68, 1499), st.booleans())
def test_fragments_are_the_packet_again(length: int, mtu: int, middle: bool) -> None:
    packet = df(make(4, UDP, PAYLOAD[: length // 8 * 8]), dont=False)
    if middle:  # itself a fragment, neither the first nor the last
        packet = packet[:6] + (0x2000 | 100).to_bytes(2, "big") + packet[8:]
        packet = packet[: len(packet) - (len(packet) - 20) % 8]
    assert may_fragment(packet)
    pieces = fragment(packet, mtu)
    data = b""
    for piece in pieces:
        field = int.from_bytes(piece[6:8], "big")
        assert len(piece) <= max(mtu, 0)
        assert packet_length_untrusted(piece) == len(piece)
        assert slow_sum(piece[:20]) == 0xFFFF
        assert piece[12:20] == packet[12:20]
        assert piece[4:6] == packet[4:6]
        assert (field & 0x1FFF) - (100 if middle else 0) == len(data) // 8
        assert bool(field & 0x2000) == (piece is not pieces[-1] or middle)
        data += piece[20:]
    assert data == packet[20:]


def test_only_options_that_must_be_copied_are_in_later_fragments() -> None:
    options = bytes((7, 7, 4, 1, 2, 3, 4)) + bytes((148, 4, 0, 0)) + b"\1"  # record route; router alert; nothing
    head = bytearray(struct.pack(">BBHHHBBH", 0x48, 0, 32 + 400, 9, 0, 64, UDP, 0) + b"".join(V4) + options)
    pieces = fragment(bytes(head) + PAYLOAD[:400], 200)
    assert [piece[0] & 15 for piece in pieces] == [8, 6, 6]
    assert all(piece[20:24] == bytes((148, 4, 0, 0)) for piece in pieces[1:])
    assert b"".join(piece[(piece[0] & 15) * 4 :] for piece in pieces) == PAYLOAD[:400]


# --- MSS


@VERSIONS
@given(
    before=st.lists(st.sampled_from([b"\1", b"\3\3\7", b"\4\2", b"\10\12" + bytes(8)]), max_size=3),
    mss=st.integers(1, 65535),
    mtu=st.integers(576, 1500),
    partial=st.booleans(),
    flags=st.sampled_from([0x02, 0x12, 0xC2]),
)
def test_an_mss_is_lowered_and_the_checksum_stays_right(
    version: int, before: list[bytes], mss: int, mtu: int, partial: bool, flags: int
) -> None:
    place = len(b"".join(before))
    frame = syn(version, b"".join(before) + b"\2\4" + mss.to_bytes(2, "big"), partial=partial, flags=flags)
    original = bytes(frame)
    most = mtu - (40 if version == 4 else 60)
    assert finished(version, virtio.segment(original)[0])
    assert clamp_mss(frame, len(frame), mtu) == (mss > most)
    assert finished(version, virtio.segment(frame)[0])
    at = 10 + (20 if version == 4 else 40) + 20 + place + 2
    assert int.from_bytes(frame[at : at + 2], "big") == min(mss, most)
    checksum_at = at - place - 2 - 4
    assert frame[:checksum_at] == original[:checksum_at]
    assert frame[checksum_at + 2 : at] == original[checksum_at + 2 : at]
    assert frame[at + 2 :] == original[at + 2 :]


@given(st.binary(max_size=40), st.integers(0, 255), st.booleans())
def test_options_that_make_no_sense_do_no_harm(options: bytes, flags: int, partial: bool) -> None:
    frame = syn(4, options, partial=partial, flags=flags)
    size = len(frame)
    clamp_mss(frame, size, 1200)
    assert len(frame) == size
    assert finished(4, virtio.segment(frame)[0])


@given(st.binary(min_size=30, max_size=200))
def test_bytes_that_are_no_packet_do_no_harm(data: bytes) -> None:
    frame = bytearray(bytes(10) + data)
    clamp_mss(frame, len(frame), 1200)
    assert len(frame) == 10 + len(data)


@VERSIONS
def test_what_is_no_syn_keeps_its_bytes(version: int) -> None:
    frame = syn(version, b"\2\4\5\264", partial=False, flags=0x10)
    before = bytes(frame)
    assert not clamp_mss(frame, len(frame), 1200)
    assert frame == before


# --- ICMP


def test_the_answer_to_ipv4_states_the_mtu_and_quotes_the_packet() -> None:
    packet = virtio.segment(frame_of(4, UDP, PAYLOAD[:1300], 2000))[0]
    answer = too_big_answer(packet, 1214)
    assert answer is not None
    assert len(answer) == 576
    assert finished(4, answer)
    assert slow_sum(answer[20:]) == 0xFFFF
    assert (answer[9], answer[20], answer[21]) == (ICMP, 3, 4)
    assert int.from_bytes(answer[26:28], "big") == 1214
    assert (answer[12:16], answer[16:20]) == (packet[16:20], packet[12:16])
    assert answer[28:] == packet[: 576 - 28]


def test_the_answer_to_ipv6_states_no_less_than_1280() -> None:
    packet = virtio.segment(frame_of(6, UDP, PAYLOAD[:1350], 2000))[0]
    for mtu, said in ((1350, 1350), (1214, 1280)):
        answer = too_big_answer(packet, mtu)
        assert answer is not None
        assert len(answer) == 1280
        assert finished(6, answer)
        assert (answer[6], answer[40], answer[41]) == (ICMPV6, 2, 0)
        assert int.from_bytes(answer[44:48], "big") == said
        assert (answer[8:24], answer[24:40]) == (packet[24:40], packet[8:24])
        assert answer[48:] == packet[: 1280 - 48]


def v4(source: str, destination: str, *, protocol: int = UDP, field: int = 0x4000, body: bytes = bytes(1300)) -> bytes:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, field, 64, protocol, 0) + addresses + body


def v6(source: str, destination: str, *, protocol: int = UDP, body: bytes = bytes(1300)) -> bytes:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + addresses + body


@pytest.mark.parametrize(
    "packet",
    [
        v4("10.1.0.1", "224.0.0.1"),
        v4("10.1.0.1", "255.255.255.255"),
        v4("224.0.0.1", "10.1.0.1"),
        v4("0.1.2.3", "10.1.0.1"),
        v4("127.0.0.1", "10.1.0.1"),
        v4("10.1.0.1", "10.1.0.2", field=0x4000 | 5),
        *(v4("10.1.0.1", "10.1.0.2", protocol=ICMP, body=bytes((one, 0)) * 500) for one in (3, 4, 5, 11, 12)),
        v6("fd00::1", "ff02::1"),
        v6("ff02::1", "fd00::1"),
        v6("::", "fd00::1"),
        v6("::1", "fd00::1"),
        *(v6("fd00::1", "fd00::2", protocol=ICMPV6, body=bytes((one, 0)) * 700) for one in (1, 2, 3, 4, 127, 137)),
        v6("fd00::1", "fd00::2", protocol=0, body=bytes((ICMPV6, 0)) + bytes(6) + bytes((1, 0)) * 700),
        v6("fd00::1", "fd00::2", protocol=44, body=bytes((UDP, 0, 0, 8)) + bytes(1400)),
    ],
)
def test_to_some_packets_there_is_never_an_answer(packet: bytes) -> None:
    assert too_big_answer(packet, 1200) is None


def test_echo_requests_get_one() -> None:
    assert too_big_answer(v4("10.1.0.1", "10.1.0.2", protocol=ICMP, body=b"\x08" + bytes(1300)), 1214)
    assert too_big_answer(v6("fd00::1", "fd00::2", protocol=ICMPV6, body=b"\x80" + bytes(1300)), 1280)
    assert too_big_answer(v4("10.1.0.1", "10.1.0.2", field=0x6000), 1214), "the first fragment tells the ports"


@given(st.binary(min_size=40, max_size=1500), st.sampled_from([0x40, 0x60]), st.integers(68, 1500))
def test_any_bytes_are_answered_or_not_but_do_no_harm(data: bytes, version: int, mtu: int) -> None:
    packet = bytes((version | data[0] & 15,)) + data[1:]
    answer = too_big_answer(packet, mtu)
    assert answer is None or packet_length_untrusted(answer) == len(answer)
    if version == 0x40:
        fragment(packet, mtu)
