"""A loop that is run once before the fork, so that what it leaves behind is shared.

The interpreter writes into code the first times it runs it (it is made to fit what it meets), and a library makes
tables at their first use. In a forked actor each of these writes would copy a page; in the template it is done once for
all: 0.6 MB less in each actor, for 30 ms. No thread and no descriptor is left of it.
"""

from __future__ import annotations

import socket

import trio

from edgevpn.actors.channel import Channel
from edgevpn.actors.tractor_mends import open_loose_nursery
from edgevpn.proto.messages import Done, Heartbeat, Reply, Request

_TIMES = 10  # code is fitted after eight runs


def rehearse() -> None:
    """Do what every actor does, some times over."""
    trio.run(_rehearse)


async def _rehearse() -> None:
    for _ in range(_TIMES):
        ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer, trio.SocketStream(theirs))
            await _ask(trio.SocketStream(ours))
        async with open_loose_nursery() as nursery:  # tractor's
            nursery.start_soon(trio.sleep, 0)
        send, receive = trio.open_memory_channel[int](1)
        await send.send(1)
        await receive.receive()
        with trio.move_on_after(0.001):
            await trio.sleep_forever()


async def _ask(stream: trio.SocketStream) -> None:
    channel = Channel(stream)
    await channel.greet("rehearsal")
    await channel.send(Request(Heartbeat()))
    await channel.expect_hello()
    await channel.receive()
    await channel.aclose()


async def _answer(stream: trio.SocketStream) -> None:
    channel = Channel(stream)
    await channel.greet("rehearsal")
    await channel.expect_hello()
    await channel.receive()
    await channel.send(Reply(Done()))
    await channel.receive()
    await channel.aclose()
