"""Names in addresses to dial."""

from __future__ import annotations

import socket

import pytest
from multiaddr import Multiaddr
from multiaddr.exceptions import Error
from multiaddr.resolvers import DNSResolver

from edgevpn.p2p.address_book import parse_addr_untrusted
from edgevpn.p2p.host import open_host
from edgevpn.p2p.resolve import MAX_RESOLVED, resolve
from tests.p2p.test_swarm_mends import LOOPBACK, NOBODY, SEED_A, SEED_B


async def test_a_host_is_reached_by_its_name() -> None:
    try:
        socket.getaddrinfo("localhost", None)
    except OSError:
        pytest.skip("this machine has no name for itself: /etc/hosts lacks localhost")
    async with open_host(SEED_A, LOOPBACK) as host, open_host(SEED_B, LOOPBACK) as other:
        port = host.bound_addrs()[0].rsplit("/", 1)[1]
        await other.connect(host.peer_id, [f"/dns4/localhost/tcp/{port}"], timeout=5)
        assert other.peers()[host.peer_id].connections[0].remote == f"/ip4/127.0.0.1/tcp/{port}"


async def test_a_name_that_does_not_exist_has_no_address() -> None:
    addr = parse_addr_untrusted("/dns4/" + "x" * 70 + ".invalid/tcp/1", NOBODY)
    assert await resolve(addr, NOBODY) == []


async def test_a_dnsaddr_gives_the_addresses_of_that_peer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_self: DNSResolver, asked: Multiaddr) -> list[Multiaddr]:
        assert str(asked) == f"/dnsaddr/node.example/p2p/{NOBODY}"
        ours = [Multiaddr(f"/ip4/192.0.2.{n}/tcp/4001/p2p/{NOBODY}") for n in range(1, 30)]
        quic = Multiaddr(f"/ip4/192.0.2.9/udp/4001/quic-v1/p2p/{NOBODY}")
        return [
            quic,
            Multiaddr("/ip4/198.51.100.1/tcp/1/p2p/12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"),
            *ours,
        ]

    monkeypatch.setattr(DNSResolver, "resolve", answer)
    found = await resolve(parse_addr_untrusted("/dnsaddr/node.example", NOBODY), NOBODY)
    assert found == [(f"192.0.2.{n}", 4001) for n in range(1, MAX_RESOLVED + 1)]


async def test_a_dnsaddr_that_cannot_be_resolved_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: DNSResolver, _asked: Multiaddr) -> list[Multiaddr]:
        raise Error("no such name")

    monkeypatch.setattr(DNSResolver, "resolve", fail)
    assert await resolve(parse_addr_untrusted("/dnsaddr/node.example", NOBODY), NOBODY) == []
