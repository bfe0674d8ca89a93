"""TCP through a stream: half-closes, breaks, and a side that does not read."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edgevpn.tunnels.relay import Relayed, relay


class Tunnel:
    """A relay with all its ends: `client` speaks TCP to it, `peer` is the other end of the stream."""

    def __init__(self, client: trio.SocketStream, peer: trio.SocketStream) -> None:
        self.client = client
        self.peer = peer
        self.clean = True
        self.result: Relayed | None = None
        self.over = trio.Event()


@asynccontextmanager
async def tunnel(nursery: trio.Nursery, **options: bool) -> AsyncIterator[Tunnel]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
    tcp = await listener.accept()
    ours, theirs = trio.socket.socketpair()
    made = Tunnel(client, trio.SocketStream(theirs))

    async def ended_cleanly(_: object) -> bool:
        return made.clean

    async def run() -> None:
        made.result = await relay(tcp, trio.SocketStream(ours), ended_cleanly, **options)
        made.over.set()

    nursery.start_soon(run)
    async with listener, client, made.peer:
        with trio.fail_after(10):
            yield made


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def test_each_direction_ends_by_itself(nursery: trio.Nursery) -> None:
    async with tunnel(nursery) as made:
        await made.client.send_all(b"question")
        await made.client.send_eof()
        assert await read_all(made.peer) == b"question"
        await made.peer.send_all(b"answer")
        await made.peer.send_eof()
        assert await read_all(made.client) == b"answer"
        await made.over.wait()
        assert made.result == Relayed(sent=8, received=6, whole=True)


async def test_the_server_may_end_first(nursery: trio.Nursery) -> None:
    async with tunnel(nursery) as made:
        await made.peer.send_all(b"banner")
        await made.peer.send_eof()
        assert await read_all(made.client) == b"banner"
        await made.client.send_all(b"late")
        await made.client.send_eof()
        assert await read_all(made.peer) == b"late"


async def test_towards_go_the_half_close_waits_for_the_whole_answer(nursery: trio.Nursery) -> None:
    async with tunnel(nursery, half_close=False) as made:
        await made.client.send_all(b"question")
        await made.client.send_eof()
        assert await made.peer.receive_some(100) == b"question"
        with trio.move_on_after(0.2) as scope:
            await made.peer.receive_some(100)
        assert scope.cancelled_caught
        await made.peer.send_all(b"answer")
        await made.peer.send_eof()
        assert await read_all(made.client) == b"answer"
        assert await made.peer.receive_some(100) == b""


async def test_a_stream_that_broke_resets_the_connection(nursery: trio.Nursery) -> None:
    async with tunnel(nursery) as made:
        await made.peer.send_all(b"half an ans")
        assert await made.client.receive_some(100) == b"half an ans"
        made.clean = False
        await made.peer.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await made.client.receive_some(100)
        await made.over.wait()
        assert made.result is not None
        assert not made.result.whole


async def test_a_client_that_broke_does_not_look_as_if_it_had_ended(nursery: trio.Nursery) -> None:
    async with tunnel(nursery) as made:
        import socket
        import struct

        await made.client.send_all(b"half a ques")
        assert await made.peer.receive_some(100) == b"half a ques"
        made.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await made.client.aclose()
        await made.over.wait()
        assert made.result is not None
        assert not made.result.whole


async def test_a_side_that_does_not_read_stops_the_other_and_nothing_is_lost(nursery: trio.Nursery) -> None:
    seed = 5
    print("seed", seed)
    data = random.Random(seed).randbytes(40_000_000)
    async with tunnel(nursery) as made:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for start in range(0, len(data), 100_000):
                await made.client.send_all(data[start : start + 100_000])
                sent += 100_000
            await made.client.send_eof()

        nursery.start_soon(send)
        await trio.sleep(0.3)
        stopped_at = sent
        assert stopped_at < 20_000_000  # what the sockets hold
        await trio.sleep(0.2)
        assert sent == stopped_at
        assert await read_all(made.peer) == data
