"""Machines as names, and back."""

from __future__ import annotations

import ipaddress

import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
from hypothesis import given, strategies as st

from edgevpn.names.wire import Answer
from edgevpn.names.zone import MAX_LABEL, Zone, label_of, networks_of

ONE, TWO = (
    "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz",
    "12D3KooWHJV5qcxyaxXQBTrrhpoLZnX11mZZeEfD5xztut4NycUZ",
)
DOMAIN = "edgevpn.internal"


def look(zone: Zone, name: str, rdtype: str = "A") -> Answer:
    absolute = dns.name.from_text(name)
    assert zone.owns(absolute), name
    return zone.lookup(absolute, dns.rdatatype.from_text(rdtype))


def records(answer: Answer) -> list[str]:
    return [item.to_text() for rrset in answer.answer for item in rrset]


def addresses(zone: Zone, host: str, rdtype: str = "A") -> list[str]:
    return records(look(zone, f"{host}.{DOMAIN}", rdtype))


@pytest.mark.parametrize(
    ("hostname", "label"),
    [
        ("web", "web"),
        ("Web.LAN.example", "web"),
        ("Büro PC.lan", "buro-pc"),
        ("my_host", "my-host"),
        ("--a--b--", "a-b"),
        ("", ""),
        ("...", ""),
        ("日本", ""),
        ("x" * 200, "x" * 63),
        ("a" * 62 + "--b", "a" * 62),
        (" web \n", "web"),
    ],
)
def test_a_hostname_becomes_one_label(hostname: str, label: str) -> None:
    assert label_of(hostname) == label


@given(st.text(max_size=300))
def test_any_hostname_becomes_a_label_that_stays_itself(hostname: str) -> None:
    label = label_of(hostname)
    assert len(label) <= MAX_LABEL
    assert label_of(label) == label
    if label:
        dns.name.from_text(f"{label}.{DOMAIN}")
        assert label.isascii()
        assert label[0] != "-" != label[-1]


def test_a_machine_has_its_addresses_under_its_hostname_in_any_case() -> None:
    zone = Zone(DOMAIN, {"10.1.0.1": (ONE, "Web"), "fd00::1": (ONE, "web"), "10.1.0.7": (ONE, "web")})
    assert addresses(zone, "web") == ["10.1.0.1", "10.1.0.7"]
    assert addresses(zone, "WEB", "AAAA") == ["fd00::1"]
    answer = look(zone, f"web.{DOMAIN}", "MX")
    assert (answer.rcode, answer.answer, answer.authority[0].rdtype) == (dns.rcode.NOERROR, (), dns.rdatatype.SOA)


def test_of_two_machines_with_one_hostname_the_lowest_address_has_it_and_both_have_a_second_name() -> None:
    zone = Zone(DOMAIN, {"10.1.0.9": (ONE, "web"), "10.1.0.2": (TWO, "web"), "fd00::1": (ONE, "web")})
    assert addresses(zone, "web") == ["10.1.0.2"]
    assert addresses(zone, f"web-{ONE[-6:].lower()}") == ["10.1.0.9"]
    assert addresses(zone, f"web-{TWO[-6:].lower()}") == ["10.1.0.2"]
    assert records(look(zone, "9.0.1.10.in-addr.arpa", "PTR")) == [f"web-{ONE[-6:].lower()}.{DOMAIN}."]
    assert records(look(zone, "2.0.1.10.in-addr.arpa", "PTR")) == [f"web.{DOMAIN}."]


def test_nobodys_hostname_takes_anothers_second_name() -> None:
    second = f"web-{ONE[-6:].lower()}"
    zone = Zone(DOMAIN, {"10.1.0.9": (ONE, "web"), "10.1.0.1": (TWO, second)})
    assert addresses(zone, second) == ["10.1.0.9"]
    assert addresses(zone, f"{second}-{TWO[-6:].lower()}") == ["10.1.0.1"]


def test_a_machine_without_a_usable_hostname_is_named_after_its_peer_id() -> None:
    zone = Zone(DOMAIN, {"10.1.0.1": (ONE, "日本")})
    assert addresses(zone, f"peer-{ONE[-6:].lower()}") == ["10.1.0.1"]
    assert records(look(zone, "1.0.1.10.in-addr.arpa", "PTR")) == [f"peer-{ONE[-6:].lower()}.{DOMAIN}."]


def test_names_below_the_domain_and_addresses_in_the_networks_that_nobody_has_do_not_exist() -> None:
    zone = Zone(DOMAIN, {"10.1.0.1": (ONE, "web"), "fd00::1": (ONE, "web")}, ["10.1.0.1/16"])
    for name in (f"x.{DOMAIN}", f"a.web.{DOMAIN}", "9.9.1.10.in-addr.arpa"):
        answer = look(zone, name)
        assert (answer.rcode, len(answer.authority)) == (dns.rcode.NXDOMAIN, 1), name
    assert look(zone, DOMAIN).rcode == dns.rcode.NOERROR
    assert look(zone, "1.10.in-addr.arpa", "SOA").rcode == dns.rcode.NOERROR
    assert records(look(zone, DOMAIN, "SOA"))[0].startswith(f"{DOMAIN}. hostmaster.{DOMAIN}.")


@pytest.mark.parametrize(
    "name",
    [
        "example.com",
        "internal",
        "xedgevpn.internal",
        ".",
        "1.0.0.127.in-addr.arpa",
        "10.in-addr.arpa",
        "1.2.10.in-addr.arpa",
        "256.0.1.10.in-addr.arpa",
        "01.0.1.10.in-addr.arpa",
        "x.0.1.10.in-addr.arpa",
        "1.1.0.1.10.in-addr.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "g.ip6.arpa",
        "1.0.0.1.ip6.arpa",
    ],
)
def test_other_names_are_not_the_vpns(name: str) -> None:
    zone = Zone(DOMAIN, {"10.1.0.1": (ONE, "web"), "fd00::1": (ONE, "web")}, ["10.1.0.1/24"])
    assert not zone.owns(dns.name.from_text(name))
    assert not zone.has(dns.name.from_text(name))


def test_without_an_interface_the_networks_are_the_usual_ones_of_private_addresses() -> None:
    found = networks_of([], [ipaddress.ip_address(text) for text in ("10.1.0.1", "8.8.8.8", "fd00::1", "10.1.0.2")])
    assert [str(one) for one in found] == ["10.1.0.0/24", "fd00::/64"]


@given(st.sets(st.ip_addresses().filter(lambda one: not getattr(one, "ipv4_mapped", None)), min_size=1, max_size=20))
def test_every_address_leads_to_a_name_that_leads_to_the_address(found: set[object]) -> None:
    zone = Zone(DOMAIN, {str(one): (f"peer{number % 3}", "host") for number, one in enumerate(sorted(map(str, found)))})
    for one in found:
        [target] = records(look(zone, dns.reversename.from_address(str(one)).to_text(), "PTR"))
        kind = "AAAA" if ":" in str(one) else "A"
        assert str(one) in [str(ipaddress.ip_address(text)) for text in records(look(zone, target, kind))]
