"""The host's pump, between an actor's pipe and a real libp2p stream on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

import edgevpn.p2p  # noqa: F401 - before libp2p
from edgevpn.actors import host as host_actor
from edgevpn.fast_stream import FastStream
from edgevpn.p2p.host import HostStream, StreamError, open_host

ECHO = "/test/echo"


@asynccontextmanager
async def pumped(nursery: trio.Nursery) -> AsyncIterator[tuple[trio.SocketStream, HostStream]]:
    """An actor's end of a pipe, and the peer's end of the stream that it is pumped to."""
    arrived: list[HostStream] = []
    here, over = trio.Event(), trio.Event()

    async def serve(stream: HostStream) -> None:
        arrived.append(stream)
        here.set()
        await over.wait()

    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with open_host(b"1" * 32, listen) as one, open_host(b"2" * 32, listen) as two:
        two.serve(ECHO, serve)
        await one.connect(two.peer_id, two.bound_addrs(), timeout=5)
        stream = await one.new_stream(two.peer_id, [ECHO], timeout=5)
        ours, theirs = trio.socket.socketpair()
        nursery.start_soon(host_actor.pump, FastStream(trio.SocketStream(theirs)), stream)
        await here.wait()
        async with trio.SocketStream(ours) as pipe:
            yield pipe, arrived[0]
        over.set()


async def test_bytes_go_both_ways_and_an_end_of_file_closes_one_direction(nursery: trio.Nursery) -> None:
    with trio.fail_after(10):
        async with pumped(nursery) as (pipe, peer):
            await pipe.send_all(b"question")
            assert await peer.read_exactly(8) == b"question"
            await pipe.send_eof()
            assert await peer.read() == b""
            await peer.write(b"answer")
            assert await pipe.receive_some(100) == b"answer"
            await peer.close()
            assert await pipe.receive_some(100) == b""


async def test_an_actor_that_is_gone_ends_the_peers_stream(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_actor, "HUNG_UP_CHECK", 0.01)
    with trio.fail_after(10):
        async with pumped(nursery) as (pipe, peer):
            await pipe.aclose()  # as the kernel does when the actor's process dies
            with pytest.raises(StreamError):  # noqa: PT012 - until the reset comes
                while True:
                    await peer.write(b"?")
                    await trio.sleep(0.01)
