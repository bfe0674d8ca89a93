"""Who answers which name."""

from __future__ import annotations

import ipaddress

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from edgevpn.names.patterns import PatternTable, pattern_untrusted
from edgevpn.names.responder import Names, may_recurse
from edgevpn.names.wire import Answer, read_query_untrusted
from edgevpn.names.zone import Zone
from edgevpn.proto.values import write_dns

PEER = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"


def names(*patterns: tuple[str, dict[int, str]]) -> Names:
    zone = Zone("edgevpn.internal", {"10.1.0.1": (PEER, "web")}, ["10.1.0.1/24"])
    return Names(zone, PatternTable([pattern_untrusted(text, write_dns(records)) for text, records in patterns]))


def look(found: Names, name: str, rdtype: str = "A") -> Answer | None:
    return found.lookup(dns.name.from_text(name), dns.rdatatype.from_text(rdtype))


def texts(answer: Answer | None) -> list[str]:
    assert answer is not None
    return [item.to_text() for rrset in answer.answer for item in rrset]


def test_no_pattern_takes_a_machines_name_or_address() -> None:
    found = names((".*", {1: "6.6.6.6", 12: "evil."}))
    assert texts(look(found, "web.edgevpn.internal")) == ["10.1.0.1"]
    assert texts(look(found, "1.0.1.10.in-addr.arpa", "PTR")) == ["web.edgevpn.internal."]
    assert texts(look(found, "other.edgevpn.internal")) == ["6.6.6.6"]
    assert texts(look(found, "example.com")) == ["6.6.6.6"]


def test_no_name_of_the_vpns_is_asked_elsewhere() -> None:
    found = names(("intra", {1: "10.0.0.1"}))
    for name in (
        "x.edgevpn.internal",
        "edgevpn.internal",
        "9.0.1.10.in-addr.arpa",
        "www.intra",
        "web.edgevpn.internal",
    ):
        for rdtype in ("A", "MX", "ANY", "TYPE999"):
            assert look(found, name, rdtype) is not None, (name, rdtype)
            assert found.owns(dns.name.from_text(name))
    assert look(found, "example.com") is None


def test_a_chain_of_cnames_is_followed_and_ends() -> None:
    found = names(
        (r"^one\.$", {5: "two"}),
        (r"^two\.$", {5: "web.edgevpn.internal"}),
        (r"^away\.$", {5: "example.com"}),
        (r"^round\.$", {5: "round"}),
        (r"^gone\.$", {5: "x.edgevpn.internal"}),
    )
    assert texts(look(found, "one")) == ["two.", "web.edgevpn.internal.", "10.1.0.1"]
    away = look(found, "away")
    assert away is not None
    assert away.chase == dns.name.from_text("example.com.")
    round_ = look(found, "round")
    assert round_ is not None
    assert round_.rcode == dns.rcode.SERVFAIL
    gone = look(found, "gone")
    assert gone is not None
    assert (gone.rcode, texts(gone)) == (dns.rcode.NXDOMAIN, ["x.edgevpn.internal."])


def test_names_that_must_not_leave_a_machine_do_not() -> None:
    found = names()
    assert texts(look(found, "localhost")) == ["127.0.0.1"]
    assert texts(look(found, "x.LOCALHOST", "AAAA")) == ["::1"]
    assert texts(look(found, "localhost", "MX")) == []
    for name in ("abc.onion", "x.invalid"):
        answer = look(found, name)
        assert answer is not None
        assert answer.rcode == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(("rdtype", "rdclass"), [("AXFR", "IN"), ("IXFR", "IN"), ("TXT", "CH"), ("A", "ANY")])
def test_zone_transfers_and_other_classes_are_refused(rdtype: str, rdclass: str) -> None:
    wire = dns.message.make_query("web.edgevpn.internal", rdtype, rdclass).to_wire()
    if rdtype == "IXFR":
        wire = wire[:8] + bytes(4) + wire[12:]  # without the SOA that it carries
    answer = names().answer(read_query_untrusted(wire))
    assert answer is not None
    assert answer.rcode == dns.rcode.REFUSED


@pytest.mark.parametrize(
    ("client", "may"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.168.1.5", True),
        ("fe80::1%eth0", True),
        ("100.64.3.4", True),
        ("44.1.2.3", True),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("x", False),
    ],
)
def test_only_near_clients_have_others_asked_for_them(client: str, may: bool) -> None:
    assert may_recurse(client, [ipaddress.ip_network("44.1.0.0/16")]) is may
