"""Entries: what is signed, and their JSON."""

import json

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_json
from edgevpn.proto.entry import (
    MAX_VERSION,
    Entry,
    canonical_bytes,
    entry_from_json_untrusted,
    entry_to_json,
    same_entry,
    sign_entry,
    verify_entry,
)
from tests.unit.ledger_samples import ALICE, BOB

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ENTRIES = st.builds(
    Entry,
    value=TEXT,
    owner=TEXT,
    version=st.integers(0, MAX_VERSION),
    updated_at=st.integers(-(2**63), 2**63 - 1),
    deleted=st.booleans(),
    sig=st.none() | st.binary(max_size=80),
)


def read(text):
    return entry_from_json_untrusted(go_json.parse_untrusted(text))


def test_only_the_owner_can_sign_for_it():
    entry = sign_entry(ALICE, "machines", "10.1.0.1", "{}", 3, 4)
    assert entry.owner == ALICE.peer_id
    assert verify_entry("machines", "10.1.0.1", entry)
    forged = Entry(entry.value, BOB.peer_id, entry.version, entry.updated_at, False, entry.sig)
    assert not verify_entry("machines", "10.1.0.1", forged)


@pytest.mark.parametrize(
    "changes",
    [{"value": "{ }"}, {"version": 4}, {"updated_at": 5}, {"deleted": True}, {"sig": b""}, {"sig": None}],
)
def test_a_signature_binds_every_field(changes):
    entry = sign_entry(ALICE, "machines", "10.1.0.1", "{}", 3, 4)
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
    assert not verify_entry("machines", "10.1.0.1", Entry(**(fields | changes)))
    assert not verify_entry("services", "10.1.0.1", entry)
    assert not verify_entry("machines", "10.1.0.2", entry)


def test_each_text_is_signed_with_its_length_so_where_it_ends_is_signed_too():
    def field(text):
        return len(text).to_bytes(8, "big") + text

    entry = Entry("\u00e9", "o", 2, -1, True)
    numbers = (2).to_bytes(8, "big") + b"\xff" * 8 + b"\x01"
    assert canonical_bytes("ab", "c", entry) == field(b"ab") + field(b"c") + field(b"o") + numbers + field(b"\xc3\xa9")


@pytest.mark.parametrize(("version", "updated_at"), [(-1, 0), (2**64, 0), (0, 2**63)])
def test_numbers_that_do_not_fit_are_not_signed(version, updated_at):
    with pytest.raises(ValueError, match="64 bits"):
        sign_entry(ALICE, "x", "k", "", version, updated_at)


def test_an_entry_is_a_bare_text_until_it_has_more_than_a_value_and_a_time():
    assert entry_to_json(Entry("v", updated_at=7)) == "v"
    for more in ({"owner": "o"}, {"version": 1}, {"deleted": True}, {"sig": b""}):
        assert isinstance(entry_to_json(Entry("v", **more)), dict)


def test_no_signature_and_an_empty_one_are_the_same_but_written_as_they_were():
    none, empty = Entry("v", "o"), Entry("v", "o", sig=b"")
    assert same_entry(none, empty)
    assert not same_entry(none, Entry("v", "o", 1, sig=b""))
    assert go_json.write(entry_to_json(none)).endswith('"Sig":null}')
    assert go_json.write(entry_to_json(empty)).endswith('"Sig":""}')


@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry):
    expected = Entry(entry.value) if entry.is_bare else entry
    assert read(go_json.write(entry_to_json(entry))) == expected


def test_field_names_match_in_any_case_and_the_last_of_duplicates_wins():
    assert read('{"value":"a","VALUE":"b","updatedAt":1,"\u017fig":"AA=="}') == Entry("b", updated_at=1, sig=b"\0")


def test_null_leaves_a_field_but_empties_the_signature():
    assert read('{"Value":"a","Value":null,"Version":null,"Sig":"AA==","Sig":null}') == Entry("a")


def test_a_list_of_numbers_is_read_into_the_signature_as_by_go():
    assert read('{"Value":"a","Sig":[1,2,255,null]}') == Entry("a", sig=b"\x01\x02\xff\0")
    assert read('{"Sig":[]}') == Entry("", sig=b"")


def test_a_wrong_duplicate_refuses_the_entry():
    with pytest.raises(UntrustedDataError):
        read('{"Value":5,"Value":"a"}')


@pytest.mark.parametrize(
    "text",
    ["true", "5", "[]", '{"Value":[]}', '{"Owner":{}}', '{"Deleted":0}', '{"Deleted":"true"}', '{"Version":-0}',
     '{"Version":1.0}', '{"UpdatedAt":9223372036854775808}', '{"Sig":"A"}', '{"Sig":"AAE"}', '{"Sig":"A-__"}',
     '{"Sig":"' + "A" * 9000 + '"}', '{"Sig":{}}', '{"Sig":[256]}', '{"Sig":[-1]}', '{"Sig":[1.0]}', '{"Sig":["a"]}',
     '{"Sig":[' + "0," * 4096 + "0]}", '{"Version":' + "9" * 5000 + "}", '{"Sig":"\u00e9AAA"}'],
)  # fmt: skip
def test_a_field_of_a_wrong_form_refuses_the_entry(text):
    with pytest.raises(UntrustedDataError):
        read(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Value", "Owner", "Version", "UpdatedAt", "Deleted", "Sig", "sig", "x"]),
            children,
            max_size=7,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_an_entry_or_refused(value):
    try:
        entry = read(json.dumps(value))
    except UntrustedDataError:
        return
    assert verify_entry("b", "k", entry) is False
    assert read(go_json.write(entry_to_json(entry))).value == entry.value
