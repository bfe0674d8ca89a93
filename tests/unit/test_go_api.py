"""The Go program's bodies, of values that any member of the network may have written."""

from __future__ import annotations

import json

from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_api, go_json
from edgevpn.proto.go_api import Around
from edgevpn.proto.messages import LedgerEntry

NOW = 1_786_528_800.0
ALONE = Around("me", (), (), ())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["PeerID", "peerid", "Hostname", "Name", "Regex", "Records", "1", "x"])
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
VALUES = JSON.map(json.dumps) | st.text(max_size=40)


def entry(bucket: str, key: str, value: str, *, deleted: bool = False) -> LedgerEntry:
    return LedgerEntry(bucket, key, value, "owner", 1, int(NOW), deleted)


@given(st.lists(VALUES, max_size=5))
def test_no_value_breaks_a_list_and_each_has_its_place_in_it(values: list[str]) -> None:
    machines = go_api.machines(values, ALONE)
    assert [list(machine) for machine in machines] == [
        ["PeerID", "Hostname", "OS", "Arch", "Address", "Version", "Connected", "OnChain", "Online"]
    ] * len(values)
    assert all(isinstance(text, str) for machine in machines for text in list(machine.values())[:6])
    assert len(go_api.structs(values, ("PeerID", "Name"))) == len(values)
    names = go_api.dns_list({str(number): value for number, value in enumerate(values)})
    assert all(isinstance(record, str) for name in names for record in name["Records"].values())
    assert go_api.online([entry("healthcheck", "p", value) for value in values], NOW, 900) <= {"p"}
    assert json.loads(go_api.body(machines)) == machines


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_what_is_posted_is_a_pattern_with_records_or_refused(data: bytes) -> None:
    try:
        pattern, records = go_api.read_dns_untrusted(data)
    except UntrustedDataError:
        return
    assert isinstance(pattern, str)
    assert all(0 <= kind <= 65535 and isinstance(record, str) for kind, record in records.items())


@given(st.text(max_size=40))
def test_bodies_are_written_as_go_does(text: str) -> None:
    written = go_api.body({"message": text})
    assert written.endswith(b"}\n")
    assert not set("<>&") & set(written.decode())
    assert json.loads(written) == {"message": text}
    assert written.decode() == go_json.write({"message": text}) + "\n"


def test_tombstones_are_not_shown_and_a_bucket_of_them_alone_is_none() -> None:
    found = go_api.buckets([entry("a", "2", "x"), entry("a", "1", "y"), entry("b", "k", "", deleted=True)])
    assert found == {"a": {"1": "y", "2": "x"}}
    assert list(found["a"]) == ["1", "2"]


def test_record_types_have_their_names_and_unknown_ones_gos_zero() -> None:
    assert go_api.read_dns_untrusted(b'{"Regex":"a","Records":{"a":"1","AAAA":"2","TYPE65280":"3","NOSUCH":"4"}}') == (
        "a",
        {1: "1", 28: "2", 65280: "3", 0: "4"},
    )
    [shown] = go_api.dns_list({"a": '{"1":"1","28":"2","65280":"3","0":"4"}'})
    assert shown["Records"] == {"A": "1", "AAAA": "2", "TYPE65280": "3", "None": "4"}


def test_a_heartbeat_is_fresh_until_it_is_too_old() -> None:
    beat = entry("healthcheck", "p", json.dumps("2026-08-12T10:00:00Z"))
    at = 1_786_528_800.0
    assert go_api.online([beat], at + 899, 900) == {"p"}
    assert go_api.online([beat], at + 900, 900) == set()
    assert go_api.online([entry("healthcheck", "p", beat.value, deleted=True)], at, 900) == set()
