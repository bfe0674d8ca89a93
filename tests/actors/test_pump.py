"""The host's pump, between an actor's pipe and a real libp2p stream on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

import edgevpn.p2p  # noqa: F401 - before libp2p
from edgevpn.actors import host as host_actor
from edgevpn.fast_stream import FastStream
from edgevpn.p2p.host import open_host
from edgevpn.p2p.host_stream import HostStream, StreamError
from edgevpn.proto.protocols import TUNNEL

ECHO = "/test/echo"


@asynccontextmanager
async def pumped(
    nursery: trio.Nursery, protocol: str = ECHO, ended_cleanly: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[trio.SocketStream, HostStream]]:
    """An actor's end of a pipe, and the peer's end of the stream that it is pumped to."""
    arrived: list[HostStream] = []
    here, over = trio.Event(), trio.Event()

    async def serve(stream: HostStream) -> None:
        arrived.append(stream)
        here.set()
        await over.wait()

    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with open_host(b"1" * 32, listen) as one, open_host(b"2" * 32, listen) as two:
        two.serve(protocol, serve)
        await one.connect(two.peer_id, two.bound_addrs(), timeout=5)
        stream = await one.new_stream(two.peer_id, [protocol], timeout=5)
        ours, theirs = trio.socket.socketpair()
        nursery.start_soon(host_actor.pump, FastStream(trio.SocketStream(theirs)), stream, ended_cleanly)
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


async def test_how_a_stream_ended_is_known_before_its_end_can_be_read(nursery: trio.Nursery) -> None:
    ends: list[str] = []
    with trio.fail_after(10):
        async with pumped(nursery, TUNNEL, lambda: ends.append("clean")) as (pipe, peer):
            await peer.write(b"all of it")
            await peer.close()
            assert await pipe.receive_some(100) == b"all of it"
            assert await pipe.receive_some(100) == b""
            assert ends == ["clean"]
        ends.clear()
        async with pumped(nursery, TUNNEL, lambda: ends.append("clean")) as (pipe, peer):
            await peer.write(b"half of")
            assert await pipe.receive_some(100) == b"half of"
            await peer.reset()
            assert await pipe.receive_some(100) == b""
            assert ends == []


async def test_a_tunnel_that_its_actor_left_in_the_middle_is_reset_not_ended(nursery: trio.Nursery) -> None:
    with trio.fail_after(10):
        async with pumped(nursery, TUNNEL) as (pipe, peer):
            await pipe.send_all(b"half of")
            await pipe.aclose()
            assert await peer.read_exactly(7) == b"half of"
            with pytest.raises(StreamError):
                await peer.read()
        async with pumped(nursery, TUNNEL) as (pipe, peer):
            await pipe.send_all(b"all of it")
            await pipe.send_eof()
            assert await peer.read_exactly(9) == b"all of it"
            assert await peer.read() == b""
