"""The address book: what gets in, in which order it is dialled, and that it stays bounded."""

from __future__ import annotations

import ipaddress

import hypothesis
import hypothesis.strategies as st
import pytest

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p import address_book
from edgevpn.p2p.address_book import LIFETIME, MAX_ADDRS, MAX_PEERS, AddressBook, parse_addr_untrusted

PEER, RELAY = "12D3KooWPeer", "12D3KooWRelay"


def order(book: AddressBook, now: float = 0.0, peer: str = PEER) -> list[str]:
    return [addr.text for addr in book.dial_order(peer, now)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}", "/ip4/192.0.2.1/tcp/4001"),
        (f"/ip6/2001:db8::1/tcp/4001/ipfs/{PEER}", "/ip6/2001:db8::1/tcp/4001"),
        ("/dns4/node.example/tcp/4001", "/dns4/node.example/tcp/4001"),
        (f"/dnsaddr/node.example/p2p/{PEER}", "/dnsaddr/node.example"),
        (f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"),
        (f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{PEER}", f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY}/p2p-circuit"),
    ],
)
def test_an_address_is_kept_without_its_peer(text: str, kept: str) -> None:
    addr = parse_addr_untrusted(text, PEER)
    assert addr.text == kept
    assert addr.relay == (RELAY if "circuit" in text else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1:4001",
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip4/192.0.2.1/tcp/4001/ws",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/٣",
        "/ip4/2001:db8::1/tcp/1",
        "/ip4/999.0.2.1/tcp/1",
        "/ip6/192.0.2.1/tcp/1",
        "/dns4//tcp/1",
        "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWOther",
        "/ip4/192.0.2.1/tcp/1/p2p-circuit",
        f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit",
        "/dns4/a\nb/tcp/1",
        "/unix/run/socket",
        "/" + "x" * 600,
    ],
)
def test_what_cannot_be_dialled_is_untrusted_data(text: str) -> None:
    with pytest.raises(UntrustedDataError):
        parse_addr_untrusted(text, PEER)


@hypothesis.given(
    st.text() | st.lists(st.sampled_from(["ip4", "tcp", "p2p", "p2p-circuit", "1", PEER, "", "dns"])).map("/".join)
)
def test_any_text_is_an_address_or_untrusted_data(text: str) -> None:
    for candidate in (text, "/" + text):
        try:
            addr = parse_addr_untrusted(candidate, PEER)
        except UntrustedDataError:
            continue
        assert parse_addr_untrusted(addr.text, PEER) == addr


def test_the_address_that_worked_is_tried_first_and_the_one_that_failed_last() -> None:
    book = AddressBook()
    book.add(PEER, [f"/ip4/192.0.2.{n}/tcp/1" for n in (1, 2, 3)], "dht", 0)
    book.failed(PEER, "/ip4/192.0.2.1/tcp/1", 1)
    book.succeeded(PEER, "/ip4/192.0.2.3/tcp/1", 2)
    assert order(book) == ["/ip4/192.0.2.3/tcp/1", "/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.1/tcp/1"]
    book.failed(PEER, "/ip4/192.0.2.3/tcp/1", 3)
    assert order(book) == ["/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.3/tcp/1"]


def test_sources_are_trusted_in_their_order_and_relays_come_last() -> None:
    book = AddressBook()
    relayed = f"/ip4/192.0.2.9/tcp/1/p2p/{RELAY}/p2p-circuit"
    book.add(PEER, [relayed], "static", 0)
    for number, source in enumerate(reversed(LIFETIME)):
        book.add(PEER, [f"/ip4/192.0.2.{number}/tcp/1"], source, 0)
    assert order(book) == [f"/ip4/192.0.2.{n}/tcp/1" for n in reversed(range(len(LIFETIME)))] + [relayed]


def test_what_identify_claims_does_not_push_out_the_address_that_worked() -> None:
    book = AddressBook()
    book.add(PEER, ["/ip4/192.0.2.1/tcp/1"], "mdns", 0)
    book.succeeded(PEER, "/ip4/192.0.2.1/tcp/1", 0)
    book.add(PEER, [f"/ip4/198.51.100.{n}/tcp/1" for n in range(3 * MAX_ADDRS)], "identify", 1)
    assert order(book, 1)[0] == "/ip4/192.0.2.1/tcp/1"
    assert len(order(book, 1)) == MAX_ADDRS


def test_addresses_that_lead_nowhere_or_back_here_do_not_get_in() -> None:
    vpn = ipaddress.ip_network("10.1.0.0/24")
    book = AddressBook(blocked=(vpn,))
    bad = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip4/10.1.0.7/tcp/1"]
    bad += ["/ip6/::ffff:10.1.0.7/tcp/1", "/ip6/fe80::1/tcp/1", "/ip4/224.0.0.1/tcp/1"]
    assert book.add(PEER, bad, "gossip", 0) == 0
    assert book.peers() == []


def test_loopback_is_good_for_a_peer_on_this_machine_and_when_the_user_says_so() -> None:
    loopback = ["/ip4/127.0.0.1/tcp/1"]
    assert AddressBook().add(PEER, loopback, "gossip", 0) == 0
    assert AddressBook().add(PEER, loopback, "gossip", 0, local=True) == 1
    assert AddressBook().add(PEER, loopback, "static", 0) == 1
    assert AddressBook().add(PEER, loopback, "bootstrap", 0) == 1
    assert AddressBook(loopback=True).add(PEER, loopback, "gossip", 0) == 1


def test_an_address_lives_as_long_as_its_source_says_and_longer_once_it_worked() -> None:
    book = AddressBook()
    book.add(PEER, ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"], "mdns", 0)
    book.add(PEER, ["/ip4/192.0.2.3/tcp/1"], "static", 0)
    book.succeeded(PEER, "/ip4/192.0.2.2/tcp/1", 0)
    assert set(order(book, LIFETIME["mdns"])) == {"/ip4/192.0.2.2/tcp/1", "/ip4/192.0.2.3/tcp/1"}
    assert order(book, address_book.WORKED_LIFETIME) == ["/ip4/192.0.2.3/tcp/1"]


def test_expired_peers_are_dropped() -> None:
    book = AddressBook()
    book.add(PEER, ["/ip4/192.0.2.1/tcp/1"], "dht", 0)
    book.expire(LIFETIME["dht"])
    assert book.peers() == []


def test_the_book_is_bounded_and_keeps_the_peers_named_by_hand() -> None:
    book = AddressBook()
    book.add(PEER, ["/ip4/192.0.2.1/tcp/1"], "static", 0)
    for number in range(MAX_PEERS + 10):
        book.add(f"12D3KooW{number}", ["/ip4/192.0.2.1/tcp/1"], "dht", number)
    assert len(book.peers()) == MAX_PEERS
    assert PEER in book.peers()
    assert "12D3KooW0" not in book.peers()


def test_success_of_an_unknown_address_adds_nothing() -> None:
    book = AddressBook()
    book.succeeded(PEER, "/ip4/192.0.2.1/tcp/1", 0)
    book.failed(PEER, "/ip4/192.0.2.1/tcp/1", 0)
    assert book.peers() == []
