"""What values hold, and who they say their owner is."""

import contextlib
import json

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import values
from edgevpn.proto.values import Machine, Service, User
from tests.unit.test_entry import JSON, TEXT


def test_values_are_written_in_the_order_of_gos_structs():
    assert values.write_value(Machine("p", "h", "linux", "amd64", "10.1.0.1", "v1")) == (
        '{"PeerID":"p","Hostname":"h","OS":"linux","Arch":"amd64","Address":"10.1.0.1","Version":"v1"}'
    )
    assert values.write_value(User("p", "t")) == '{"PeerID":"p","Timestamp":"t"}'
    assert values.write_value(Service("p", "<n>")) == '{"PeerID":"p","Name":"\\u003cn\\u003e"}'
    assert values.write_dns({16: "text", 1: "10.1.0.1", 2: "ns"}) == '{"1":"10.1.0.1","16":"text","2":"ns"}'
    assert values.write_heartbeat(1_786_528_800.9) == '"2026-08-12T10:00:00Z"'
    assert values.write_text("a&b") == '"a\\u0026b"'


@given(TEXT.filter(bool), TEXT)
def test_values_are_read_as_they_were_written(one, other):
    assert values.machine_untrusted(values.write_value(Machine(one, other))) == Machine(one, other)
    assert values.user_untrusted(values.write_value(User(one, other))) == User(one, other)
    assert values.service_untrusted(values.write_value(Service(one, other))) == Service(one, other)
    assert values.dns_untrusted(values.write_dns({1: one, 65535: other})) == {1: one, 65535: other}
    assert values.text_value_untrusted(values.write_text(one)) == one


@pytest.mark.parametrize(
    ("value", "owner"),
    [
        ('{"PeerID":"p"}', "p"),
        ('{"peerid":"p"}', "p"),
        ('{"PEERID":"p","PeerID":"q"}', "q"),
        ('{"PeerID":"p","PeerID":5}', "p"),
        ('{"PeerID":"p","peerId":null}', "p"),
        ('{"PeerID":"p","Hostname":5}', "p"),
        ('{"PeerID":"p","x":' + "9" * 5000 + "}", "p"),
        ('{"PeerID":"\\ud800"}', "\ufffd"),
        ('{"PeerID":"p"}x', ""),
        ('{"PeerID":"p","x":NaN}', ""),
        ('{"PeerID":5}', ""),
        ('{"Peer":"p"}', ""),
        ('["PeerID","p"]', ""),
        ('"p"', ""),
        ("null", ""),
        ("", ""),
        ('{"PeerID":"p","x":' + "[" * 100_000, ""),
    ],
)
def test_the_owner_that_a_value_names_is_found_as_go_finds_it(value, owner):
    assert values.peer_id_in_value(value) == owner


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-08-12T10:00:00Z", 1_786_528_800),
        ("2026-08-12T12:00:00+02:00", 1_786_528_800),
        ("2026-08-12T05:30:00-04:30", 1_786_528_800),
        ("2026-08-12T9:00:00Z", 1_786_525_200),
        ("2026-08-13T10:00:00+24:00", 1_786_528_800),
        ("1970-01-01T00:00:00Z", 0),
        ("0000-02-29T00:00:00Z", -62_162_121_600),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ],
)
def test_times_are_read_as_go_reads_them(text, seconds):
    assert values.parse_rfc_3339(text) == seconds * 10**9


def test_a_fraction_has_nine_digits_that_count():
    assert values.parse_rfc_3339("1970-01-01T00:00:00.5Z") == 500_000_000
    assert values.parse_rfc_3339("1970-01-01T00:00:00,1234567899Z") == 123_456_789


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-08-12", "2026-08-12 10:00:00Z", "2026-08-12T10:00:00", "2026-08-12T10:00:00z",
        "2026-08-12T24:00:00Z", "2026-08-12T10:60:00Z", "2026-08-12T10:00:60Z", "2026-13-01T10:00:00Z",
        "2026-02-29T10:00:00Z", "2026-08-00T10:00:00Z", "2026-08-12T10:00:00.Z", "2026-08-12T10:00:00+25:00",
        "2026-08-12T10:00:00+0200", "2026-08-12T10:00:00Z ", "26-08-12T10:00:00Z", "２026-08-12T10:00:00Z",
    ],
)  # fmt: skip
def test_other_texts_are_no_time(text):
    assert values.parse_rfc_3339(text) is None


@pytest.mark.parametrize("value", ["", "5", "null", '"yesterday"', "2026-08-12T10:00:00Z", '["2026-08-12T10:00:00Z"]'])
def test_a_heartbeat_that_is_no_time_is_none(value):
    assert values.heartbeat_time_untrusted(value) is None


@pytest.mark.parametrize(
    "value", ["", "{}", '{"PeerID":""}', '{"PeerID":[]}', '{"PeerID":"p","Name":{},"Timestamp":0,"OS":1}', "[]"]
)
def test_a_value_without_a_peer_or_with_wrong_fields_is_refused(value):
    for read in (values.machine_untrusted, values.service_untrusted, values.user_untrusted):
        with pytest.raises(UntrustedDataError):
            read(value)


def test_values_are_bounded():
    long = "x" * (values.MAX_FIELD + 1)
    with pytest.raises(UntrustedDataError):
        values.machine_untrusted(values.write_value(Machine("p", long)))
    with pytest.raises(UntrustedDataError):
        values.text_value_untrusted(values.write_text(long))
    with pytest.raises(UntrustedDataError):
        values.dns_untrusted(values.write_dns(dict.fromkeys(range(values.MAX_RECORDS + 1), "")))


@pytest.mark.parametrize("value", ['{"a":"x"}', '{"":"x"}', '{"-1":"x"}', '{"65536":"x"}', '{"1":5}', "[]"])
def test_a_dns_value_maps_numbers_to_texts(value):
    with pytest.raises(UntrustedDataError):
        values.dns_untrusted(value)


@given(st.text() | JSON.map(json.dumps))
def test_any_value_is_read_or_refused(value):
    assert isinstance(values.peer_id_in_value(value), str)
    values.heartbeat_time_untrusted(value)
    for read in (
        values.machine_untrusted,
        values.user_untrusted,
        values.service_untrusted,
        values.dns_untrusted,
        values.text_value_untrusted,
    ):
        with contextlib.suppress(UntrustedDataError):
            read(value)
