"""Streams on which the ledger actor speaks with nodes of ours, sealed by the network's key (docs/wire.md).

Each side opens one stream to speak on, so the two directions fail and come back on their own. A peer that is connected
and offers the protocol is dialled. Whether it is of our network is told by what it sends: a peer whose frames our keys
don't open is left alone for a minute.

A link's queue is bounded in frames and bytes. When it is full the link is given up and made anew: it begins with a
digest, which finds whatever was lost. One frame of a peer is worked on at a time, and the next is read after that; a
peer whose frames are useless waits, since we read on a moment later.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.shell import Shell
from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.host_service import Inbound, StreamRefusedError
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.ledger_frames import (
    HELLO,
    LENGTH,
    MAX_FRAME,
    Frame,
    additional_data,
    read_frame_untrusted,
    write_frame,
)
from edgevpn.proto.messages import Opened, OpenFrame, Sealed, SealFrame
from edgevpn.proto.protocols import LEDGER
from edgevpn.proto.queue_state import QueueState, fullest

QUEUE_FRAMES = 1024
QUEUE_BYTES = 16 << 20
STRANGER = 60.0  # s
_READ = 64 * 1024
_SEND_TIMEOUT = 30.0
_STRANGE = 3  # frames that can't be opened, one after the other
_STANDS = 5.0  # s after which a link counts as having worked

OnFrame = Callable[[str, Frame], Awaitable[float]]


class _Outbound:
    """What waits to be said to one peer."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.bytes = 0
        self.more = trio.Event()
        self.overflowed = False


