"""A stream of a yamux connection: what was read and not taken, its windows, and its end.

It reaches its connection through `Muxer`, which edgevpn/p2p/yamux.py makes; there is how the two work, and why.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from trio.lowlevel import ParkingLot

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.bandwidth import Meter
from edgevpn.p2p.yamux_frames import DATA, FIN, INITIAL_WINDOW, MAX_WINDOW, RST, WINDOW_UPDATE

MAX_FRAME = 65519 - 12  # a data frame of ours and its header fill one noise frame
QUEUE_HIGH = 256 * 1024
MAX_GROWN = 48 * 1024 * 1024  # by which the windows of a connection's streams may have grown, together
MAX_ID = 2**32 - 1

_NO_METER = Meter()


class Muxer(IMuxedConn):
    """What a stream needs of its connection. `drained` is where writers wait while `queued` is above QUEUE_HIGH."""

    rtt: float
    unread: int  # of all streams together
    grown: int  # by which windows are larger than the first
    relayed: int  # streams that actors have taken
    queued: int
    drained: ParkingLot

    @abstractmethod
    def send_frame(self, kind: int, flags: int, stream_id: int, length: int, data: bytes = b"") -> None:
        """Queue one frame for the writer."""

    @abstractmethod
    def flush_now(self) -> None:
        """Send a small queue at once."""

    @abstractmethod
    def forget(self, stream: Stream) -> None:
        """It is over."""

    @abstractmethod
    def get_remote_address(self) -> tuple[str, int] | None: ...

    @abstractmethod
    def get_transport_addresses(self) -> list[Multiaddr]: ...


class Stream(IMuxedStream):
    """One stream. Reads and writes by different tasks may run at the same time."""

    def __init__(self, connection: Muxer, stream_id: int) -> None:
        self.muxed_conn: Muxer = connection
        self.stream_id = stream_id
        # Takes what comes while nobody has anything unread: given data, how much of it was taken. See HostStream.relay.
        self.sink: Callable[[bytes], int] | None = None
        self._meter = _NO_METER
        self.released_at: float | None = None
        self._received = bytearray()
        self._send_window = INITIAL_WINDOW
        self._window = INITIAL_WINDOW  # what the peer may have outstanding with us
        self._granted = INITIAL_WINDOW  # what it may still send
        self._consumed = 0
        self._granted_at = trio.current_time()
        self._relayed = False
        self._counted = True  # in the connection's `unread`, as long as it knows the stream
        self._readable = ParkingLot()
        self._writable = ParkingLot()
        self._wrote_fin = False
        self._read_fin = False
        self._reset: str | None = None

    def count_on(self, meter: Meter) -> None:
        """Count this stream's bytes on `meter` from now on, and what came already and was not read."""
        self._meter = meter
        meter.received(len(self._received))

    # --- reading

    async def read(self, n: int | None = None) -> bytes:
        """What is there, at most `n` bytes (any number if None), at least one.

        Raises MuxedStreamEOF when the peer has closed its side, MuxedStreamReset when the stream or its connection
        broke (after what had come before).
        """
        while not self._received:
            if self._reset is not None:
                raise MuxedStreamReset(self._reset)
            if self._read_fin:
                raise MuxedStreamEOF("the peer closed the stream")
            await self._readable.park()
        if n is None or n < 0 or n >= len(self._received):
            data = bytes(self._received)
            self._received = bytearray()
        else:
            data = bytes(self._received[:n])
            del self._received[:n]
        self._consume(len(data))
        return data

    def _consume(self, size: int) -> None:
        self._consumed += size
        if self._counted:
            self.muxed_conn.unread -= size
        if self._consumed < self._window // 2 or self._read_fin or self._reset is not None:
            return
        now = trio.current_time()
        delta = self._consumed
        if now - self._granted_at < 4 * self.muxed_conn.rtt and self._may_grow():
            self.muxed_conn.grown += self._window
            delta += self._window
            self._window *= 2
        self._consumed = 0
        self._granted += delta
        self._granted_at = now
        self.muxed_conn.send_frame(WINDOW_UPDATE, 0, self.stream_id, delta)

    def _may_grow(self) -> bool:
        return self._counted and self._window < MAX_WINDOW and self.muxed_conn.grown + self._window <= MAX_GROWN

    # --- writing

    async def write(self, data: bytes) -> None:
        """Queue all of `data` for sending, waiting for window and queue.

        A cancelled write may have sent a part. Raises MuxedStreamClosed after `close`, MuxedStreamReset.
        """
        with memoryview(data) as view:
            start, size = 0, len(data)
            while start < size:
                await self._wait_for_window(1)
                part = min(size - start, self._send_window, MAX_FRAME)
                self._send(data if part == size else bytes(view[start : start + part]))
                start += part
        self.muxed_conn.flush_now()
        await trio.lowlevel.checkpoint()

    async def write_message(self, data: bytes) -> None:
        """Send `data` (1 byte to 256 KiB) as exactly one data frame; a cancelled call has sent nothing.

        Raises ValueError for another size, else as `write`.
        """
        if not 0 < len(data) <= INITIAL_WINDOW:
            raise ValueError(f"a message is 1 to {INITIAL_WINDOW} bytes, not {len(data)}")
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._wait_for_window(len(data))
        self._send(data)
        self.muxed_conn.flush_now()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _wait_for_window(self, size: int) -> None:
        connection = self.muxed_conn
        while True:
            if self._reset is not None:
                raise MuxedStreamReset(self._reset)
            if self._wrote_fin:
                raise MuxedStreamClosed("the stream is closed for writing")
            if connection.queued > QUEUE_HIGH:
                await connection.drained.park()
            elif self._send_window < size:
                await self._writable.park()
            else:
                return

    def _send(self, data: bytes) -> None:
        self._send_window -= len(data)
        self._meter.sent(len(data))
        self.muxed_conn.send_frame(DATA, 0, self.stream_id, len(data), data)

    # --- ending

    async def close(self) -> None:
        """Close for writing (the peer reads end of file); reading goes on. Never waits for the peer."""
        if not self._wrote_fin and self._reset is None:
            self._wrote_fin = True
            self.muxed_conn.send_frame(WINDOW_UPDATE, FIN, self.stream_id, 0)
            self._writable.unpark_all()
            self._forget_if_done()
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def reset(self) -> None:
        """End both directions at once; what was not yet read is lost."""
        self.abort("the stream was reset here")
        await trio.lowlevel.cancel_shielded_checkpoint()

    def abort(self, reason: str) -> None:
        """As `reset`, without a checkpoint."""
        if self._reset is None and not (self._wrote_fin and self._read_fin):
            self.muxed_conn.send_frame(WINDOW_UPDATE, RST, self.stream_id, 0)
        self.broke(reason)
        self._received = bytearray()

    async def release(self) -> None:
        """Nobody here will use the stream any more: close it, without cutting off what is still on its way out.

        What the peer still sends resets it, and so does `LINGER` without a close from the peer.
        """
        self.released_at = trio.current_time()
        if self._received:
            self.abort("data that nobody reads")
        await self.close()

    @property
    def is_closed(self) -> bool:
        return self._reset is not None or (self._wrote_fin and self._read_fin and not self._received)

    @property
    def grant(self) -> int:
        """Bytes that the peer may still send."""
        return self._granted

    def relay(self) -> None:
        """An actor has taken the stream: what it may leave unread for a while is not held against the peer."""
        if not self._relayed and self._counted:
            self._relayed = True
            self.muxed_conn.relayed += 1

    def forgotten(self) -> None:
        """The connection stops counting the stream."""
        if self._counted:
            self._counted = False
            self.muxed_conn.unread -= len(self._received)
            self.muxed_conn.grown -= self._window - INITIAL_WINDOW
            self.muxed_conn.relayed -= self._relayed

    def _forget_if_done(self) -> None:
        if self._wrote_fin and self._read_fin:
            self.muxed_conn.forget(self)

    # --- called by the connection's reader

    def deliver(self, data: bytes) -> None:
        """Data came. Raises UntrustedDataError if the peer had no window for it."""
        size = len(data)
        self._granted -= size
        if self._granted < 0 or self._read_fin:
            raise UntrustedDataError("yamux: data beyond the window" if self._granted < 0 else "yamux: data after FIN")
        if self.released_at is not None:
            self.abort("data that nobody reads")
            return
        self._meter.received(size)
        if self.sink is not None and not self._received:
            taken = self.sink(data)
            if taken:
                self.muxed_conn.unread += taken
                self._consume(taken)
                data = data[taken:]
                if not data:
                    return
        self._received += data
        self.muxed_conn.unread += len(data)
        self._readable.unpark_all()

    def widen(self, delta: int) -> None:
        self._send_window = min(self._send_window + delta, MAX_ID)
        self._writable.unpark_all()

    def end_of_data(self) -> None:
        self._read_fin = True
        self._readable.unpark_all()
        self._forget_if_done()

    def broke(self, reason: str) -> None:
        """The stream is over, by a reset or with its connection."""
        if self._reset is None:
            self._reset = reason
        self.muxed_conn.forget(self)
        self._readable.unpark_all()
        self._writable.unpark_all()

    # --- the rest of libp2p's interface

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxed_conn.get_remote_address()

    def set_deadline(self, ttl: int) -> None:
        raise NotImplementedError("use trio's cancel scopes")

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
