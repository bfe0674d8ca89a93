"""The patterns of the dns bucket: what they match, which comes first, and what they may cost."""

from __future__ import annotations

import time

import dns.name
import dns.rdatatype
import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.names import patterns
from edgevpn.names.patterns import PatternTable, compile_untrusted, pattern_untrusted, record_untrusted, specificity
from edgevpn.names.wire import Answer
from edgevpn.proto.values import write_dns
from scripts.labkit.dns_evil import EVIL_PATTERNS

LONG = dns.name.from_text(".".join(["a" * 62] * 4))


def table(*entries: tuple[str, dict[int, str]]) -> PatternTable:
    return PatternTable([pattern_untrusted(text, write_dns(records)) for text, records in entries])


def ask(found: PatternTable, name: str, rdtype: str = "A") -> Answer | None:
    return found.lookup(dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def said(found: PatternTable, name: str, rdtype: str = "A") -> list[str] | None:
    answer = ask(found, name, rdtype)
    return None if answer is None else [item.to_text() for rrset in answer.answer for item in rrset]


def test_an_entry_as_the_go_program_writes_it_answers_for_each_of_its_types() -> None:
    found = PatternTable([pattern_untrusted("foo.vec.", '{"1":"10.1.0.1","16":"hello","28":"fd00::1"}')])
    assert said(found, "foo.vec") == ["10.1.0.1"]
    assert said(found, "foo.vec", "AAAA") == ["fd00::1"]
    assert said(found, "foo.vec", "TXT") == ['"hello"']
    assert said(found, "foo.vec", "MX") == []
    assert said(found, "bar.vec") is None


def test_a_pattern_is_searched_in_the_full_name_unless_it_is_anchored_and_ignores_case() -> None:
    found = table(("web", {1: "10.0.0.1"}), (r"^db\.example\.$", {1: "10.0.0.2"}))
    assert said(found, "my.WEB.example") == ["10.0.0.1"]
    assert said(found, "DB.example") == ["10.0.0.2"]
    assert said(found, "db.example.com") is None
    assert said(found, "mydb.example") is None


def test_the_most_specific_pattern_with_the_type_answers() -> None:
    found = table(
        (".*", {1: "10.0.0.1", 16: "any"}), ("example", {1: "10.0.0.2"}), (r"^www\.example\.$", {1: "10.0.0.3"})
    )
    assert said(found, "www.example") == ["10.0.0.3"]
    assert said(found, "ftp.example") == ["10.0.0.2"]
    assert said(found, "else.where") == ["10.0.0.1"]
    assert said(found, "www.example", "TXT") == ['"any"']


@pytest.mark.parametrize(
    ("more", "less"),
    [
        (r"^a\.b\.$", r"a\.b\."),
        ("web.example.", "web"),
        ("abc", "ab.*"),
        ("abc", "[a-z]+"),
        ("a", ".*"),
        ("abc", "abcx?"[:-2] + "d?"),
        ("a", ""),
    ],
)
def test_specificity_counts_literals_then_anchors_then_length(more: str, less: str) -> None:
    assert specificity(more) < specificity(less)


def test_a_cname_answers_for_every_type_and_says_where_to_go_on() -> None:
    found = table(("alias", {5: "target.example"}))
    answer = ask(found, "alias", "AAAA")
    assert answer is not None
    assert answer.chase == dns.name.from_text("target.example.")
    answer = ask(found, "alias", "CNAME")
    assert answer is not None
    assert answer.chase is None


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        '{"0":"x"}',
        '{"1":"not an address"}',
        '{"1":"10.0.0.1\\n"}',
        '{"250":"x"}',
        '{"1":"\\\\# 4 0a000001"}',
        "[]",
        "",
    ],
)
def test_an_entry_without_a_record_that_can_be_served_is_no_pattern(value: str) -> None:
    with pytest.raises(UntrustedDataError):
        pattern_untrusted("x", value)


def test_records_that_can_not_be_read_are_left_out() -> None:
    assert set(pattern_untrusted("x", '{"1":"10.0.0.1","28":"10.0.0.1","15":"x"}').records) == {1}


@pytest.mark.parametrize(
    "text", ["(", "a**b[", r"(?=x)", r"\1", "x" * 256, "a{1001}", "(a{200}){200}", "x{0,999}", r"\pL", r"\PN"]
)
def test_what_is_no_regular_expression_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(UntrustedDataError):
        compile_untrusted(text)


@given(st.text(max_size=300), st.text(max_size=100), st.integers(0, 70000))
def test_any_text_is_a_pattern_and_a_record_or_refused(text: str, record: str, rdtype: int) -> None:
    try:
        compile_untrusted(text).search(b"www.example.com.")
    except UntrustedDataError:
        pass
    specificity(text)
    if rdtype < 65536:
        try:
            record_untrusted(rdtype, record)
        except UntrustedDataError:
            pass


@given(st.sampled_from(sorted(patterns.TYPES)), st.text(alphabet='0123456789. "\\();$abcf:@,=/+-\t', max_size=60))
def test_texts_like_records_are_records_or_refused(rdtype: int, record: str) -> None:
    try:
        record_untrusted(rdtype, record)
    except UntrustedDataError:
        pass


def test_no_more_patterns_are_taken_than_a_name_can_be_matched_with() -> None:
    small = [pattern_untrusted(f"name{number}", '{"1":"10.0.0.1"}') for number in range(1100)]
    found = PatternTable(small)
    assert len(found) <= patterns.MAX_PATTERNS
    assert len(found) + found.left_out == 1100
    large = [pattern_untrusted(f"(a?){{100}}{number}", '{"1":"10.0.0.1"}') for number in range(100)]
    assert sum(one.size for one in large) > patterns.MAX_PROGRAMS
    assert 0 < len(PatternTable(large)) < 100


def test_the_worst_patterns_there_can_be_cost_a_name_little() -> None:
    """The bound is 50 ms; the fastest of three counts, as the machine may be busy."""
    taken = []
    for text in EVIL_PATTERNS:
        try:
            taken.append(pattern_untrusted(text, '{"1":"10.0.0.1"}'))
        except UntrustedDataError:
            continue
    many = [one for number in range(40) for one in taken if number * len(taken) < patterns.MAX_PATTERNS * 2]
    times = []
    for _ in range(3):
        found = PatternTable(many)
        began = time.perf_counter()
        found.matching(LONG)
        times.append(time.perf_counter() - began)
    assert len(taken) > 10
    assert min(times) < 0.05
