"""Towards a Go node, whose interface takes less than ours: TCP goes finer, others are cut or told."""

from __future__ import annotations

import pytest

from edgevpn.proto.ip import TCP, UDP
from edgevpn.proto.packet_stream import PLAIN
from edgevpn.tun.narrow_stream import NarrowStream
from tests.unit.test_fit import df, syn
from tests.unit.test_virtio import frame_of, verify

MTU = 1200


@pytest.fixture
def answers() -> list[bytes]:
    return []


@pytest.fixture
def narrow(answers: list[bytes]) -> NarrowStream:
    return NarrowStream(MTU, answers.append)


def udp_frame(*, dont: bool) -> bytes:
    frame = frame_of(4, UDP, bytes(1300), 1400)
    return frame[:10] + df(frame[10:], dont=dont)


@pytest.mark.parametrize("length", [100, 1300, 40_000])
def test_tcp_arrives_in_packets_that_fit(narrow: NarrowStream, length: int) -> None:
    payload = bytes(range(256)) * (length // 256 + 1)
    packets = narrow.packets(frame_of(4, TCP, payload[:length], 1368), 0.0)
    assert all(len(packet) <= MTU for packet in packets)
    assert b"".join(map(verify, packets)) == payload[:length]


def test_udp_that_may_be_is_fragmented(narrow: NarrowStream, answers: list[bytes]) -> None:
    frame = udp_frame(dont=False)
    packets = narrow.packets(frame, 0.0)
    assert [len(packet) <= MTU for packet in packets] == [True, True]
    assert not answers


def test_the_sender_of_what_may_not_is_told_and_not_more_often_than_is_good(
    narrow: NarrowStream, answers: list[bytes]
) -> None:
    frame = udp_frame(dont=True)
    for _ in range(100):
        assert narrow.packets(frame, 1000.0) == []
    assert len(answers) == 20
    assert answers[0][20:22] == bytes((3, 4))
    assert int.from_bytes(answers[0][26:28], "big") == MTU
    assert narrow.refused == 100
    narrow.packets(frame, 1001.0)
    assert len(answers) == 21


def test_connections_are_told_a_smaller_mss_in_both_directions(narrow: NarrowStream) -> None:
    frame = syn(4, b"\2\4\5\x8c", partial=True)
    (packet,) = narrow.packets(bytes(frame), 0.0)
    assert (MTU - 40).to_bytes(2, "big") in packet[20:]
    assert (MTU - 40).to_bytes(2, "big") in bytes(narrow.clamp(bytes(frame)))
    plain = PLAIN + bytes(60)
    assert narrow.clamp(plain) is plain


def test_what_makes_no_sense_is_counted_and_dropped(narrow: NarrowStream) -> None:
    frame = bytearray(frame_of(4, TCP, bytes(3000), 1368))
    frame[1] = 0
    frame[8:10] = b"\xff\xff"  # the checksum is beyond it
    assert narrow.packets(bytes(frame[:1100]), 0.0) == []
    assert narrow.refused == 1
