"""TCP through a peer's stream: bytes both ways, each direction ended by itself.

Back-pressure is the sockets': a side that does not read stops the one that writes, through both hosts. An end of file
is passed on as one (a half-close), and a break as a break: the TCP connection is reset then (RFC 9293, section 3.10.7),
so that no application takes half an answer for a whole one. Towards the Go program, which closes everything when one
direction ends, our half-close waits until its answer is whole.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from edgevpn.errors import UntrustedDataError
from edgevpn.fast_stream import FastStream

READ = 256 * 1024
_LINGER_RESET = struct.pack("ii", 1, 0)
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

EndedCleanly = Callable[[object], Awaitable[bool]]


@dataclass
class Relayed:
    """What went through. `whole`: both directions ended in order."""

    sent: int = 0  # to the peer
    received: int = 0
    whole: bool = False


async def relay(
    tcp: trio.SocketStream,
    stream: trio.abc.HalfCloseableStream,
    ended_cleanly: EndedCleanly,
    *,
    half_close: bool = True,
    first: bytes = b"",
) -> Relayed:
    """Pass bytes until both directions ended or either side broke; both are closed then.

    `first`: what was read of the TCP connection already. `half_close`: whether the peer may be told that our direction
    ended while its own goes on.
    """
    done = Relayed()
    near = FastStream(tcp, first)
    received_all = trio.Event()
    sent_all = False
    try:
        async with trio.open_nursery() as nursery:

            async def outward() -> None:
                nonlocal sent_all
                try:
                    while data := await near.receive_some(READ):
                        await stream.send_all(data)
                        done.sent += len(data)
                    if not half_close:
                        await received_all.wait()
                    await stream.send_eof()
                    sent_all = True
                except _BROKEN:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(outward)
            try:
                while data := await stream.receive_some(READ):
                    await near.send_all(data)
                    done.received += len(data)
                if not await ended_cleanly(stream):
                    raise trio.BrokenResourceError
                await near.send_eof()
                received_all.set()
            except _BROKEN:
                nursery.cancel_scope.cancel()
        done.whole = sent_all and received_all.is_set()
    finally:
        if not done.whole:
            reset_on_close(tcp)
        tcp.socket.close()  # without a checkpoint: when this is cancelled, the other must be closed too
        await trio.aclose_forcefully(stream)
    return done


def reset_on_close(tcp: trio.SocketStream) -> None:
    """The other end of the connection shall see it broken."""
    if tcp.socket.fileno() >= 0:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


async def read_exactly(stream: trio.abc.ReceiveStream, count: int, *, may_end: bool = False) -> bytes:
    """`count` bytes. Raises UntrustedDataError at an end before, trio.BrokenResourceError.

    `may_end`: an end before the first byte is the peer's good right, and trio.BrokenResourceError.
    """
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more and not data and may_end:
            raise trio.BrokenResourceError("the other side ended it")
        if not more:
            raise UntrustedDataError(f"the stream ended after {len(data)} of {count} bytes")
        data += bytes(more)
    return data
