"""Streams for packets, and the pump between an actor's pipe and a peer's stream."""

from __future__ import annotations

import random

import pytest
import trio

from edgevpn.fast_stream import FastStream


def make_pair() -> tuple[FastStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return FastStream(trio.SocketStream(ours)), trio.SocketStream(theirs)


async def test_early_bytes_are_read_first() -> None:
    ours, theirs = trio.socket.socketpair()
    async with FastStream(trio.SocketStream(ours), b"early") as stream, trio.SocketStream(theirs) as other:
        await other.send_all(b" late")
        assert await stream.receive_some(3) == b"ear"
        assert await stream.receive_some(100) == b"ly"
        assert await stream.receive_some(100) == b" late"


async def test_much_data_arrives_whole_both_ways(nursery: trio.Nursery) -> None:
    seed = 11
    print("seed", seed)
    data = random.Random(seed).randbytes(3_000_000)
    stream, other = make_pair()
    async with stream, other:

        async def send() -> None:
            for start in range(0, len(data), 70_001):
                await stream.send_all(data[start : start + 70_001])
            await stream.send_eof()

        nursery.start_soon(send)
        received = b""
        while chunk := await other.receive_some(100_000):
            received += chunk
        assert received == data
        nursery.start_soon(other.send_all, data)
        received = b""
        while len(received) < len(data):
            received += await stream.receive_some(65536)
        assert received == data


async def test_write_now_takes_what_fits_and_never_waits() -> None:
    stream, other = make_pair()
    async with stream, other:
        taken = stream.write_now(bytes(10_000_000))
        assert 0 < taken < 10_000_000
        assert stream.write_now(b"more") == 0


async def test_a_closed_other_end_is_told_from_a_half_closed_one() -> None:
    stream, other = make_pair()
    async with stream:
        await other.send_eof()
        assert await stream.receive_some(10) == b""
        assert not stream.hung_up()
        await other.aclose()
        assert stream.hung_up()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_stream_that_was_closed_here_says_so() -> None:
    stream, other = make_pair()
    async with other:
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some(1)
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
