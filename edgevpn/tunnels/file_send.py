"""Sending a file or a directory on streams that receivers open: edgevpn/proto/file_wire.py, or plainly as the Go
program does it. Several receivers are served at a time; each is read from the disk as fast as it takes it in.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import file_wire
from edgevpn.proto.file_wire import Ask, Changed, Data, Finished, Get, Refusal
from edgevpn.tunnels.relay import read_exactly
from edgevpn.tunnels.tree import Source, Tree, open_source

Stream = trio.abc.HalfCloseableStream

CHUNK = 1 << 20  # bytes read from the disk at a time
IDLE = 600.0  # seconds a receiver may hash what it has before it asks for more
Sent = Callable[[int], None]


async def serve(stream: Stream, name: str, current: Callable[[], Awaitable[Tree]], sent: Sent) -> bool:
    """Serve one receiver of ours; whether it got all of it. `current` gives what is offered now.

    Raises UntrustedDataError, trio.BrokenResourceError when it left or spoke nonsense.
    """
    tree: Tree | None = None
    while True:
        with trio.fail_after(IDLE):
            message = await _next(stream)
        if message is None:
            return False
        if isinstance(message, Finished):
            return True
        if isinstance(message, Ask):
            if message.name != name:
                await _refuse(stream, "no file of that name here")
                return False
            tree = await current()
            await _send_offer(stream, tree)
        elif isinstance(message, Get):
            if tree is None or message.number >= len(tree.sources):
                raise UntrustedDataError("a receiver asks for what it was not offered")
            await _send_content(stream, message, tree.sources[message.number], sent)


async def serve_plain(stream: Stream, tree: Tree, sent: Sent) -> bool:
    """The file's bytes alone, for the Go program; whether all were sent and the receiver closed its side after."""
    [source] = tree.sources
    descriptor = await trio.to_thread.run_sync(open_source, source)
    if descriptor is None:
        return False
    try:
        await _copy(descriptor, 0, source.item.size, stream, sent)
    finally:
        os.close(descriptor)
    await stream.send_eof()
    with trio.move_on_after(60):
        while await stream.receive_some(4096):
            pass
        return True
    return False


async def _next(stream: Stream) -> file_wire.FromReceiver | None:
    head = bytes(await stream.receive_some(file_wire.LENGTH_SIZE))
    if not head:
        return None
    head += await read_exactly(stream, file_wire.LENGTH_SIZE - len(head))
    return file_wire.read_from_receiver_untrusted(await read_exactly(stream, file_wire.length_untrusted(head)))


async def _send_offer(stream: Stream, tree: Tree) -> None:
    batch = [file_wire.write(tree.offer)]
    for source in tree.sources:
        batch.append(file_wire.write(source.item))
        if len(batch) >= 256:
            await stream.send_all(b"".join(batch))
            batch.clear()
    await stream.send_all(b"".join(batch))


async def _send_content(stream: Stream, wish: Get, source: Source, sent: Sent) -> None:
    size = source.item.size
    if source.item.directory or wish.offset > size:
        raise UntrustedDataError("a receiver asks for what is not there")
    try:
        descriptor = await trio.to_thread.run_sync(open_source, source)
    except OSError:
        descriptor = None
    if descriptor is None:
        await stream.send_all(file_wire.write(Changed(wish.number)))
        return
    try:
        await stream.send_all(file_wire.write(Data(wish.number, wish.offset, size - wish.offset)))
        await _copy(descriptor, wish.offset, size, stream, sent)
    finally:
        os.close(descriptor)


async def _copy(descriptor: int, start: int, end: int, stream: Stream, sent: Sent) -> None:
    """The content from `start` to `end`. Raises trio.BrokenResourceError, also when the file became shorter."""
    position = start
    while position < end:
        data = await trio.to_thread.run_sync(os.pread, descriptor, min(CHUNK, end - position), position)
        if not data:
            raise trio.BrokenResourceError("the file became shorter while it was sent")
        await stream.send_all(data)
        position += len(data)
        sent(len(data))


async def _refuse(stream: Stream, why: str) -> None:
    await stream.send_all(file_wire.write(Refusal(why)))
    await stream.send_eof()
    with trio.move_on_after(5):
        while await stream.receive_some(4096):
            pass
