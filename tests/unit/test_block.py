"""Blocks: their JSON, their hash, and what is refused."""

import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.block import (
    MAX_NAME,
    MAX_VALUE,
    NULL_BUCKET,
    NULL_STORAGE,
    Block,
    checksum,
    first_block,
    hash_input,
    next_block,
    read_block_untrusted,
    timestamp_text,
    to_ns,
    write_block,
)
from edgevpn.proto.entry import Entry
from tests.unit.test_entry import ENTRIES, JSON, TEXT

BLOCKS = st.builds(
    Block,
    index=st.integers(-(2**63), 2**63 - 1),
    timestamp=TEXT,
    storage=st.dictionaries(
        TEXT, st.dictionaries(TEXT, ENTRIES, max_size=4) | st.just(NULL_BUCKET), max_size=3
    ) | st.just(NULL_STORAGE),
    hash=TEXT,
    prev_hash=TEXT,
)  # fmt: skip


@given(BLOCKS)
def test_a_block_is_read_as_it_was_written(block):
    once = read_block_untrusted(write_block(block))
    assert (once.index, once.timestamp, once.hash, once.prev_hash) == (
        block.index, block.timestamp, block.hash, block.prev_hash
    )  # fmt: skip
    assert {bucket: set(keys) for bucket, keys in once.storage.items()} == {
        bucket: set(keys) for bucket, keys in block.storage.items()
    }
    assert write_block(once) == write_block(block)


@given(BLOCKS)
def test_a_written_block_holds_no_html(block):
    assert not any(character in write_block(block).decode() for character in "<>&\u2028\u2029")


def test_null_and_empty_are_told_apart_when_written():
    assert b'"Storage":null' in write_block(Block())
    assert b'"Storage":{}' in write_block(Block(storage={}))
    assert write_block(read_block_untrusted('{"Storage":{"x":null,"y":{}}}')).count(b"null") == 1


def test_the_hash_covers_all_but_itself():
    block = Block(1, "t", {"b": {"k": Entry("v", "o", 2, 3, True, b"\x00\xff"), "a": Entry("w")}}, "h", "p")
    assert hash_input(block) == b"1tmap[b:map[a:{w  0 0 false []} k:{v o 2 3 true [0 255]}]]p"


def test_the_first_block_carries_the_hash_of_nothing():
    block = first_block(0)
    assert block.hash == "993c923422cd134b6aad0235ebfd4290a7b27b83d1bcd6b1fb2addc4b45b2fa6"
    assert (block.index, block.prev_hash, block.storage) == (0, "", {})


def test_the_next_block_points_back():
    first = first_block(0)
    second = next_block(first, {"b": {}}, "t")
    assert (second.index, second.prev_hash) == (1, first.hash)
    assert second.hash == checksum(second)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0, "1970-01-01 00:00:00 +0000 UTC"),
        (1_786_528_800.5, "2026-08-12 10:00:00.5 +0000 UTC"),
        (1_786_528_800 + 2**-20, "2026-08-12 10:00:00.000000953 +0000 UTC"),
    ],
)
def test_times_are_written_as_go_writes_them(now, text):
    assert timestamp_text(now) == text


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(1_786_528_801, 1_786_528_801 * 10**9), (-0.5, -(10**9) // 2)])
def test_seconds_are_exact_nanoseconds(seconds, nanoseconds):
    assert to_ns(seconds) == nanoseconds


def test_a_second_storage_adds_to_the_first_and_null_empties_it():
    assert set(read_block_untrusted('{"Storage":{"a":{}},"storage":{"b":{}}}').storage) == {"a", "b"}
    assert read_block_untrusted('{"Storage":{"a":{}},"Storage":null}').storage is NULL_STORAGE


def test_of_duplicate_buckets_and_keys_the_last_wins_whole():
    block = read_block_untrusted('{"Storage":{"a":{"k":"1","l":"1"},"a":{"k":{"Version":2},"k":"3"}}}')
    assert block.storage == {"a": {"k": Entry("3")}}


def test_a_lone_surrogate_becomes_the_replacement_character():
    block = read_block_untrusted('{"Storage":{"\\ud800":{"\\uDFFFk":"\\ud83dx\\ud83d\\udc0e"}}}')
    assert block.storage == {"\ufffd": {"\ufffdk": Entry("\ufffdx\U0001f40e")}}
    assert checksum(block)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "[]", "5", '{"Index":NaN}', '{"Index":-Infinity}', '{"x":NaN}', '{"Index":1e3}', '{"Index":"1"}',
        '{"Hash":5}', '{"Timestamp":[]}', '{"Storage":[]}', '{"Storage":{"b":"k"}}', '{"Storage":{"b":{"k":5}}}',
        '{"Index":' + "1" * 5000 + "}", '{"Index":1}x', '\ufeff{"Index":1}', '{"Hash":"\n"}', '{"Hash":"\ud800"}',
        b'{"Hash":"\xff"}', '{"x":' + "[" * 100_000 + "]" * 100_000 + "}", "[" * 5000, '{"x":' * 50_000,
    ],
)  # fmt: skip
def test_what_is_no_block_is_refused(text):
    with pytest.raises(UntrustedDataError) as caught:
        read_block_untrusted(text)
    assert "\n" not in str(caught.value)


def of_size(**sizes):
    key, value = "k" * sizes.get("key", 1), "v" * sizes.get("value", 1)
    return json.dumps({"Storage": {"b" * sizes.get("bucket", 1): {key: value}}})


def test_a_block_has_bounds():
    read_block_untrusted(of_size(key=MAX_NAME, bucket=MAX_NAME, value=MAX_VALUE))
    for text in (of_size(key=MAX_NAME + 1), of_size(bucket=MAX_NAME + 1), of_size(value=MAX_VALUE + 1)):
        with pytest.raises(UntrustedDataError):
            read_block_untrusted(text)
    with pytest.raises(UntrustedDataError, match="larger than 10 bytes"):
        read_block_untrusted('{"Index":100}', max_size=10)


def test_a_block_has_a_bounded_number_of_entries():
    text = json.dumps({"Storage": {"b": {str(number): "" for number in range(5)}}})
    assert len(read_block_untrusted(text, max_entries=5).storage["b"]) == 5
    with pytest.raises(UntrustedDataError, match="more than 4 entries"):
        read_block_untrusted(text, max_entries=4)


def test_brackets_that_would_become_large_objects_are_refused_before_they_do():
    with pytest.raises(UntrustedDataError, match="too many parts"):
        read_block_untrusted('{"x":[' + "[]," * 100_000 + "[]]}", max_entries=1000)


@given(st.text() | st.binary())
def test_any_data_is_a_block_or_refused(data):
    with contextlib.suppress(UntrustedDataError):
        read_block_untrusted(data)


@given(st.dictionaries(st.sampled_from(["Index", "Timestamp", "Storage", "hash", "PrevHash", "z"]), JSON))
def test_any_object_is_a_block_or_refused(value):
    try:
        block = read_block_untrusted(json.dumps(value))
    except UntrustedDataError:
        return
    assert write_block(read_block_untrusted(write_block(block))) == write_block(block)


@given(st.dictionaries(TEXT, st.dictionaries(TEXT, JSON, max_size=2), max_size=2), st.binary(max_size=3), st.data())
def test_a_damaged_block_is_read_or_refused(storage, damage, data):
    text = json.dumps({"Index": 1, "Storage": storage}).encode()
    at = data.draw(st.integers(0, len(text)))
    with contextlib.suppress(UntrustedDataError):
        read_block_untrusted(text[:at] + damage + text[at + len(damage) :])
