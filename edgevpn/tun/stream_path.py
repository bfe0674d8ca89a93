"""The path over libp2p streams: one long-lived stream a peer, batched both ways.

With a node of ours the stream carries super-packets (edgevpn/proto/packet_stream.py). With a Go node, which does not
know that protocol, it carries plain packets one after the other (`/edgevpn/0.1`): super-packets are cut here, and the
host sends each packet as one yamux data frame.

The stream is dialled when there is something to send, or taken over when the peer dialled first: whichever stands is
used for both directions. A stream that ends is dialled again, after a pause that grows while dialling fails.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import trio

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.fast_stream import FastStream
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.ip import split_packets_untrusted
from edgevpn.proto.packet_stream import (
    HELLO_SIZE,
    PLAIN,
    TAKES_TCP,
    TAKES_UDP,
    Hello,
    PacketDecoder,
    join,
    read_hello_untrusted,
    write_hello,
)
from edgevpn.proto.protocols import PACKET_STREAM
from edgevpn.tun import virtio
from edgevpn.tun.narrow_stream import NarrowStream
from edgevpn.tun.packet_thread import PacketThread
from edgevpn.tun.path import MAX_QUEUE, PathStats
from edgevpn.tun.pump import plain_frames

Stream = trio.abc.HalfCloseableStream
Dial = Callable[[], Awaitable[tuple[str, Stream]]]
Receive = Callable[[Sequence[bytes | memoryview]], tuple[int, int]]

SMALL = 16 * 1024  # bytes sent in the turn that read them
BATCH = 256 * 1024  # bytes joined into one send
READ = 256 * 1024
_REDIAL_FIRST, _REDIAL_MOST = 0.05, 2.0


class _Link:
    """One open stream to the peer, and what has come on it so far."""

    def __init__(self, protocol: str, stream: Stream) -> None:
        self.protocol = protocol
        self.stream = stream
        self.takes = 0  # the flags of its hello; until that came it is sent plain packets
        self.hello_sent = False
        self.ended = trio.Event()
        self.complaint = ""
        self._decoder: PacketDecoder | None = None
        self._rest = b""

    def frames_untrusted(self, data: bytes) -> Sequence[bytes | memoryview]:
        """The frames that `data` completes. Raises UntrustedDataError."""
        if self.protocol != PACKET_STREAM:  # a Go node's: packets back to back; it reads nothing from it
            packets, self._rest = split_packets_untrusted(self._rest + data)
            return plain_frames(packets)
        if self._decoder is None:
            data = self._rest + data
            if len(data) < HELLO_SIZE:
                self._rest = data
                return ()
            self.takes = read_hello_untrusted(data[:HELLO_SIZE]).flags
            self._decoder = PacketDecoder()
            data = data[HELLO_SIZE:]
        return self._decoder.feed_untrusted(data)

    @property
    def greeted(self) -> bool:
        """Whether the peer's hello has come."""
        return self._decoder is not None


