"""Receiving a file or a directory: one session on one stream, which may break at any byte and be tried again.

What is wanted is asked for ahead of what arrives (a window of WINDOW items), so that small files cost no round trip
each. Content goes from the stream to a thread that hashes and writes it; memory is bounded by what lies between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto import file_wire
from edgevpn.proto.file_wire import Ask, Changed, Data, Finished, Get, Item, Offer, Refusal, check_items_untrusted
from edgevpn.tunnels import landing as landings
from edgevpn.tunnels.landing import Landing, Part
from edgevpn.tunnels.relay import read_exactly

Stream = trio.abc.HalfCloseableStream

WINDOW = 32  # items asked for and not yet here
CHUNK = 1 << 20  # bytes written at a time
CHUNKS = 4  # of them that wait for the disk
STALL = 60.0  # seconds without a byte: the stream is dead
OFFER_TIME = 600.0  # seconds a sender may hash what has changed before it offers it
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class SenderRefusedError(EdgevpnError):
    """The sender has nothing for us; the text is its word."""


class BrokeOffError(EdgevpnError):
    """The stream ended before all was there: what came is kept, the next session goes on from it."""


class ContentChangedError(EdgevpnError):
    """The sender's file is not what it offered any more: it must be asked anew."""


@dataclass
class Progress:
    """What a person sees. Sizes in bytes; `done` includes what was there before."""

    size: int = 0
    done: int = 0
    resumed: int = 0  # of `done`, not transferred by this process
    files: int = 0
    finished: int = 0
    current: str = ""
    sha256: str = ""  # of the only file
    where: str = ""
    changed: Callable[[], None] = field(default=lambda: None)

    def add(self, size: int) -> None:
        self.done += size
        self.changed()


async def receive(stream: Stream, name: str, target: Path, progress: Progress) -> None:
    """One session with a sender of ours, until everything is there under its final name.

    Raises BrokeOffError, ContentChangedError, SenderRefusedError, LandingError, WrongContentError, UntrustedDataError.
    """
    try:
        await stream.send_all(file_wire.write(Ask(name)))
        offer, items = await _read_offer(stream)
        landing = await trio.to_thread.run_sync(landings.for_offer, target, offer, items[0] if items else None)
        try:
            session = _Session(stream, landing, items, progress)
            progress.size, progress.done, progress.resumed, progress.finished = offer.size, 0, 0, 0
            progress.files = sum(not item.directory for item in items)
            progress.where = landing.where
            await session.run()
        finally:
            landing.close()
        await stream.send_all(file_wire.write(Finished()))
        await stream.send_eof()
        with trio.move_on_after(5):
            while await stream.receive_some(4096):
                pass
    except _BROKEN as exc:
        raise BrokeOffError("the connection broke") from exc
    except trio.TooSlowError as exc:
        raise BrokeOffError(f"nothing came for {STALL:g} s") from exc


async def receive_plain(
    stream: Stream, name: str, target: Path, progress: Progress, ended_cleanly: Callable[[object], Awaitable[bool]]
) -> None:
    """A Go node's plain stream: its end is the file's, and nothing but a broken connection tells a torn one.

    Raises BrokeOffError, LandingError.
    """
    landing = await trio.to_thread.run_sync(lambda: Landing(target, directory=False, name=Path(name).name or "file"))
    try:
        progress.where, progress.files, progress.done = landing.where, 1, 0
        part = await trio.to_thread.run_sync(landing.begin, None)
        try:
            await _pour(stream, part, None, progress)
            if not await ended_cleanly(stream):
                raise trio.BrokenResourceError
            progress.sha256 = part.sha256
            await trio.to_thread.run_sync(part.finish)
            progress.finished = 1
        except BaseException:
            part.keep()
            raise
    except _BROKEN as exc:
        raise BrokeOffError("the connection broke") from exc
    except trio.TooSlowError as exc:
        raise BrokeOffError(f"nothing came for {STALL:g} s") from exc
    finally:
        landing.close()


async def _read_offer(stream: Stream) -> tuple[Offer, list[Item]]:
    offer = await _next(stream, OFFER_TIME)
    if isinstance(offer, Refusal):
        raise SenderRefusedError(offer.why[:200] if offer.why.isprintable() else "the sender refused")
    if not isinstance(offer, Offer):
        raise UntrustedDataError("a sender does not begin with its offer")
    items: list[Item] = []
    for _ in range(offer.count):
        item = await _next(stream)
        if not isinstance(item, Item):
            raise UntrustedDataError("an offer is not followed by its items")
        items.append(item)
    check_items_untrusted(offer, items)
    return offer, items


