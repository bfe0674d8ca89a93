"""Yamux connections over sessions in memory, and a peer that the test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedStreamEOF,
)

from edgevpn.p2p.yamux import Connection
from edgevpn.p2p.yamux_frames import (
    HEADER,
    Frame,
    parse_frames_untrusted,
)
from edgevpn.p2p.yamux_stream import Stream


class MemorySession:
    """One end of a secured connection, in memory. `writes` is what left here, write by write."""

    def __init__(self, stream: trio.StapledStream, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator
        self.writes: list[bytes] = []

    async def receive(self) -> bytes:
        try:
            data = await self.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc)) from exc
        if not data:
            raise ConnectionClosedError("the peer closed the connection")
        return bytes(data)

    async def write(self, data: bytes) -> None:
        self.writes.append(data)
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc)) from exc

    def write_now(self, _data: bytes) -> bool:
        return False  # everything goes by the writer task

    unsent = False

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    def get_remote_address(self) -> None:
        return None


PEER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


def sessions() -> tuple[MemorySession, MemorySession]:
    one, other = trio.testing.memory_stream_pair()
    return MemorySession(one, True), MemorySession(other, False)


class StuckSender(trio.abc.Stream):
    """A stream whose peer does not read: sending blocks."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self._stream = stream

    async def send_all(self, _data: bytes) -> None:  # type: ignore[override]
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Connection]]:
    """Two connections that talk to each other."""
    left, right = sessions()
    async with trio.open_nursery() as nursery:
        pair = Connection(left, PEER), Connection(right, PEER)  # type: ignore[arg-type]
        for connection in pair:
            nursery.start_soon(connection.start)
        yield pair
        for connection in pair:
            await connection.close()


class RawPeer:
    """A peer that speaks frames by hand."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session
        self.buffer = bytearray()
        self.frames: list[Frame] = []

    async def send(self, *frames: tuple[int, int, int, int] | bytes) -> None:
        raw = b"".join(f if isinstance(f, bytes) else HEADER.pack(0, *f) for f in frames)
        await self.session.write(raw)

    async def next(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.kind in kinds:
                    return frame
            self.buffer += await self.session.receive()
            self.frames += parse_frames_untrusted(self.buffer)


@asynccontextmanager
async def against_raw_peer(dialled: bool = False) -> AsyncIterator[tuple[Connection, RawPeer]]:
    """A connection (accepted, unless `dialled`) whose peer is played by the test."""
    left, right = sessions()
    ours, theirs = (left, right) if dialled else (right, left)
    async with trio.open_nursery() as nursery:
        connection = Connection(ours, PEER)  # type: ignore[arg-type]
        nursery.start_soon(connection.start)
        await connection.event_started.wait()
        yield connection, RawPeer(theirs)
        await theirs.close()
        await connection.close()


async def stream_pair(pair: tuple[Connection, Connection]) -> tuple[Stream, Stream]:
    return await pair[0].open_stream(), await pair[1].accept_stream()


async def read_all(stream: Stream) -> bytes:
    data = bytearray()
    try:
        while True:
            data += await stream.read()
    except MuxedStreamEOF:
        return bytes(data)