class StreamPath:
    """The way to one peer over a stream.

    With a packet thread, `send` is called by it, and it reads the streams; all else runs in trio. What both touch
    (queue, rest, busy) is under `_lock`, which is never held across a wait.
    """

    def __init__(
        self,
        dial: Dial,
        receive: Receive,
        hello: Hello,
        bad: Callable[[str], None],
        thread: PacketThread | None = None,
        go_mtu: int = 0,
    ) -> None:
        """`receive` takes frames from the peer; `bad` is told why a stream of the peer's was ended.

        `go_mtu`: of what may go to a Go node, if that is less than our interface's; 0: no limit.
        """
        self.stats = PathStats()
        self._dial = dial
        self._receive = receive
        self._hello = hello
        self._bad = bad
        self._thread = thread
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._unsent = b""  # the rest of what the socket took a part of
        self._busy = False
        self._wake = trio.Event()
        self._link: _Link | None = None
        self._link_changed = trio.Event()
        self._back_off = BackOff(_REDIAL_FIRST, _REDIAL_MOST, random.Random())  # noqa: S311
        self._narrow = NarrowStream(go_mtu, lambda packet: receive([PLAIN + packet])) if go_mtu else None

    @property
    def kind(self) -> str:
        if self._link is None:
            return "none"
        return "stream" if self._link.protocol == PACKET_STREAM else "edgevpn-stream"

    @property
    def mtu(self) -> int:
        """What the peer takes, if that is less than our interface's; else 0."""
        return self._narrow.mtu if self._narrow is not None and self.kind == "edgevpn-stream" else 0

    @property
    def queued_bytes(self) -> int:
        return self._queued

    def send(self, frames: Sequence[bytes]) -> None:
        with self._lock:
            if self._send_now(frames):
                return
            for frame in frames:
                if self._queued + len(frame) > MAX_QUEUE:
                    self.stats.dropped += 1
                    continue
                self._queue.append(frame)
                self._queued += len(frame)
        self._notify()

    def _notify(self) -> None:
        if self._thread is None:
            self._set_wake()
        else:
            self._thread.in_trio(self._set_wake)

    def _set_wake(self) -> None:
        self._wake.set()

    def _send_now(self, frames: Sequence[bytes]) -> bool:
        """Write a small batch in the caller's turn if nothing waits before it: that saves a packet a task switch."""
        link = self._link
        if link is None or not link.hello_sent or self._queue or self._unsent or self._busy:
            return False
        size = sum(map(len, frames))
        if size > SMALL or not isinstance(link.stream, FastStream):
            return False
        data = self._encode(link, list(frames))
        try:
            sent = link.stream.write_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # the sending task finds out, and ends the link
        self.stats.sent_packets += len(frames)
        self.stats.sent_bytes += size
        if sent < len(data):
            self._unsent = data[sent:]
            self._notify()
        return True

    async def run(self) -> None:
        """Send what is queued, for as long as the path lives."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                if not self._queue and not self._unsent:
                    await self._wake.wait()
                elif self._link is None:
                    await self._open(nursery)
                else:
                    await self._send_batch(self._link)

    async def adopt(self, protocol: str, stream: Stream) -> None:
        """Serve a stream that the peer dialled, until it ends."""
        await self._serve(_Link(protocol, stream))

    async def _open(self, nursery: trio.Nursery) -> None:
        """Dial. When that fails, what waits is dropped: it would come too late to be of use."""
        try:
            protocol, stream = await self._dial()
        except EdgevpnError:
            with self._lock:
                self.stats.dropped += len(self._queue)
                self._queue.clear()
                self._queued = 0
                self._unsent = b""
            self._link_changed = trio.Event()
            with trio.move_on_after(self._back_off.next()):
                await self._link_changed.wait()  # the peer may dial us meanwhile
            return
        self._back_off.reset()
        link = _Link(protocol, stream)
        self._use(link)
        nursery.start_soon(self._serve, link)

    def _use(self, link: _Link) -> None:
        """Send on this stream from now on."""
        self._link = link
        self._link_changed.set()

    # --- sending

    async def _send_batch(self, link: _Link) -> None:
        frames: list[bytes] = []
        size = 0
        with self._lock:
            while self._queue and size < BATCH:
                frame = self._queue.popleft()
                size += len(frame)
                frames.append(frame)
            self._queued -= size
            unsent, self._unsent = self._unsent, b""
            self._busy = True
        try:
            await self._send_hello(link)
            await link.stream.send_all(unsent + self._encode(link, frames))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.stats.dropped += len(frames)
            await self._end(link)
            return
        finally:
            self._busy = False
        self.stats.sent_packets += len(frames)
        self.stats.sent_bytes += size

    async def _send_hello(self, link: _Link) -> None:
        if not link.hello_sent:
            if link.protocol == PACKET_STREAM:
                await link.stream.send_all(write_hello(self._hello))
            link.hello_sent = True

    def _encode(self, link: _Link, frames: list[bytes]) -> bytes:
        """The bytes for these frames, in the form that the other end takes."""
        if link.protocol != PACKET_STREAM:
            return b"".join(packet for frame in frames for packet in self._packets_for_go(frame))
        takes = link.takes
        if takes & TAKES_TCP and takes & TAKES_UDP:
            return join(frames)
        fitting: list[bytes] = []
        for frame in frames:
            kind = frame[1] & 0x7F
            wanted = TAKES_UDP if kind == virtio.GSO_UDP else TAKES_TCP
            if kind == virtio.GSO_NONE or takes & wanted:
                fitting.append(frame)
            else:
                fitting += plain_frames(self._segment(frame))
        return join(fitting)

    def _packets_for_go(self, frame: bytes) -> list[bytes]:
        narrow = self._narrow
        if narrow is None:
            return self._segment(frame)
        refused = narrow.refused
        packets = narrow.packets(frame, time.monotonic())
        self.stats.dropped += narrow.refused - refused
        return packets

    def _segment(self, frame: bytes) -> list[bytes]:
        try:
            return virtio.segment(frame)
        except UntrustedDataError:
            self.stats.dropped += 1
            return []

    # --- receiving

    async def _serve(self, link: _Link) -> None:
        """Take in what the peer sends on one stream; its end ends the stream, even before our hello is out."""
        try:
            # On what we dialled the hello goes with the first frames, and that may have ended it by now.
            if self._link is not link and not link.ended.is_set():
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._send_hello(link)
            await self._read(link)
        finally:
            with trio.CancelScope(shield=True):
                await self._end(link)
        if link.complaint:
            self._bad(link.complaint)

    async def _read(self, link: _Link) -> None:
        stream = link.stream
        if self._thread is None or not isinstance(stream, FastStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while not link.ended.is_set() and (data := await stream.receive_some(READ)):
                    self._take_in(link, data)
            return
        thread = self._thread

        def on_readable() -> None:
            try:
                data = stream.read_now(READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if data:
                self._take_in(link, data)
            elif data is not None:
                thread.in_trio(link.ended.set)
            if data == b"" or link.complaint:
                thread.mute(descriptor)

        try:
            descriptor = stream.fileno()
        except trio.ClosedResourceError:
            return
        on_early = stream.take_early()
        if on_early:
            self._take_in(link, on_early)
        thread.add(descriptor, on_readable)
        try:
            await link.ended.wait()
        finally:
            thread.remove(descriptor)

    def _take_in(self, link: _Link, data: bytes) -> None:
        """Bytes of the peer's; nonsense ends the stream."""
        greeted = link.greeted
        try:
            frames = link.frames_untrusted(data)
            if self._narrow is not None and link.protocol != PACKET_STREAM:
                frames = [self._narrow.clamp(frame) for frame in frames]
            packets, size = self._receive(frames)
        except UntrustedDataError as exc:
            link.complaint = str(exc)
            self._in_trio(link.ended.set)
            return
        self.stats.received_packets += packets
        self.stats.received_bytes += size
        if link.greeted and not greeted and self._link is None:
            self._in_trio(partial(self._use_if_none, link))

    def _in_trio(self, function: Callable[[], object]) -> None:
        if self._thread is None:
            function()
        else:
            self._thread.in_trio(function)

    def _use_if_none(self, link: _Link) -> None:
        if self._link is None and not link.ended.is_set():
            self._use(link)

    async def _end(self, link: _Link) -> None:
        link.ended.set()
        if self._link is link:
            with self._lock:
                self._link = None
                self._unsent = b""
        await trio.aclose_forcefully(link.stream)
