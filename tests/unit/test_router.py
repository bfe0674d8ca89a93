"""Which peer a packet goes to, and which sources a peer may use."""

from __future__ import annotations

import ipaddress

from edgevpn.tun.router import Router


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


ROUTES = {"10.1.0.1": "me", "10.1.0.2": "two", "10.1.0.3": "three", "fd42::2": "two", "10.9.0.0/16": "two"}


def test_a_packet_goes_to_whoever_has_its_destination() -> None:
    router = Router(ROUTES, ["10.1.0.1/24"])
    assert router.lookup(ip("10.1.0.2")) == "two"
    assert router.lookup(ip("fd42::2")) == "two"
    assert router.lookup(ip("10.1.0.77")) is None


def test_the_longest_prefix_wins() -> None:
    router = Router(ROUTES | {"10.9.7.0/24": "three", "10.9.7.5": "me"})
    assert [router.lookup(ip(a)) for a in ("10.9.1.1", "10.9.7.1", "10.9.7.5")] == ["two", "three", "me"]


def test_a_peer_speaks_only_for_its_own_addresses() -> None:
    router = Router(ROUTES, ["10.1.0.1/24"])
    assert router.allows("two", ip("10.1.0.2"))
    assert router.allows("two", ip("10.9.3.3"))
    assert not router.allows("three", ip("10.9.3.3"))
    for source in ("10.1.0.3", "10.1.0.1", "192.0.2.1", "fd42::3"):
        assert not router.allows("two", ip(source))
    assert not router.allows("stranger", ip("10.1.0.2"))


def test_multicast_and_broadcast_go_nowhere() -> None:
    router = Router(ROUTES, ["10.1.0.1/24"], gateway="10.1.0.3")
    for destination in ("224.0.0.251", "10.1.0.255", "255.255.255.255", "ff02::1"):
        assert router.lookup(ip(destination)) is None


def test_a_gateway_gets_what_nobody_has_and_may_send_from_what_is_nobodys() -> None:
    router = Router(ROUTES, ["10.1.0.1/24"], gateway="10.1.0.3")
    assert router.lookup(ip("192.0.2.1")) == "three"
    assert router.allows("three", ip("192.0.2.1"))
    assert not router.allows("three", ip("10.1.0.2"))
    assert not router.allows("three", ip("10.1.0.1"))
    assert not router.allows("two", ip("192.0.2.1"))


def test_a_stranger_is_known_by_no_route() -> None:
    router = Router(ROUTES)
    assert router.knows("two")
    assert not router.knows("stranger")
