"""A stream of the host's to a peer, and the errors of the p2p room.

libp2p's exceptions end here: `DialError` is all that goes wrong before there is a stream, `StreamError` a stream that
breaks. Made by edgevpn/p2p/host.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from libp2p.connection_types import ConnectionType
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.fast_stream import FastStream
from edgevpn.p2p.circuit import MAX_MESSAGE
from edgevpn.p2p.yamux_stream import Stream

_RELAY = 256 * 1024


class DialError(EdgevpnError):
    """No connection or no stream to a peer; the text says why, in a few words."""


class StreamError(EdgevpnError):
    """A stream broke: it was reset, its connection ended, or it was closed here before."""


class HostStream:
    """A stream to a peer that speaks `protocol`. All methods raise StreamError when the stream breaks."""

    def __init__(self, stream: Stream, protocol: str) -> None:
        self._stream = stream
        self.protocol = protocol
        self.peer_id = str(stream.muxed_conn.peer_id)

    async def read(self, n: int | None = None) -> bytes:
        """What is there, at least one byte and at most `n`; b"" at the end of file."""
        try:
            return await self._stream.read(n)
        except MuxedStreamEOF:
            return b""
        except BaseLibp2pError as exc:
            raise StreamError(f"stream to {self.peer_id}: {exc}") from exc

    async def relay_to(self, target: FastStream) -> None:
        """Pass everything that comes on to `target`, until the end of file.

        What `target` takes at once is written in the connection's own turn, without a task switch: this is the way of
        packets. Raises StreamError, and what `target` raises.
        """

        def write_now(data: bytes) -> int:
            try:
                return target.write_now(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return 0  # told to the task below, by its own write

        self._stream.relay()
        try:
            while True:
                self._stream.sink = write_now
                data = await self.read(_RELAY)
                self._stream.sink = None
                if not data:
                    return
                await target.send_all(data)
        finally:
            self._stream.sink = None

    @property
    def relayed(self) -> bool:
        """Whether its connection goes through a relay."""
        return self._stream.muxed_conn.get_connection_type() is ConnectionType.RELAYED

    @property
    def dialled_connection(self) -> bool:
        """Whether we are the ones who dialled its connection."""
        return self._stream.muxed_conn.is_initiator

    @property
    def remote_ip(self) -> str:
        """Of the connection's other end; "" for a relayed one."""
        address = self._stream.get_remote_address()
        return address[0] if address is not None else ""

    @property
    def remote_addr(self) -> str:
        """The same as a multiaddr."""
        addrs = self._stream.muxed_conn.get_transport_addresses()
        return str(addrs[0]) if addrs else ""

    def hold(self) -> None:
        """What may be left unread for a while is not held against the peer."""
        self._stream.relay()

    async def read_message(self, limit: int = MAX_MESSAGE) -> bytes:
        """A message of up to `limit` bytes that comes after its length (varint), and not a byte beyond it.

        Raises UntrustedDataError for a longer one.
        """
        try:
            return await read_varint_prefixed_bytes_limited(self, limit)  # type: ignore[arg-type]
        except (ParseError, MessageTooLarge) as exc:
            raise UntrustedDataError("a message that is too long, or has no length") from exc
        except IncompleteReadError as exc:
            raise StreamError(f"stream to {self.peer_id}: end of file inside a message") from exc

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes. An end of file before is a StreamError."""
        data = bytearray()
        while len(data) < n:
            more = await self.read(n - len(data))
            if not more:
                raise StreamError(f"stream to {self.peer_id}: end of file after {len(data)} of {n} bytes")
            data += more
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting for the peer as needed."""
        with self._errors():
            await self._stream.write(data)

    async def write_message(self, data: bytes) -> None:
        """Send `data` (1 byte to 256 KiB) as exactly one data frame: what the Go program takes for one IP packet."""
        with self._errors():
            await self._stream.write_message(data)

    async def close(self) -> None:
        """Close for writing; the peer reads end of file. Reading goes on."""
        await self._stream.close()

    async def release(self) -> None:
        """Nobody here uses it any more: close it, without cutting off what is on its way out."""
        await self._stream.release()

    async def reset(self) -> None:
        """End both directions at once."""
        await self._stream.reset()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BaseLibp2pError as exc:
            raise StreamError(f"stream to {self.peer_id}: {exc}") from exc