class LedgerLinks:
    """Dials, serves and queues. `on_frame` takes one in, and says for how many seconds the peer's next shall wait;
    `on_up` and `on_down` are told of streams to speak on, `on_lost` of lost frames,
    `on_offence` of peers that send what is no frame."""

    def __init__(
        self,
        shell: Shell,
        me: str,
        on_frame: OnFrame,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
        on_lost: Callable[[], None],
        on_offence: Callable[[str, str], None],
    ) -> None:
        self._shell = shell
        self._me = me
        self._on_frame = on_frame
        self._on_up = on_up
        self._on_down = on_down
        self._on_lost = on_lost
        self._on_offence = on_offence
        self._host = HostLink(shell.client("host"))
        self._sealer = shell.client("sealer")
        self._chance = random.Random()  # noqa: S311
        self._speaking: dict[str, trio.CancelScope] = {}
        self._hearing: dict[str, trio.CancelScope] = {}
        self._queues: dict[str, _Outbound] = {}
        self._strangers: dict[str, float] = {}
        shell.queues["to peers"] = self._queue_state
        shell.gauges["links"] = lambda: len(self._queues)

    def _queue_state(self) -> QueueState:
        lost = self._shell.counters.get("links_too_slow", 0)
        return fullest((len(queue.frames) for queue in self._queues.values()), QUEUE_FRAMES, lost)

    def is_stranger(self, peer: str) -> bool:
        return self._strangers.get(peer, 0.0) > trio.current_time()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, nursery)
            while True:
                async with self._host.watch_peers() as events:
                    async for event in events:
                        speaks = LEDGER in getattr(event, "protocols", ())
                        if speaks and event.peer_id not in self._speaking:
                            scope = self._speaking[event.peer_id] = trio.CancelScope()
                            nursery.start_soon(self._speak, event.peer_id, scope)
                        elif not hasattr(event, "protocols"):
                            self._hang_up(event.peer_id)
                for peer in list(self._speaking):
                    self._hang_up(peer)
                await trio.sleep(0.01)  # the host went away

    def _hang_up(self, peer: str) -> None:
        self._strangers.pop(peer, None)
        scope = self._speaking.pop(peer, None)
        if scope is not None:
            scope.cancel()

    # --- speaking

    def send(self, peer: str, frame: Frame) -> None:
        """Queue a frame; a link whose queue is full is made anew."""
        queue = self._queues.get(peer)
        if queue is None or queue.overflowed:
            return
        body = write_frame(frame)
        if len(body) > MAX_FRAME - 64:
            self._shell.count("frames_too_large")
            return
        queue.frames.append(body)
        queue.bytes += len(body)
        self._shell.count(f"sent_{type(frame).__name__.lower()}")
        if len(queue.frames) > QUEUE_FRAMES or (queue.bytes > QUEUE_BYTES and len(queue.frames) > 1):
            queue.overflowed = True
            queue.frames.clear()
            self._shell.count("links_too_slow")
        queue.more.set()

    async def _speak(self, peer: str, scope: trio.CancelScope) -> None:
        """Keep a stream to speak on, for as long as the peer is connected."""
        pause = BackOff(0.1, 20.0, self._chance)
        with scope:
            while True:
                if self.is_stranger(peer):
                    await trio.sleep_until(self._strangers[peer])
                began = trio.current_time()
                try:
                    _, stream = await self._host.dial(peer, (LEDGER,))
                except StreamRefusedError:
                    self._shell.count("links_refused")
                else:
                    await self._speak_on(peer, stream)
                if trio.current_time() - began > _STANDS:
                    pause.reset()
                await trio.sleep(pause.next())

    async def _speak_on(self, peer: str, stream: trio.abc.HalfCloseableStream) -> None:
        queue = self._queues[peer] = _Outbound()
        try:
            self._on_up(peer)
            await stream.send_all(HELLO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_it_ends, stream, nursery.cancel_scope)
                while not queue.overflowed and not self.is_stranger(peer):
                    queue.more = trio.Event()
                    while queue.frames:
                        await self._say(peer, stream, queue)
                    if not queue.more.is_set():
                        await queue.more.wait()
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._shell.count("links_broken")
        finally:
            del self._queues[peer]
            self._on_down(peer)
            await trio.aclose_forcefully(stream)

    async def _say(self, peer: str, stream: trio.abc.HalfCloseableStream, queue: _Outbound) -> None:
        """The first frame of the queue. It is lost if the sealer is away for long."""
        body = queue.frames.popleft()
        queue.bytes -= len(body)
        try:
            sealed = await self._sealer.call(SealFrame(body, additional_data(self._me, peer)), Sealed)
        except (ActorUnavailableError, RefusedError):
            self._shell.count("frames_not_sealed")
            self._on_lost()
            return
        with trio.fail_after(_SEND_TIMEOUT):
            await stream.send_all(LENGTH.pack(len(sealed.data)) + sealed.data)

    async def _until_it_ends(self, stream: trio.abc.HalfCloseableStream, scope: trio.CancelScope) -> None:
        """The peer says nothing on our stream; its end is the end."""
        while await stream.receive_some(_READ):
            pass
        scope.cancel()

    # --- hearing

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            async with self._host.serve((LEDGER,)) as streams:
                async for inbound in streams:
                    before = self._hearing.get(inbound.peer_id)
                    if before is not None:
                        before.cancel()  # a peer has one stream; the newest holds
                    scope = self._hearing[inbound.peer_id] = trio.CancelScope()
                    nursery.start_soon(self._hear, inbound, scope)
            await trio.sleep(0.01)  # the host went away

    async def _hear(self, inbound: Inbound, scope: trio.CancelScope) -> None:
        peer = inbound.peer_id
        try:
            with scope:
                await self._hear_on(peer, inbound.stream)
        except UntrustedDataError as exc:
            self._shell.warn("ledger_frames_refused", peer=peer, reason=str(exc))
            if not self.is_stranger(peer):  # whose frames may be another network's
                self._on_offence(peer, "malformed")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._shell.count("links_broken")
        finally:
            if self._hearing.get(peer) is scope:
                del self._hearing[peer]
            await trio.aclose_forcefully(inbound.stream)

    async def _hear_on(self, peer: str, stream: trio.abc.ReceiveStream) -> None:
        """Raises UntrustedDataError: the stream ends with what is wrong on it."""
        reader = _Reader(stream)
        if await reader.exactly(len(HELLO)) != HELLO:
            raise UntrustedDataError("a ledger stream begins with another greeting")
        strange = 0
        while not self.is_stranger(peer):
            (size,) = LENGTH.unpack(await reader.exactly(LENGTH.size))
            if size > MAX_FRAME:
                raise UntrustedDataError(f"a ledger frame of {size} bytes is over the limit of {MAX_FRAME}")
            data = await reader.exactly(size)
            try:
                opened = await self._sealer.call(OpenFrame(data, additional_data(peer, self._me)), Opened)
            except ActorUnavailableError:
                self._shell.count("frames_lost_without_sealer")
                self._on_lost()
                continue
            except RefusedError as exc:
                strange += 1
                self._shell.count("frames_not_opened")
                if strange >= _STRANGE:
                    self._leave_alone(peer)
                    raise UntrustedDataError(str(exc)) from exc
                continue
            strange = 0
            pause = await self._on_frame(peer, read_frame_untrusted(opened.plaintext))
            if pause > 0:
                self._shell.count("frames_over_allowance")
                await trio.sleep(pause)
                if peer not in self._speaking:
                    return  # it was refused meanwhile, or left: what it had still to say is no loss

    def _leave_alone(self, peer: str) -> None:
        self._strangers[peer] = trio.current_time() + STRANGER
        queue = self._queues.get(peer)
        if queue is not None:
            queue.more.set()


class _Reader:
    """Exact reads from a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def exactly(self, size: int) -> bytes:
        """Raises trio.BrokenResourceError at the end, inside a frame, too: whoever wrote it may have died."""
        while len(self._data) < size:
            more = await self._stream.receive_some(_READ)
            if not more:
                raise trio.BrokenResourceError("the other side ended it")
            self._data += more
        found = bytes(self._data[:size])
        del self._data[:size]
        return found
