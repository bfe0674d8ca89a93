"""Gossip messages: envelope, compression, and what must not get through."""

import contextlib
import gzip
import json

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import gossip_message as gm

KEY = "0123456789abcdef0123456789abcdef"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_message_opens_with_the_key_that_sealed_it():
    data = gm.write_message(gm.compress(b'{"Index":1}'), KEY)
    opened = gm.open_message_untrusted(data, ["x" * 32, KEY])
    assert gm.decompress_untrusted(opened.plaintext) == b'{"Index":1}'
    assert (opened.key_index, opened.annotations) == (1, None)


def test_the_envelope_is_written_as_go_writes_it():
    assert gm.write_envelope(gm.Envelope("ab")) == b'{"Message":"ab","SenderID":"","Annotations":null}'
    annotated = gm.Envelope("ab", annotations={"z": "<&>", "a": 1, "é": "\u2028"})
    assert gm.write_envelope(annotated) == (
        '{"Message":"ab","SenderID":"","Annotations":{"a":1,"z":"\\u003c\\u0026\\u003e","é":"\\u2028"}}'.encode()
    )


@given(st.text(), st.text(), st.none() | st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.none()))
def test_an_envelope_survives_the_wire(message, sender, annotations):
    if annotations is not None and any(abs(v) == float("inf") for v in annotations.values() if isinstance(v, float)):
        annotations = None
    envelope = gm.Envelope(message, sender, annotations)
    assert gm.parse_envelope_untrusted(gm.write_envelope(envelope)) == envelope


@pytest.mark.parametrize(
    ("data", "message", "annotations"),
    [
        ('{"MESSAGE":"a"}', "a", None),
        ('{"meſſage":"a"}', "a", None),
        ('{"Message":"a","message":"b"}', "b", None),
        ('{"Message":"a","Message":null}', "a", None),
        ('{"Annotations":{"a":1},"annotations":{"b":2}}', "", {"a": 1, "b": 2}),
        ('{"Annotations":{"a":1},"Annotations":null}', "", None),
        ('{"Annotations":{"a":{"x":1,"x":2},"b":[{}]}}', "", {"a": {"x": 2}, "b": [{}]}),
        ('{"Extra":[1,{"Message":"x"}],"Message":"a"} \n', "a", None),
        ("null", "", None),
        ("{}", "", None),
    ],
)
def test_envelopes_are_read_as_go_reads_them(data, message, annotations):
    envelope = gm.parse_envelope_untrusted(data.encode())
    assert (envelope.message, envelope.annotations) == (message, annotations)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"5",
        b'{"Message":5}',
        b'{"SenderID":[]}',
        b'{"Annotations":[1]}',
        b'{"Annotations":"x"}',
        b'{"Message":"a"} x',
        b'{"Message":"a"',
        b'{"Message":"\xff"}',
        b'{"Message":"\\ud800"}',
        b'{"Annotations":{"\\udfff":1}}',
        b'{"Annotations":{"a":NaN}}',
        b'{"Annotations":{"a":1e999}}',
        b'{"Annotations":{"a":' + b"9" * 5000 + b"}}",
        b"\xef\xbb\xbf{}",
        b'{"Message":"a"}'.decode().encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_bad_envelope_is_refused(data):
    with pytest.raises(UntrustedDataError):
        gm.parse_envelope_untrusted(data)


def test_members_of_a_gzip_are_joined():
    assert gm.decompress_untrusted(gzip.compress(b"ab") + gzip.compress(b"") + gzip.compress(b"cd")) == b"abcd"


@pytest.mark.parametrize("tail", [b"x", b"\0", b"\0" * 512, b"\x1f", b"\x1f\x8b\x08"])
def test_what_follows_a_gzip_must_be_a_gzip(tail):
    with pytest.raises(UntrustedDataError):
        gm.decompress_untrusted(gzip.compress(b"ab") + tail)


def test_a_gzip_cut_anywhere_is_refused():
    whole = gm.compress(b"some text to compress")
    for end in range(len(whole)):
        with pytest.raises(UntrustedDataError):
            gm.decompress_untrusted(whole[:end])


def test_a_gzip_with_a_wrong_checksum_is_refused():
    whole = bytearray(gm.compress(b"text"))
    whole[-5] ^= 1
    with pytest.raises(UntrustedDataError):
        gm.decompress_untrusted(bytes(whole))


def test_a_block_may_be_as_large_as_the_bound_and_no_larger():
    assert gm.decompress_untrusted(gm.compress(b"a" * 1000), 1000) == b"a" * 1000
    two = gm.compress(b"a" * 500)
    assert len(gm.decompress_untrusted(two + two, 1000)) == 1000
    for bomb in (gm.compress(b"a" * 1001), two + gm.compress(b"a" * 501)):
        with pytest.raises(UntrustedDataError, match="larger than 1000"):
            gm.decompress_untrusted(bomb, 1000)


def test_a_gzip_bomb_ends_at_the_bound():
    bomb = gm.compress(bytes(40 * 1024 * 1024))
    with pytest.raises(UntrustedDataError, match="larger"):
        gm.decompress_untrusted(bomb)


def test_thousands_of_empty_members_are_not_read():
    with pytest.raises(UntrustedDataError, match="too many members"):
        gm.decompress_untrusted(gm.compress(b"") * 5000)


def test_compression_gives_the_same_bytes_each_time():
    assert gm.compress(b"x") == gm.compress(b"x")
    assert gzip.decompress(gm.compress(b"x")) == b"x"


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_raise_only_untrusted_data(data):
    for read in (gm.parse_envelope_untrusted, gm.decompress_untrusted, lambda d: gm.open_message_untrusted(d, [KEY])):
        try:
            read(data)
        except UntrustedDataError as error:
            assert "\n" not in str(error)  # noqa: PT017


@given(
    st.dictionaries(st.sampled_from(["Message", "message", "SenderID", "Annotations", "x"]), json_values).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_arbitrary_fields_raise_only_untrusted_data(data):
    with contextlib.suppress(UntrustedDataError):
        gm.write_envelope(gm.parse_envelope_untrusted(data))
