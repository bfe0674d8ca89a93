# ruff: noqa: ASYNC110 - counters are what is waited for
"""Datagrams through streams: each client its own flow, idle ones end, broken ones come back."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edgevpn.errors import EdgevpnError
from edgevpn.tunnels import udp_flows
from edgevpn.tunnels.udp_flows import FlowStats, UdpListener, serve_flow


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(("127.0.0.1", 0))
    return sock


class Lab:
    """A listener here, a provider there, an echo behind it."""

    def __init__(self) -> None:
        self.near = bound()
        self.near_stats, self.far_stats = FlowStats(), FlowStats()
        self.streams: list[trio.SocketStream] = []
        self.refuse = False
        self.clients: list[trio.socket.SocketType] = []

    async def client(self) -> trio.socket.SocketType:
        sock = trio.socket.socket(type=socket.SOCK_DGRAM)
        self.clients.append(sock)
        await sock.connect(self.near.getsockname())
        return sock


@asynccontextmanager
async def lab(nursery: trio.Nursery, idle: float = 30.0) -> AsyncIterator[Lab]:
    made = Lab()
    service = trio.socket.from_stdlib_socket(bound())

    async def echo() -> None:
        while True:
            data, address = await service.recvfrom(65536)
            await service.sendto(data.upper(), address)

    async def provide(stream: trio.SocketStream) -> None:
        target = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        target.connect(service.getsockname())
        await serve_flow(stream, target, made.far_stats, idle=idle)

    async def open_flow() -> trio.SocketStream:
        if made.refuse:
            raise EdgevpnError("nobody offers it")
        ours, theirs = trio.socket.socketpair()
        made.streams.append(trio.SocketStream(ours))
        nursery.start_soon(provide, trio.SocketStream(theirs))
        return made.streams[-1]

    nursery.start_soon(echo)
    nursery.start_soon(UdpListener(made.near, open_flow, made.near_stats, idle=idle).run)
    try:
        with trio.fail_after(10):
            yield made
    finally:
        nursery.cancel_scope.cancel()
        for sock in (service, *made.clients):
            sock.close()


async def ask(sock: trio.socket.SocketType, data: bytes) -> bytes:
    await sock.send(data)
    with trio.fail_after(5):
        return await sock.recv(65536)


async def test_each_client_gets_its_own_answers(nursery: trio.Nursery) -> None:
    async with lab(nursery) as made:
        one, two = await made.client(), await made.client()
        assert await ask(one, b"one") == b"ONE"
        assert await ask(two, b"two") == b"TWO"
        assert await ask(one, b"a" * 60_000) == b"A" * 60_000
        assert await ask(two, b"") == b""
        assert (made.near_stats.flows, made.far_stats.flows, len(made.streams)) == (2, 2, 2)


async def test_a_flow_ends_when_nothing_passes(nursery: trio.Nursery) -> None:
    async with lab(nursery, idle=0.2) as made:
        client = await made.client()
        assert await ask(client, b"x") == b"X"
        while made.near_stats.flows or made.far_stats.flows:
            await trio.sleep(0.02)
        assert await ask(client, b"y") == b"Y"
        assert made.near_stats.served == 2


async def test_a_flow_that_broke_is_opened_anew_by_the_next_datagram(nursery: trio.Nursery) -> None:
    async with lab(nursery) as made:
        client = await made.client()
        assert await ask(client, b"x") == b"X"
        await trio.aclose_forcefully(made.streams[0])
        while made.near_stats.flows:
            await trio.sleep(0.01)
        assert await ask(client, b"y") == b"Y"


async def test_a_service_that_is_not_there_costs_datagrams_and_nothing_else(nursery: trio.Nursery) -> None:
    async with lab(nursery) as made:
        client = await made.client()
        made.refuse = True
        await client.send(b"x")
        while not made.near_stats.failed:
            await trio.sleep(0.01)
        assert made.near_stats.note == "nobody offers it"
        made.refuse = False
        assert await ask(client, b"y") == b"Y"


async def test_clients_beyond_the_limit_are_dropped_and_counted(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_flows, "MAX_FLOWS", 2)
    async with lab(nursery) as made:
        clients = [await made.client() for _ in range(3)]
        for client in clients[:2]:
            assert await ask(client, b"x") == b"X"
        await clients[2].send(b"x")
        while not made.near_stats.dropped:
            await trio.sleep(0.01)
        assert made.near_stats.flows == 2
