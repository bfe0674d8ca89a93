"""The text of resolv.conf with us in it, and the domains of networks in reverse."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, strategies as st

from edgevpn.names.resolv_conf import maker, with_us
from edgevpn.names.zone import reverse_domains

BEFORE = """# made by somebody
nameserver 192.168.1.1
nameserver 192.168.1.2
nameserver 192.168.1.3
search lan home.arpa
options edns0 trust-ad
; the end
"""


def test_our_server_and_domain_come_first_and_the_others_stay() -> None:
    assert with_us(BEFORE, "10.1.0.1", "edgevpn.internal", "/run/edgevpn/edgevpn0").splitlines()[1:] == [
        "nameserver 10.1.0.1",
        "nameserver 192.168.1.1",
        "nameserver 192.168.1.2",
        "search edgevpn.internal lan home.arpa",
        "options edns0 trust-ad",
    ]


def test_the_file_says_who_made_it() -> None:
    assert maker(with_us("", "10.1.0.1", "x", "/run/with space/n")) == "/run/with space/n"
    assert maker(BEFORE) == ""
    assert maker("") == ""


@given(st.text())
def test_any_file_becomes_one_that_we_know_again(before: str) -> None:
    made = with_us(before, "10.1.0.1", "edgevpn.internal", "/r")
    assert maker(made) == "/r"
    assert made.splitlines()[1] == "nameserver 10.1.0.1"
    assert sum(line.startswith("nameserver") for line in made.split("\n")) <= 3


@pytest.mark.parametrize(
    ("network", "domains"),
    [
        ("10.1.0.0/24", ["0.1.10.in-addr.arpa"]),
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.1.0.0/22", [f"{n}.1.10.in-addr.arpa" for n in range(4)]),
        ("10.1.0.0/17", ["1.10.in-addr.arpa"]),
        ("10.1.0.7/32", ["7.0.1.10.in-addr.arpa"]),
        ("fd00::/16", ["0.0.d.f.ip6.arpa"]),
        ("fd42::/15", ["2.4.d.f.ip6.arpa", "3.4.d.f.ip6.arpa"]),
    ],
)
def test_a_network_has_its_domains_in_reverse(network: str, domains: list[str]) -> None:
    assert reverse_domains([ipaddress.ip_network(network)]) == domains
