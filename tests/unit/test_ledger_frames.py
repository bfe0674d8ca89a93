"""What nodes of ours say about the ledger, as bytes."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import ledger_frames as frames
from edgevpn.proto.entry import Entry
from edgevpn.proto.ledger_frames import Ask, Digest, Entries, Have, Peers, Summary, Want
from edgevpn.proto.seal import open_raw_untrusted, seal_raw
from tests.unit.ledger_samples import ALICE, heartbeat, machine

SAMPLES = [
    Digest(bytes(16), 1_786_528_800, 1_786_528_800_123, True),
    Ask(0, ["", "a", "0123456789abcdef"]),
    Summary(1, [("a", bytes(128))], [("b", bytes(40)), ("", b"")]),
    Want(bytes(16), False),
    Entries(frames.TOLD, True, True, False, bytes(8), frames.pack_entries([])),
    Have(bytes(8)),
    Peers([("12D3KooW", ["/ip4/10.0.0.1/tcp/4001", "/ip6/fd00::1/tcp/4001"])]),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENTRIES = st.lists(
    st.tuples(
        TEXT,
        TEXT,
        st.builds(
            Entry,
            TEXT,
            TEXT,
            st.integers(0, 2**64 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.none() | st.binary(max_size=70),
        ),
    ),
    max_size=5,
)


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_is_read_as_it_was_written(frame: frames.Frame) -> None:
    assert frames.read_frame_untrusted(frames.write_frame(frame)) == frame


@pytest.mark.parametrize(
    "frame",
    [
        Digest(bytes(15), 1, 1, True),
        Digest(bytes(16), -1, 1, True),
        Ask(1, ["x"]),
        Ask(1, ["a" * 17]),
        Ask(1, [""] * 257),
        Summary(1, [("a", bytes(127))], []),
        Summary(1, [("0123456789abcdef", bytes(128))], []),
        Summary(1, [], [("a", bytes(19))]),
        Summary(1, [], [("a", bytes(20 * 8193))]),
        Want(bytes(9), False),
        Want(bytes(8 * 8193), True),
        Entries(3, True, True, True, b"", b""),
        Entries(0, True, True, True, bytes(3), b""),
        Have(bytes(7)),
        Peers([("P", ["/ip4/10.0.0.1/tcp/1"])] * 33),
        Peers([("P", ["/ip4/10.0.0.1/tcp/1"] * 9)]),
        Peers([("P" * 129, [])]),
        Peers([("P", ["x" * 257])]),
    ],
)
def test_a_field_of_an_impossible_size_is_refused(frame: frames.Frame) -> None:
    with pytest.raises(UntrustedDataError):
        frames.read_frame_untrusted(frames.write_frame(frame))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused_and_nothing_else(data: bytes) -> None:
    try:
        frame = frames.read_frame_untrusted(data)
    except UntrustedDataError:
        return
    assert frames.read_frame_untrusted(frames.write_frame(frame)) == frame


@given(st.sampled_from(SAMPLES), st.integers(0, 300), st.integers(1, 255))
def test_a_damaged_frame_is_refused_or_is_another_frame(frame: frames.Frame, at: int, flip: int) -> None:
    data = bytearray(frames.write_frame(frame))
    data[at % len(data)] ^= flip
    try:
        frames.read_frame_untrusted(bytes(data))
    except UntrustedDataError:
        pass


@given(ENTRIES)
def test_entries_come_through_whole(told: list[frames.Told]) -> None:
    assert frames.entries_untrusted(frames.pack_entries(told)) == told


@given(st.binary(max_size=100))
def test_entries_that_are_none_are_refused(data: bytes) -> None:
    try:
        frames.entries_untrusted(data)
    except UntrustedDataError:
        pass


def test_a_bomb_is_not_inflated() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(200_000_000)) + packer.flush()
    with pytest.raises(UntrustedDataError, match="too large"):
        frames.entries_untrusted(bomb)


@pytest.mark.parametrize(
    "row",
    [
        ("b" * 4097, "k", "v", "o", 1, 1, False, b""),
        ("b", "k", "v" * (2**20 + 1), "o", 1, 1, False, b""),
        ("b", "k", "v", "o", -1, 1, False, b""),
        ("b", "k", "v", "o", 1, 2**63, False, b""),
        ("b", "k", "v", "o", 1, 1, False, bytes(4097)),
        ("b", "k", "v", "o", 1, 1, 1, b""),
    ],
)
def test_an_entry_beyond_its_bounds_is_refused(row: tuple[object, ...]) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    with pytest.raises(UntrustedDataError):
        frames.entries_untrusted(packer.compress(msgspec.msgpack.encode([row])) + packer.flush())


def test_a_heartbeat_costs_no_more_than_its_signature_and_name_need() -> None:
    told = [("healthcheck", ALICE.peer_id, heartbeat(ALICE, version=1_786_528_800_123_456_789))]
    assert len(frames.pack_entries(told)) < 64 + 52 + 60


def test_many_entries_are_cut_into_portions_and_none_is_lost() -> None:
    told = [("machines", str(n), machine(ALICE, n, "x" * 2000, key=str(n))) for n in range(1, 300)]
    portions = list(frames.in_portions(told))
    assert len(portions) > 3
    assert [one for portion in portions for one in portion] == told
    assert all(len(frames.pack_entries(portion)) < frames.MAX_FRAME for portion in portions)
    assert list(frames.in_portions([])) == [[]]


def test_a_sealed_frame_opens_for_its_receiver_only() -> None:
    sealed = seal_raw(b"frame", "k" * 32, frames.additional_data("one", "other"))
    assert open_raw_untrusted(sealed, ["x" * 32, "k" * 32], frames.additional_data("one", "other")) == (b"frame", 1)
    for additional in (frames.additional_data("other", "one"), frames.additional_data("one", "third"), b""):
        with pytest.raises(UntrustedDataError):
            open_raw_untrusted(sealed, ["k" * 32], additional)
