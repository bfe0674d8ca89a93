"""Messages of circuit relay v2 and of hole punching."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, strategies as st

import edgevpn.p2p  # noqa: F401  # before libp2p  # isort: skip
from libp2p.utils.varint import encode_uvarint

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.circuit import (
    MAX_ADDRS,
    MAX_MESSAGE,
    Hop,
    HopKind,
    Punch,
    PunchKind,
    Reservation,
    Status,
    Stop,
    StopKind,
    read_hop_untrusted,
    read_punch_untrusted,
    read_stop_untrusted,
    status_text,
    write_hop,
    write_punch,
    write_stop,
)

PEERS = st.binary(min_size=1, max_size=64) | st.just(b"")
ADDRS = st.lists(st.binary(min_size=1, max_size=80), max_size=MAX_ADDRS).map(tuple)
U64 = st.integers(0, 2**64 - 1)
HOPS = st.builds(
    Hop,
    st.sampled_from(HopKind),
    PEERS,
    st.none() | st.builds(Reservation, U64, ADDRS),
    st.sampled_from(Status).map(int),
)
STOPS = st.builds(Stop, st.sampled_from(StopKind), PEERS, st.sampled_from(Status).map(int))
PUNCHES = st.builds(Punch, st.sampled_from(PunchKind), ADDRS)


def body(message: bytes) -> bytes:
    """Without its length, which must be right."""
    for size in (1, 2):
        rest = message[size:]
        if message[:size] == encode_uvarint(len(rest)):
            return rest
    raise AssertionError("no length")


@given(HOPS)
def test_a_hop_message_is_read_as_it_was_written(hop: Hop) -> None:
    assert read_hop_untrusted(body(write_hop(hop))) == hop


@given(STOPS)
def test_a_stop_message_is_read_as_it_was_written(stop: Stop) -> None:
    assert read_stop_untrusted(body(write_stop(stop))) == stop


@given(PUNCHES)
def test_a_punch_message_is_read_as_it_was_written(punch: Punch) -> None:
    assert read_punch_untrusted(body(write_punch(punch))) == punch


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_untrusted(data: bytes) -> None:
    for read in (read_hop_untrusted, read_stop_untrusted, read_punch_untrusted):
        with suppress(UntrustedDataError):
            read(data)


@given(HOPS, st.data())
def test_a_message_with_a_byte_changed_or_cut_off_is_a_message_or_untrusted(hop: Hop, data: st.DataObject) -> None:
    whole = bytearray(body(write_hop(hop)))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    with suppress(UntrustedDataError):
        read_hop_untrusted(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(
    "data",
    [
        bytes(MAX_MESSAGE + 1),
        b"\x08\x07",  # type 7
        b"\x08",
        b"\x12\x00",  # a peer without an ID
        b"\x12\x43\x0a\x41" + bytes(65),  # one of 65 bytes
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # more than 64 bits
        b"\x0b",  # a group without an end
        b"\x0f",  # a wire type that there is not
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedDataError):
        read_hop_untrusted(data)


def test_the_bytes_are_those_of_the_specification() -> None:
    wish = Hop(HopKind.CONNECT, b"abc")
    assert write_hop(wish) == b"\x09\x08\x01\x12\x05\x0a\x03abc"
    place = Hop(HopKind.STATUS, reservation=Reservation(5, (b"xy",)), status=100)
    assert write_hop(place) == b"\x0c\x08\x02\x1a\x06\x08\x05\x12\x02xy\x28\x64"
    assert write_stop(Stop(StopKind.STATUS, status=100)) == b"\x04\x08\x01\x20\x64"
    assert write_punch(Punch(PunchKind.SYNC)) == b"\x03\x08\xac\x02"


def test_fields_that_nobody_knows_are_skipped() -> None:
    more = b"\x32\x03abc" + b"\x39" + bytes(8) + b"\x3d" + bytes(4) + b"\x40\x05"
    assert read_hop_untrusted(more + b"\x08\x01\x12\x03\x0a\x01p") == Hop(HopKind.CONNECT, b"p")


def test_of_many_addresses_the_first_are_taken_and_too_long_ones_none() -> None:
    many = b"".join(b"\x12\x01" + bytes([n]) for n in range(40))
    long = b"\x12" + encode_uvarint(600) + bytes(600)
    read = read_punch_untrusted(b"\x08\x64" + long + many)
    assert read.addrs == tuple(bytes([n]) for n in range(MAX_ADDRS))


def test_a_status_is_told_in_words() -> None:
    assert status_text(202) == "permission denied"
    assert status_text(7) == "status 7"