async def _next(stream: Stream, patience: float = STALL) -> file_wire.FromSender:
    with trio.fail_after(patience):
        try:
            head = await read_exactly(stream, file_wire.LENGTH_SIZE)
            payload = await read_exactly(stream, file_wire.length_untrusted(head))
        except UntrustedDataError as exc:
            if "ended after" in str(exc):
                raise trio.BrokenResourceError from exc
            raise
    return file_wire.read_from_sender_untrusted(payload)


_Wanted = tuple[int, Item, Part]


class _Session:
    """Asks for the items of one offer, and takes them in."""

    def __init__(self, stream: Stream, landing: Landing, items: list[Item], progress: Progress) -> None:
        self._stream = stream
        self._landing = landing
        self._items = items
        self._progress = progress
        self._failure: Exception | None = None

    async def run(self) -> None:
        send, receive = trio.open_memory_channel[_Wanted](WINDOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guarded, nursery.cancel_scope, partial(self._ask_for_all, send))
            await self._guarded(nursery.cancel_scope, partial(self._take_all, receive))
        while True:  # asked for and not taken, when it broke
            try:
                receive.receive_nowait()[2].keep()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
        if self._failure is not None:
            raise self._failure

    async def _guarded(self, scope: trio.CancelScope, work: Callable[[], Awaitable[None]]) -> None:
        """The first failure of the two tasks ends both."""
        try:
            await work()
        except (EdgevpnError, trio.TooSlowError, *_BROKEN) as exc:
            self._failure = self._failure or exc
            scope.cancel()

    async def _ask_for_all(self, queue: trio.MemorySendChannel[_Wanted]) -> None:
        async with queue:
            for number, item in enumerate(self._items):
                if item.directory:
                    await trio.to_thread.run_sync(self._landing.make_directory, item)
                    continue
                if await trio.to_thread.run_sync(self._landing.has, item):
                    self._there(item)
                    continue
                part = await trio.to_thread.run_sync(self._landing.begin, item)
                try:
                    await trio.to_thread.run_sync(self._landing.check_room, item.size - part.size)
                    self._progress.resumed += part.size
                    self._progress.add(part.size)
                    await self._stream.send_all(file_wire.write(Get(number, part.size)))
                    await queue.send((number, item, part))
                except BaseException:
                    part.keep()
                    raise

    def _there(self, item: Item) -> None:
        self._progress.resumed += item.size
        self._progress.finished += 1
        self._progress.sha256 = item.sha256.hex()
        self._progress.add(item.size)

    async def _take_all(self, queue: trio.MemoryReceiveChannel[_Wanted]) -> None:
        async for number, item, part in queue:
            try:
                self._progress.current = item.path.decode(errors="replace")
                data = await _next(self._stream)
                if isinstance(data, Changed):
                    raise ContentChangedError(f"{self._progress.current!a} has changed at the sender")
                if data != Data(number, part.size, item.size - part.size):
                    raise UntrustedDataError("a sender sends something else than was asked for")
                await _pour(self._stream, part, item.size - part.size, self._progress)
                await trio.to_thread.run_sync(part.finish)
            except BaseException:
                part.keep()
                raise
            self._progress.finished += 1
            self._progress.sha256 = item.sha256.hex()
            self._progress.changed()


async def _pour(stream: Stream, part: Part, length: int | None, progress: Progress) -> None:
    """Content into a part: `length` bytes, or (None) all until the end of file."""
    send, receive = trio.open_memory_channel[bytes](CHUNKS)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            nonlocal failure
            try:
                async with receive:
                    async for data in receive:
                        await trio.to_thread.run_sync(part.write, data)
            except EdgevpnError as exc:
                failure = exc
                nursery.cancel_scope.cancel()

        nursery.start_soon(write)
        try:
            async with send:
                await _read_into(stream, send, length, progress)
        except (*_BROKEN, trio.TooSlowError) as exc:
            failure = failure or exc  # what came is written all the same
    if failure is not None:
        raise failure


async def _read_into(
    stream: Stream, queue: trio.MemorySendChannel[bytes], length: int | None, progress: Progress
) -> None:
    gathered: list[bytes] = []
    size = 0
    try:
        while length is None or length > 0:
            with trio.fail_after(STALL):
                data = bytes(await stream.receive_some(CHUNK if length is None else min(CHUNK, length)))
            if not data:
                if length is not None:
                    raise trio.BrokenResourceError
                return
            length = None if length is None else length - len(data)
            progress.add(len(data))
            gathered.append(data)
            size += len(data)
            if size >= CHUNK:
                await queue.send(b"".join(gathered))
                gathered, size = [], 0
    finally:
        if gathered:
            with trio.CancelScope(shield=True):
                await queue.send(b"".join(gathered))
