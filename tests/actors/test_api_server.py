"""The HTTP server on real sockets: what slow, greedy and vanished clients cost, and who is known on a Unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from edgevpn.actors import api_server
from edgevpn.actors.api_server import Server
from edgevpn.proto.api_address import parse_api_address
from edgevpn.proto.http_guard import rules_for
from edgevpn.web.app import make_app
from tests.vectors.api_node import TOKEN, MemoryNode, app_of

GET = f"GET {{}} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"


@asynccontextmanager
async def serving(
    server: Server, family: int = socket.AF_INET, where: object = ("127.0.0.1", 0)
) -> AsyncIterator[object]:
    """Where it listens."""
    raw = socket.socket(family, socket.SOCK_STREAM)
    raw.bind(where)
    raw.listen(128)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(raw))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(server.run, listener)
        yield raw.getsockname()
        nursery.cancel_scope.cancel()


async def exchange(address: tuple[str, int], request: str | bytes) -> bytes:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(request.encode() if isinstance(request, str) else request)
        return bytes(await stream.receive_some(65536))


async def until(condition: object, seconds: float = 5) -> None:
    with trio.fail_after(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_request_over_a_real_socket_is_answered() -> None:
    async with serving(Server(app_of(MemoryNode()))) as address:
        answer = await exchange(address, GET.format("/health"))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"server:" not in answer.lower()
        assert (await exchange(address, GET.format("/health").replace(TOKEN, "x"))).startswith(b"HTTP/1.1 401")


async def test_who_never_ends_its_head_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "HEAD_PATIENCE", 0.3)
    server = Server(app_of(MemoryNode()))
    async with serving(server) as address, await trio.open_tcp_stream(*address) as stream:
        with trio.fail_after(3):
            async with trio.open_nursery() as nursery:

                async def drip() -> None:
                    for letter in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                        await stream.send_all(bytes([letter]))
                        await trio.sleep(0.05)

                nursery.start_soon(drip)
                try:
                    assert await stream.receive_some(100) == b""
                except trio.BrokenResourceError:
                    pass
                nursery.cancel_scope.cancel()
        await until(lambda: server.connections == 0)


async def test_a_head_over_the_bound_is_refused() -> None:
    async with serving(Server(app_of(MemoryNode()))) as address:
        answer = await exchange(address, GET.format("/" + "x" * 40_000))
        assert answer.startswith(b"HTTP/1.1 431")


async def test_a_body_over_the_bound_is_refused_before_it_is_read() -> None:
    put = GET.format("/api/v1/ledger/vec/k").replace("GET", "PUT")
    async with serving(Server(app_of(MemoryNode()))) as address, await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(put.replace("\r\n\r\n", f"\r\nContent-Length: {1 << 40}\r\n\r\n").encode())
        answer = b""
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:

                async def pour() -> None:
                    try:
                        while True:
                            await stream.send_all(bytes(65536))
                    except trio.BrokenResourceError:
                        pass

                nursery.start_soon(pour)
                answer = bytes(await stream.receive_some(4096))
                nursery.cancel_scope.cancel()
        assert answer.startswith(b"HTTP/1.1 413")


async def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "SEND_PATIENCE", 0.3)
    node = MemoryNode()
    await node.announce("vec", "k", '"' + "x" * 1_000_000 + '"')
    server = Server(app_of(node))
    async with serving(server) as address:
        client = socket.create_connection(address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(20):
            client.sendall(GET.format("/api/ledger").encode())
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)
        client.close()


async def test_clients_over_the_bound_wait_and_are_served_when_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "MAX_CONNECTIONS", 3)
    server = Server(app_of(MemoryNode()))
    async with serving(server) as address:
        held = [await trio.open_tcp_stream(*address) for _ in range(3)]
        await until(lambda: server.connections == 3)
        async with trio.open_nursery() as nursery:
            answers: list[bytes] = []

            async def late() -> None:
                answers.append(await exchange(address, GET.format("/health")))

            nursery.start_soon(late)
            await trio.sleep(0.2)
            assert answers == []
            await held[0].aclose()
        assert answers[0].startswith(b"HTTP/1.1 200")
        for stream in held:
            await stream.aclose()


async def test_a_watcher_that_vanishes_leaves_nothing() -> None:
    node = MemoryNode()
    server = Server(app_of(node))
    async with serving(server) as address:
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(GET.format("/api/v1/events").encode())
        await until(lambda: node.hub.watched == 1)
        node.hub.put("node", {"x": 1})
        seen = b""
        with trio.fail_after(5):
            while b"event: node" not in seen:
                seen += await stream.receive_some(65536)
        await trio.aclose_forcefully(stream)
        await until(lambda: node.hub.watched == 0 and server.connections == 0)


async def test_the_next_protocol_versions_are_not_spoken() -> None:
    async with serving(Server(app_of(MemoryNode()))) as address:
        answer = await exchange(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert b"200" not in answer[:64]
        answer = await exchange(
            address,
            GET.format("/api/v1/events").replace(
                "\r\n\r\n",
                "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            ),
        )
        assert answer.startswith(b"HTTP/1.1 403")


async def test_a_bug_in_one_request_ends_that_request_alone() -> None:
    node = MemoryNode()

    async def broken() -> None:
        raise ZeroDivisionError

    node.status = broken  # type: ignore[assignment, method-assign]
    seen: list[Exception] = []
    async with serving(Server(app_of(node), failed=seen.append)) as address:
        assert (await exchange(address, GET.format("/ready"))).startswith(b"HTTP/1.1 500")
        assert (await exchange(address, GET.format("/health"))).startswith(b"HTTP/1.1 200")
    assert [type(one) for one in seen] == [ZeroDivisionError]


async def test_on_a_unix_socket_the_kernel_says_who_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    rules = rules_for(parse_api_address(f"unix://{path}"), TOKEN.encode(), [])
    bare = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    for trusted, status in (([os.geteuid()], b"200"), ([12345], b"401")):
        server = Server(make_app(MemoryNode(), rules), trusted)
        async with serving(server, socket.AF_UNIX, path), await trio.open_unix_socket(path) as stream:
            await stream.send_all(bare)
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 " + status)
        os.unlink(path)
