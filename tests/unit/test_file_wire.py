"""File messages, and the paths that must not lead out of a directory."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import file_wire as wire
from edgevpn.proto.file_wire import Ask, Changed, Data, Finished, Get, Item, Offer, Refusal, check_path_untrusted

HASH = bytes(32)


@pytest.mark.parametrize("message", [Ask("x"), Get(1, 2), Finished()])
def test_a_receivers_message_reads_as_it_was_written(message: wire.FromReceiver) -> None:
    data = wire.write(message)
    assert wire.length_untrusted(data[:4]) == len(data) - 4
    assert wire.read_from_receiver_untrusted(data[4:]) == message


@pytest.mark.parametrize(
    "message",
    [
        Offer("x", False, 1, 5),
        Item(b"a/b", 5, HASH, True),
        Item(b"a", 0, b"", directory=True),
        Data(1, 2, 3),
        Changed(1),
        Refusal("no"),
    ],
)
def test_a_senders_message_reads_as_it_was_written(message: wire.FromSender) -> None:
    assert wire.read_from_sender_untrusted(wire.write(message)[4:]) == message


@given(st.binary(max_size=200))
def test_what_is_no_file_message_raises_one_error(data: bytes) -> None:
    for read in (wire.read_from_receiver_untrusted, wire.read_from_sender_untrusted):
        try:
            read(data)
        except UntrustedDataError:
            continue
        assert data


@pytest.mark.parametrize(
    "message",
    [
        Offer("x", True, -1, 5),
        Offer("x", True, 1 << 40, 5),
        Offer("x", False, 2, 5),
        Item(b"a", -1, HASH),
        Item(b"a", 1, b"short"),
        Item(b"a", 1, b"", directory=True),
        Item(b"../a", 1, HASH),
        Data(1, -1, 1),
        Data(1, 1, -1),
    ],
)
def test_a_senders_word_that_can_not_be_is_refused(message: wire.FromSender) -> None:
    with pytest.raises(UntrustedDataError):
        wire.read_from_sender_untrusted(wire.write(message)[4:])


def test_a_message_longer_than_any_is_refused_before_it_is_read() -> None:
    with pytest.raises(UntrustedDataError):
        wire.length_untrusted(b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/etc/passwd",
        b"..",
        b"../x",
        b"a/../../x",
        b"a/..",
        b"./a",
        b"a//b",
        b"a/",
        b"a\0b",
        b"a\\b",
        b"C:\\x",
        b"a\nb",
        b"\x1b[2Ja",
        b"x" * 256,
        b"/".join([b"a"] * 65),
        b"a/" * 1500,
        b"NUL",
        b"con.txt",
        b"a/LPT1",
        b"aux ",
        b".x.edgevpn-part",
    ],
)
def test_paths_that_lead_out_or_make_trouble_are_refused(path: bytes) -> None:
    with pytest.raises(UntrustedDataError):
        check_path_untrusted(path)


@pytest.mark.parametrize("path", [b"a", b"a/b/c", "ä/ö".encode(), b"...", b"-rf", b"a b", b"\xff\xfe", b"console"])
def test_plain_paths_are_taken(path: bytes) -> None:
    assert b"/".join(check_path_untrusted(path)) == path


@given(st.binary(max_size=60))
def test_a_path_that_is_taken_stays_below_its_directory(path: bytes) -> None:
    try:
        parts = check_path_untrusted(path)
    except UntrustedDataError:
        return
    base = b"/some/where"
    assert os.path.normpath(os.path.join(base, *parts)).startswith(base + b"/")


@pytest.mark.parametrize(
    ("items", "count"),
    [
        ([Item(b"a", 1, HASH), Item(b"a", 1, HASH)], 2),
        ([Item(b"a", 1, HASH), Item(b"a/b", 1, HASH)], 2),
        ([Item(b"a", 1, HASH)], 2),
    ],
)
def test_items_that_do_not_fit_together_are_refused(items: list[Item], count: int) -> None:
    offer = Offer("x", True, count, sum(item.size for item in items))
    with pytest.raises(UntrustedDataError):
        wire.check_items_untrusted(offer, items)


def test_one_file_can_not_be_offered_as_a_path() -> None:
    with pytest.raises(UntrustedDataError):
        wire.check_items_untrusted(Offer("x", False, 1, 1), [Item(b"a/b", 1, HASH)])
