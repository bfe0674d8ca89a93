"""A proxy and an egress, joined by streams in memory; the web server is a real one on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from edgevpn.actors.egress import Egress
from edgevpn.actors.host_link import StreamRefusedError
from edgevpn.actors.proxy import Proxy
from edgevpn.config import NodeConfig
from edgevpn.proto import tunnel_wire as wire
from edgevpn.proto.protocols import EGRESS, TUNNEL
from edgevpn.tunnels.relay import read_exactly
from scripts.labkit.endpoints import _Handler


class Memory:
    """Stands for shell, link and ledger view of both sides: peers "ours" (an egress of ours) and "go"."""

    def __init__(self, nursery: trio.Nursery, peers: Sequence[str], **config: Any) -> None:
        self.nursery = nursery
        self.peers = list(peers)
        self.config = NodeConfig(run_dir="/run/edgevpn/x", vpn=False, **config)
        self.said: list[str] = []
        self.egress = Egress(self, self)  # type: ignore[arg-type]
        self.proxy = Proxy(self, self, self, "here")  # type: ignore[arg-type]

    def warn(self, event: str, **facts: object) -> None:
        self.said.append(f"{event} {facts}")

    def count(self, event: str) -> None:
        self.said.append(event)

    async def live(self, _: float) -> set[str]:
        return set(self.peers)

    def keys(self, _: str) -> list[str]:
        return self.peers

    async def ended_cleanly(self, _: object) -> bool:
        return True

    async def dial(self, peer: str, protocols: Sequence[str]) -> tuple[str, trio.SocketStream]:
        if peer == "go" and EGRESS not in protocols:
            raise StreamRefusedError("protocol not spoken")
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
        self.nursery.start_soon(self._serve, protocols[0], theirs)
        return protocols[0], ours

    async def _serve(self, protocol: str, stream: trio.SocketStream) -> None:
        async with stream:
            if protocol == TUNNEL:
                head = await read_exactly(stream, wire.OPEN_HEAD)
                wish = wire.read_open_untrusted(head + await read_exactly(stream, wire.open_length_untrusted(head)))
                await self.egress.serve(wish, stream)
            else:
                await self.egress.serve_http(stream)


@contextmanager
def web_server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def proxied(
    nursery: trio.Nursery, peers: Sequence[str] = ("ours",), **config: Any
) -> AsyncIterator[tuple[Memory, SimpleNamespace]]:
    memory = Memory(nursery, peers, **config)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    nursery.start_soon(memory.proxy.listen, listener)
    port = listener.getsockname()[1]

    async def say(data: bytes, count: int = 1) -> bytes:
        """What comes back until nothing more does (`count` answers are waited for)."""
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(data)
            back = b""
            with trio.move_on_after(5):
                while more := await client.receive_some(65536):
                    back += bytes(more)
                    if back.count(b"HTTP/1.1 200") >= count > 0 and back.endswith(b"}"):
                        break
            return back

    with trio.fail_after(20):
        yield memory, SimpleNamespace(say=say)
    nursery.cancel_scope.cancel()


ALLOWED = {"egress_allow": ("127.0.0.1/32",)}


async def test_one_connection_carries_several_requests(nursery: trio.Nursery) -> None:
    with web_server() as port:
        async with proxied(nursery, **ALLOWED) as (memory, client):
            asked = f"GET http://127.0.0.1:{port}/one HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            back = await client.say(asked + asked.replace(b"/one", b"/two"), 2)
            assert b'"/one"' in back
            assert b'"/two"' in back
            while memory.egress.stats.flows:  # noqa: ASYNC110 - the answer arrives before its end is noted
                await trio.sleep(0.01)
            assert memory.egress.stats.served == 2


async def test_connect_and_socks_reach_the_same_server(nursery: trio.Nursery) -> None:
    with web_server() as port:
        async with proxied(nursery, **ALLOWED) as (_, client):
            asked = b"GET /through HTTP/1.1\r\nHost: x\r\n\r\n"
            back = await client.say(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + asked, 2)
            assert back.startswith(b"HTTP/1.1 200 Connection established\r\n")
            assert b'"/through"' in back
            hello = b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big")
            back = await client.say(hello + asked)
            assert back.startswith(b"\x05\x00" + b"\x05\x00\x00\x01")
            assert b'"/through"' in back


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0", "169.254.169.254"])
async def test_a_private_address_is_refused_however_it_is_written(nursery: trio.Nursery, host: str) -> None:
    async with proxied(nursery) as (memory, client):
        back = await client.say(f"GET http://{host}:9/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(), 0)
        assert back.startswith(b"HTTP/1.1 403 ")
        back = await client.say(f"CONNECT {host}:9 HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 0)
        assert back.startswith(b"HTTP/1.1 403 ")
        name = host.encode()
        back = await client.say(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x00\x09", 0)
        assert back[:4] == b"\x05\x00\x05\x02"
        assert memory.egress.stats.served == 0


async def test_a_name_that_resolves_to_something_else_the_next_time_gains_nothing(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was judged is the one that is connected to: a name is resolved once."""
    asked: list[str] = []
    real = trio.socket.getaddrinfo

    async def rebinding(host: str, port: int, **more: Any) -> Any:
        asked.append(host)
        return await real("192.0.2.1" if len(asked) == 1 else "127.0.0.1", port, **more)

    with web_server() as port:
        async with proxied(nursery) as (memory, _):
            monkeypatch.setattr(trio.socket, "getaddrinfo", rebinding)
            with pytest.raises(Exception, match="this egress does not connect to it"):
                await memory.egress.connect("rebind.example", port)
    assert asked == ["rebind.example"]


async def test_a_target_that_does_not_answer_is_told_apart(nursery: trio.Nursery) -> None:
    async with proxied(nursery, **ALLOWED) as (_, client):
        back = await client.say(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0)
        assert back.startswith(b"HTTP/1.1 502 ")
        back = await client.say(b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01", 0)
        assert back[:4] == b"\x05\x00\x05\x04"


async def test_a_go_egress_takes_http_and_is_passed_over_for_the_rest(nursery: trio.Nursery) -> None:
    with web_server() as port:
        async with proxied(nursery, ("go",), **ALLOWED) as (_, client):
            back = await client.say(f"GET http://127.0.0.1:{port}/x HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b'"/x"' in back
            back = await client.say(b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n", 0)
            assert back.startswith(b"HTTP/1.1 503 ")
            assert b"more than plain HTTP" in back


@pytest.mark.parametrize(
    "said", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x05\x00", b"\x05\x01\x02", b"SSH-2.0-x\r\n"]
)
async def test_a_client_that_speaks_something_else_is_let_go(nursery: trio.Nursery, said: bytes) -> None:
    async with proxied(nursery) as (memory, client):
        back = await client.say(said, 0)
        assert back[:12] in (b"", b"HTTP/1.1 400", b"\x05\xff")
        assert memory.egress.stats.flows == 0
