"""Frames on a packet stream, and packets back to back."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.ip import addresses_untrusted, split_packets_untrusted
from edgevpn.proto.packet_stream import (
    HELLO_SIZE,
    MAX_FRAME,
    Hello,
    PacketDecoder,
    join,
    read_hello_untrusted,
    write_hello,
)


@given(st.lists(st.binary(min_size=11, max_size=3000), max_size=20), st.randoms(use_true_random=False))
def test_frames_survive_any_chunking(frames: list[bytes], chance: random.Random) -> None:
    data = join(frames)
    decoder = PacketDecoder()
    got: list[bytes] = []
    at = 0
    while at < len(data):
        size = chance.randint(1, 2000)
        got += [bytes(frame) for frame in decoder.feed_untrusted(data[at : at + size])]
        at += size
    assert got == frames


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_any_bytes_raise_one_kind_of_error_and_keep_at_most_a_frame(chunks: list[bytes]) -> None:
    decoder = PacketDecoder()
    with suppress(UntrustedDataError):
        for chunk in chunks:
            decoder.feed_untrusted(chunk)
    assert len(decoder._rest) <= MAX_FRAME + 4


def test_a_frame_longer_than_any_packet_is_refused_before_it_comes() -> None:
    with pytest.raises(UntrustedDataError):
        PacketDecoder().feed_untrusted((MAX_FRAME + 1).to_bytes(4, "big"))


def test_a_hello_reads_back_and_a_foreign_one_is_refused() -> None:
    hello = Hello(3, 1420)
    assert read_hello_untrusted(write_hello(hello)) == hello
    for bad in (b"", b"EVPS", b"EVPX" + write_hello(hello)[4:], bytes(HELLO_SIZE)):
        with pytest.raises(UntrustedDataError):
            read_hello_untrusted(bad)


@given(st.binary(max_size=200))
def test_packets_are_split_or_refused(data: bytes) -> None:
    with suppress(UntrustedDataError):
        packets, rest = split_packets_untrusted(data)
        assert b"".join(packets) + rest == data
    with suppress(UntrustedDataError):
        addresses_untrusted(data)
