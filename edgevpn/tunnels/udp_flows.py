"""UDP through streams of peers: one stream a flow, opened by its first datagram, closed when nothing passes any more.

A flow is all datagrams of one client of a listener (its address and port). On the provider's side it has a socket of
its own, so answers find back. Datagrams may be lost, never reordered: what does not fit is dropped, the newest first,
and counted. A flow whose stream broke is opened anew by its next datagram, wherever the service is by then.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto.tunnel_wire import MAX_DATAGRAM, DatagramDecoder, write_datagram

Stream = trio.abc.HalfCloseableStream
Address = tuple[str, int] | tuple[str, int, int, int]
OpenFlow = Callable[[], Awaitable[Stream]]

IDLE = 120.0  # seconds without a datagram in either direction (RFC 4787, section 4.3: not less)
MAX_FLOWS = 1024  # of a listener
QUEUE = 64  # datagrams of a flow that wait for its stream
_READ = 64 * 1024
_BATCH = 64 * 1024


@dataclass
class FlowStats:
    """Of one listener or one service."""

    flows: int = 0
    served: int = 0
    failed: int = 0
    dropped: int = 0
    note: str = ""


@dataclass
class _Flow:
    send: trio.MemorySendChannel[bytes]
    receive: trio.MemoryReceiveChannel[bytes]
    used: float = field(default_factory=trio.current_time)


class UdpListener:
    """Datagrams of local clients to a service, and its answers."""

    def __init__(self, sock: socket.socket, open_flow: OpenFlow, stats: FlowStats, *, idle: float = IDLE) -> None:
        """`open_flow` dials a stream to the provider (EdgevpnError when it can't)."""
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._open = open_flow
        self._idle = idle
        self._flows: dict[Address, _Flow] = {}
        self.stats = stats

    async def run(self) -> None:
        with self._socket:
            await self._run()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data, client = await self._socket.recvfrom(MAX_DATAGRAM)
                except OSError:  # an ICMP error of an earlier answer: its client is gone
                    await trio.sleep(0.001)
                    continue
                flow = self._flows.get(client)
                if flow is None:
                    if len(self._flows) >= MAX_FLOWS:
                        self.stats.dropped += 1
                        continue
                    flow = self._flows[client] = _Flow(*trio.open_memory_channel[bytes](QUEUE))
                    nursery.start_soon(self._serve, client, flow)
                flow.used = trio.current_time()
                try:
                    flow.send.send_nowait(data)
                except trio.WouldBlock:
                    self.stats.dropped += 1

    async def _serve(self, client: Address, flow: _Flow) -> None:
        """One flow, until it is idle or its stream ends."""
        self.stats.flows += 1
        try:
            stream = await self._open()
        except EdgevpnError as exc:
            self.stats.failed += 1
            self.stats.note = str(exc)
        else:
            self.stats.served += 1
            self.stats.note = ""

            async def answer(data: bytes) -> None:
                flow.used = trio.current_time()
                await self._socket.sendto(data, client)

            await carry(stream, flow.receive, answer, lambda: flow.used, self._idle)
        finally:
            self.stats.flows -= 1
            del self._flows[client]


async def carry(
    stream: Stream,
    outgoing: trio.MemoryReceiveChannel[bytes],
    deliver: Callable[[bytes], Awaitable[None]],
    used: Callable[[], float],
    idle: float,
) -> None:
    """Datagrams of `outgoing` into the stream and those of the stream to `deliver`, until it ends or all is idle."""
    try:
        await _carry(stream, outgoing, deliver, used, idle)
    finally:
        await trio.aclose_forcefully(stream)


async def _carry(
    stream: Stream,
    outgoing: trio.MemoryReceiveChannel[bytes],
    deliver: Callable[[bytes], Awaitable[None]],
    used: Callable[[], float],
    idle: float,
) -> None:
    async with trio.open_nursery() as nursery:

        async def outward() -> None:
            try:
                async for data in outgoing:
                    batch = [write_datagram(data)]
                    size = len(data)
                    while size < _BATCH:
                        try:
                            more = outgoing.receive_nowait()
                        except (trio.WouldBlock, trio.EndOfChannel):
                            break
                        batch.append(write_datagram(more))
                        size += len(more)
                    await stream.send_all(b"".join(batch))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()

        async def until_idle() -> None:
            while (rest := used() + idle - trio.current_time()) > 0:  # noqa: ASYNC110 - time is what it waits for
                await trio.sleep(rest)
            nursery.cancel_scope.cancel()

        nursery.start_soon(outward)
        nursery.start_soon(until_idle)
        decoder = DatagramDecoder()
        try:
            while data := await stream.receive_some(_READ):
                for datagram in decoder.feed_untrusted(bytes(data)):
                    try:
                        await deliver(datagram)
                    except OSError:
                        continue  # nobody there any more, or too large for the way: as UDP is
        except (UntrustedDataError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


async def serve_flow(stream: Stream, target: socket.socket, stats: FlowStats, *, idle: float = IDLE) -> None:
    """The provider's side of one flow: `target` is a UDP socket connected to the service."""
    sock = trio.socket.from_stdlib_socket(target)
    send, receive = trio.open_memory_channel[bytes](QUEUE)
    used = trio.current_time()
    stats.flows += 1
    stats.served += 1

    async def listen() -> None:
        nonlocal used
        while True:
            try:
                data = await sock.recv(MAX_DATAGRAM)
            except OSError:
                await trio.sleep(0.01)  # ICMP: nothing listens there now; it may come back
                continue
            used = trio.current_time()
            try:
                send.send_nowait(data)
            except trio.WouldBlock:
                stats.dropped += 1

    async def deliver(data: bytes) -> None:
        nonlocal used
        used = trio.current_time()
        await sock.send(data)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await carry(stream, receive, deliver, lambda: used, idle)
            nursery.cancel_scope.cancel()
    finally:
        stats.flows -= 1
        sock.close()
