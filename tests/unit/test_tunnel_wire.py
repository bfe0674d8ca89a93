"""What is said before a tunnel's bytes flow, SOCKS, endpoints, and the addresses an egress connects to."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import socks5, tunnel_wire as wire
from edgevpn.proto.endpoints import Endpoint, check_service_name, parse_endpoint, parse_named_endpoint
from edgevpn.proto.reachable import why_not_reachable
from edgevpn.proto.tunnel_wire import Answer, DatagramDecoder, Kind, Open, Status

names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=60)


@given(names, st.sampled_from(list(Kind)), st.integers(1, 65535))
def test_a_wish_reads_as_it_was_written(name: str, kind: Kind, port: int) -> None:
    wish = Open(kind, name, port if kind is Kind.EGRESS else 0)
    data = wire.write_open(wish)
    assert wire.open_length_untrusted(data[: wire.OPEN_HEAD]) == len(data) - wire.OPEN_HEAD
    assert wire.read_open_untrusted(data) == wish


@given(names, st.sampled_from(list(Status)))
def test_an_answer_reads_as_it_was_written(why: str, status: Status) -> None:
    data = wire.write_answer(Answer(status, why))
    assert wire.read_answer_untrusted(data) == Answer(status, why)


def test_an_answer_that_is_too_long_is_cut_between_characters() -> None:
    answer = wire.read_answer_untrusted(wire.write_answer(Answer(Status.BUSY, "é" * 400)))
    assert answer.why == "é" * 250


@given(st.binary(max_size=80))
@example(b"EVPT\x01\x01\x00\x00\x00\x01\xff")
@example(b"EVPT\x01\x03\x00\x00\x00\x01a")
@example(b"EVPT\x01\x01\x00\x50\x00\x01a")
@example(b"EVPT\x01\x01\x00\x00\x00\x01\n")
def test_what_is_no_wish_or_answer_raises_one_error(data: bytes) -> None:
    for read in (wire.read_open_untrusted, wire.read_answer_untrusted):
        try:
            read(data)
        except UntrustedDataError:
            continue
        assert read is wire.read_answer_untrusted or data[:4] == b"EVPT"


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_datagrams_come_out_as_they_went_in_whatever_the_pieces(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(wire.write_datagram, sent))
    decoder, found, turn = DatagramDecoder(), list[bytes](), 0
    while stream:
        size = cuts[turn % len(cuts)]
        found += decoder.feed_untrusted(stream[:size])
        stream, turn = stream[size:], turn + 1
    assert found == sent


def test_a_datagram_that_udp_could_not_carry_is_refused_both_ways() -> None:
    with pytest.raises(ValueError, match="65508"):
        wire.write_datagram(bytes(65508))
    with pytest.raises(UntrustedDataError):
        DatagramDecoder().feed_untrusted(b"\xff\xff")


# --- SOCKS


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (b"\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50", socks5.Request(1, "1.2.3.4", 80)),
        (b"\x05\x01\x00\x03\x0bexample.com\x01\xbb", socks5.Request(1, "example.com", 443)),
        (b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x16", socks5.Request(1, "::1", 22)),
    ],
)
def test_a_socks_request_is_read_and_its_length_is_known_in_time(data: bytes, request_: socks5.Request) -> None:
    assert socks5.read_request_untrusted(data) == request_
    for end in range(len(data)):
        assert end < socks5.request_length_untrusted(data[:end]) <= len(data)


@given(st.binary(max_size=40))
def test_what_is_not_socks_raises_one_error(data: bytes) -> None:
    for read in (socks5.read_greeting_untrusted, socks5.read_request_untrusted):
        try:
            read(data)
        except UntrustedDataError:
            continue
        assert data[0] == 5


def test_a_client_that_insists_on_a_password_is_told_so() -> None:
    assert socks5.read_greeting_untrusted(b"\x05\x01\x00")
    assert not socks5.read_greeting_untrusted(b"\x05\x01\x02")


# --- endpoints


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:22", Endpoint("tcp", "127.0.0.1", 22)),
        ("udp://[::1]:53", Endpoint("udp", "::1", 53)),
        ("TCP://db.example:5432", Endpoint("tcp", "db.example", 5432)),
    ],
)
def test_an_endpoint_is_read_and_its_text_reads_again(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text", ["", "80", ":80", "host", "host:", "host:x", "host:70000", "a b:1", "::1:80", "x://a:1"]
)
def test_what_is_no_target_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(text)


def test_a_listener_may_have_no_host_and_any_port() -> None:
    assert parse_endpoint(":0", listening=True) == Endpoint("tcp", "", 0)
    assert parse_named_endpoint("web=:8080", listening=True) == ("web", Endpoint("tcp", "", 8080))


@pytest.mark.parametrize("name", ["", "x" * 200, "a\nb", "\x1b[2J"])
def test_names_that_nobody_can_type_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_service_name(name)


# --- where an egress connects to

OWN = ("10.1.0.1/24", "fd00:1::1/64")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",  # noqa: S104
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
    ],
)
def test_an_egress_does_not_connect_to_what_is_not_the_internet(address: str) -> None:
    assert why_not_reachable(address, OWN)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::808:808"]
)
def test_an_egress_connects_to_the_internet(address: str) -> None:
    assert why_not_reachable(address, OWN) == ""


def test_the_vpns_own_public_addresses_are_not_connected_to() -> None:
    assert why_not_reachable("203.0.114.7", ("203.0.114.1/24",)) == "an address of the VPN"
    assert why_not_reachable("203.0.114.7", ()) == ""


def test_what_the_owner_allowed_is_connected_to_and_nothing_beside_it() -> None:
    allowed = ("192.168.1.0/24", "127.0.0.1/32")
    assert why_not_reachable("192.168.1.9", OWN, allowed) == ""
    assert why_not_reachable("::ffff:192.168.1.9", OWN, allowed) == ""
    assert why_not_reachable("127.0.0.1", OWN, allowed) == ""
    assert why_not_reachable("127.0.0.2", OWN, allowed)
    assert why_not_reachable("192.168.2.9", OWN, allowed)


@given(st.ip_addresses(v=4))
def test_an_address_in_another_form_is_judged_alike(address: object) -> None:
    plain = bool(why_not_reachable(str(address), OWN))
    assert bool(why_not_reachable(f"::ffff:{address}", OWN)) == plain
    assert bool(why_not_reachable(f"64:ff9b::{address}", OWN)) == plain
