"""Yamux: many streams over one secured connection.

HashiCorp's yamux as libp2p uses it (`/yamux/1.0.0`): data frames under a per-stream receive window, pings and GoAway
for the connection. `yamux_frames` has the wire format; `Connection` and `yamux_stream.Stream` carry it out for
py-libp2p's swarm (`IMuxedConn`, `IMuxedStream`).

- One writer task per connection joins every queued frame into one noise write. Nobody else writes to the connection, so
  cancelling a `write` can never leave half a frame on the wire. Tasks wait in parking lots; nothing polls.
- Back-pressure: a `write` waits while the peer's window is used up, or while `QUEUE_HIGH` bytes are waiting to be sent.
  What we must answer whatever we do (pings, window updates, resets) is bounded by `QUEUE_LIMIT`: a peer that makes us
  queue more without reading is dropped.
- A peer that breaks the protocol, overruns a window, or lets `MAX_UNREAD` bytes pile up ends its own connection only.
  (It never must end one that keeps to its windows: they grow by `MAX_GROWN` together, and each stream that an actor
  has taken may wait with a first window full.)
- Keep-alive: a ping goes out after `PING_INTERVAL` of silence; who dialled is a little earlier, so that the pings of
  one side are enough. When nothing at all arrives for `PING_TIMEOUT` after it, the link is dead; after `check_now`, for
  `CHECK_TIMEOUT`. If we stood still ourselves meanwhile it is asked again before that is said.
- The receive window of a stream starts at 256 KiB and doubles, up to 16 MiB, while the reader drains it faster than
  four round trips (as go-yamux does).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from libp2p.abc import ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamError,
)
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from trio.lowlevel import ParkingLot

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    HEADER,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Frame,
    parse_frames_untrusted,
)
from edgevpn.p2p.yamux_stream import MAX_FRAME, MAX_ID, Muxer, Stream

log = logging.getLogger(__name__)

QUEUE_LIMIT = 4 * 1024 * 1024
MAX_UNREAD = 64 * 1024 * 1024  # of all streams of a connection together, beside the first window of relayed ones
MAX_STREAMS = 4096  # open at once in each direction
BACKLOG = 256  # inbound streams not yet accepted
FLUSH = 0.5
PING_INTERVAL = 15.0  # of silence
PING_EARLIER = 2.0  # who dialled the connection, so that the other need not
PING_EACH = 60.0  # at least: for the round trip
PING_TIMEOUT = 10.0
CHECK_TIMEOUT = 3.0
OVERSLEPT = 2.0  # so late a wake-up says that we were the ones who stood still
LINGER = 60.0  # how long a stream that nobody here uses any more waits for the peer to close it
MAX_PARTIAL = 1024 * 1024  # of an unfinished frame for a stream that we don't know


class Session(Protocol):
    """What the muxer needs of a secured connection (`edgevpn.p2p.noise.NoiseSession`)."""

    async def receive(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def write_now(self, data: bytes) -> bool: ...
    @property
    def unsent(self) -> bool: ...
    async def close(self) -> None: ...
    def get_remote_address(self) -> tuple[str, int] | None: ...
    def get_transport_addresses(self) -> list[Multiaddr]: ...
    def get_connection_type(self) -> ConnectionType: ...


class Connection(Muxer):
    """The streams of one secured connection. `start` runs it until it ends; that never raises."""

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None  # set by the swarm
        self.rtt = 0.0  # seconds; of the last ping, 0.0 before the first
        self.opened_at = trio.current_time()
        self.last_received = self.opened_at
        self.end_reason = ""
        self.broke_rules = False  # whether it ended because the peer did
        self.observed = ""  # where the peer says it sees us, a multiaddr
        self.punched = False  # whether a hole was made for it
        self.unread = 0
        self.grown = 0  # by which windows are larger than the first
        self.relayed = 0  # streams that actors have taken
        self.queued = 0
        self.drained = ParkingLot()
        self._session: Session = conn  # type: ignore[assignment]  # made by our NoiseTransport
        self._dialled = conn.is_initiator
        self._next_id = 1 if self._dialled else 2
        self._streams: dict[int, Stream] = {}
        self._inbound = 0
        self._backlog: deque[Stream] = deque()
        self._acceptor = ParkingLot()
        self._queue: list[bytes] = []
        self._queue_filled = ParkingLot()
        self._writing = False
        self._flushed = ParkingLot()
        self._ping_value = 0
        self._ping_sent = 0.0
        self._check = trio.Event()
        self._scope = trio.CancelScope()
        self._running = False

    # --- libp2p's interface

    @property
    def is_initiator(self) -> bool:
        return self._dialled

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return bool(self.end_reason)

    async def open_stream(self) -> Stream:
        """Raises MuxedConnUnavailable when the connection is over, MuxedStreamError at the limit of open streams."""
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise MuxedConnUnavailable(self.end_reason)
        if len(self._streams) - self._inbound >= MAX_STREAMS:
            raise MuxedStreamError(f"{MAX_STREAMS} streams are open to this peer")
        if self._next_id > MAX_ID:
            self._end("stream ids used up")
            raise MuxedConnUnavailable(self.end_reason)
        stream = self._streams[self._next_id] = Stream(self, self._next_id)
        self._next_id += 2
        self.send_frame(WINDOW_UPDATE, SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> Stream:
        """The next inbound stream. Raises MuxedConnUnavailable when the connection is over."""
        while not self._backlog:
            if self.is_closed:
                raise MuxedConnUnavailable(self.end_reason)
            await self._acceptor.park()
        return self._backlog.popleft()

    async def start(self) -> None:
        """Run the connection until it ends; the reason is then in `end_reason`."""
        self._running = True
        try:
            with self._scope:
                if not self.is_closed:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._write)
                        nursery.start_soon(self._keep_alive)
                        self.event_started.set()
                        await self._read()
        except* UntrustedDataError as group:
            self.broke_rules = True
            self._end(str(group.exceptions[0]))
            await self._say_go_away(GO_AWAY_PROTOCOL_ERROR)
        except* (IOException, RawConnError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
            self._end(str(group.exceptions[0]) or repr(group.exceptions[0]))
        finally:
            self._end("the connection was stopped")
            self.event_started.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await self._close_session()
                self.event_closed.set()
                if self.on_close is not None:
                    await self.on_close()

    async def close(self) -> None:
        """Send what is queued (for up to `FLUSH`), say goodbye and end the connection."""
        if not self.is_closed:
            self.send_frame(GO_AWAY, 0, 0, GO_AWAY_NORMAL)
            with trio.move_on_after(FLUSH) as scope:
                scope.shield = True
                await self._flushed.park()
            self._end("closed here")
        if self._running:
            if not self.event_closed.is_set():
                await self._close_session()
        else:
            await self._close_session()
            self.event_closed.set()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._session.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._session.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._session.get_connection_type()

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    # --- called by streams

    def send_frame(self, kind: int, flags: int, stream_id: int, length: int, data: bytes = b"") -> None:
        """Queue one frame for the writer."""
        if self.is_closed:
            return
        self._queue.append(HEADER.pack(0, kind, flags, stream_id, length))
        self.queued += 12 + len(data)
        if data:
            self._queue.append(data)
        elif self.queued > QUEUE_LIMIT:
            self._end("the peer does not read what we must send it")
            return
        self._queue_filled.unpark()

    def flush_now(self) -> None:
        """Send a small queue at once, in the task that filled it: a packet then does not wait for the writer's turn."""
        if 0 < self.queued <= MAX_FRAME and not self._writing:
            try:
                if self._session.write_now(b"".join(self._queue)):
                    self._queue, self.queued = [], 0
                    self._flushed.unpark_all()
            except (IOException, RawConnError) as exc:
                self._end(str(exc))

    def forget(self, stream: Stream) -> None:
        if self._streams.pop(stream.stream_id, None) is not None:
            stream.forgotten()
            if not self._is_ours(stream.stream_id):
                self._inbound -= 1

    # --- the tasks

    async def _write(self) -> None:
        while True:
            if not self._queue and not self._session.unsent:
                await self._queue_filled.park()
                continue
            frames, self._queue, self.queued = self._queue, [], 0
            self.drained.unpark_all()
            self._writing = True
            await self._session.write(b"".join(frames))
            self._writing = False
            if not self._queue:
                self._flushed.unpark_all()

    async def _read(self) -> None:
        buffer = bytearray()
        receive = self._session.receive
        while True:
            buffer += await receive()
            self.last_received = trio.current_time()
            for frame in parse_frames_untrusted(buffer):
                self._handle(frame)
            self._check_partial(buffer)
            if self.unread > MAX_UNREAD + self.relayed * INITIAL_WINDOW:
                raise UntrustedDataError("yamux: more unread data than this connection may hold")

    def _check_partial(self, buffer: bytearray) -> None:
        """A frame that is not here in full yet must not be longer than the peer's window."""
        if len(buffer) > 12:
            _, kind, _, stream_id, length = HEADER.unpack_from(buffer)
            stream = self._streams.get(stream_id)
            if kind == DATA and length > (stream.grant if stream is not None else MAX_PARTIAL):
                raise UntrustedDataError("yamux: a frame beyond the window")

    async def _keep_alive(self) -> None:
        patience = PING_TIMEOUT
        while True:
            sent = trio.current_time()
            self._ping_value = (self._ping_value + 1) & MAX_ID
            self._ping_sent = sent
            self.send_frame(PING, SYN, 0, self._ping_value)
            if await self._is_to_check(patience):
                patience = CHECK_TIMEOUT
                continue
            if self.last_received < sent:
                if trio.current_time() - sent > patience + OVERSLEPT:
                    continue
                raise IOException(f"no sign of life for {patience:.0f} seconds")
            check = False
            while not check and (pause := self._until_ping()) > 0:
                check = await self._is_to_check(min(pause, PING_INTERVAL))
                self._reset_lingering()
            patience = CHECK_TIMEOUT if check else PING_TIMEOUT

    def _until_ping(self) -> float:
        """Seconds. What came lately is a sign of life, a ping of the peer's too: one side's are enough."""
        silence = PING_INTERVAL - PING_EARLIER if self._dialled else PING_INTERVAL
        return min(self.last_received + silence, self._ping_sent + PING_EACH) - trio.current_time()

    async def _is_to_check(self, seconds: float) -> bool:
        """Wait so long, or until `check_now`."""
        self._check = trio.Event()
        with trio.move_on_after(seconds):
            await self._check.wait()
        return self._check.is_set()

    def check_now(self) -> None:
        """Time went on without us: find out soon whether the peer is still there."""
        self._check.set()

    def _reset_lingering(self) -> None:
        limit = trio.current_time() - LINGER
        for stream in list(self._streams.values()):
            if stream.released_at is not None and stream.released_at < limit:
                stream.abort("the peer did not close the stream")

    # --- what came

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id % 2 == self._next_id % 2

    def _handle(self, frame: Frame) -> None:
        kind, flags, stream_id, length, data = frame
        if kind == PING:
            if flags & SYN:
                self.send_frame(PING, ACK, 0, length)
            elif flags & ACK and length == self._ping_value:
                self.rtt = trio.current_time() - self._ping_sent
            return
        if kind == GO_AWAY:
            raise IOException(
                "the peer closed the connection" + ("" if length == GO_AWAY_NORMAL else f" (code {length})")
            )
        stream = self._streams.get(stream_id)
        if flags & SYN:
            if stream is not None or self._is_ours(stream_id):
                raise UntrustedDataError("yamux: a stream opened with an id it must not have")
            stream = self._accept(stream_id)
        if stream is None:
            return  # of a stream that ended here while this was on its way
        if kind == DATA:
            if length:
                stream.deliver(data)
        elif length:
            stream.widen(length)
        if flags & RST:
            stream.broke("the peer reset the stream")
        elif flags & FIN:
            stream.end_of_data()

    def _accept(self, stream_id: int) -> Stream | None:
        if self._inbound >= MAX_STREAMS or len(self._backlog) >= BACKLOG:
            self.send_frame(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        stream = self._streams[stream_id] = Stream(self, stream_id)
        self._inbound += 1
        self.send_frame(WINDOW_UPDATE, ACK, stream_id, 0)
        self._backlog.append(stream)
        self._acceptor.unpark()
        return stream

    # --- the end

    def _end(self, reason: str) -> None:
        """The connection is over (the first reason counts): all that wait on it wake up."""
        if self.end_reason:
            return
        self.end_reason = reason
        log.debug("connection to %s ended: %s", self.peer_id, reason)
        for stream in list(self._streams.values()):
            stream.broke(reason)
        self._backlog.clear()
        self._queue.clear()
        self.drained.unpark_all()
        self._flushed.unpark_all()
        self._acceptor.unpark_all()
        self._scope.cancel()

    async def _say_go_away(self, code: int) -> None:
        # Best effort, in bounded time: the writer may be stuck in the middle of a frame, then nothing can be said.
        with trio.move_on_after(0.2) as scope:
            scope.shield = True
            try:
                await self._session.write(HEADER.pack(0, GO_AWAY, 0, 0, code))
            except (IOException, RawConnError, OSError, trio.BusyResourceError, trio.ClosedResourceError):
                return

    async def _close_session(self) -> None:
        try:
            await self._session.close()
        except (IOException, RawConnError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            log.debug("closing the connection to %s: %r", self.peer_id, exc)
