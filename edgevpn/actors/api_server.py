"""Serves an ASGI application on the connections of a listener: hypercorn's HTTP/1.1 on trio, with bounds around it.

`hypercorn.trio.serve` accepts without a bound, sends without a deadline and does not tell who is at the other end of a
Unix socket; so the accepting is done here, and each connection given to the class that `serve` gives it to.

Bounds: MAX_CONNECTIONS at once, the rest wait in the kernel's queue; HEAD_PATIENCE seconds for a request's head and
between two requests; SEND_PATIENCE seconds for each SEND_SIZE bytes of an answer; 16 KiB of head (what does not fit is
answered by 431); the application bounds bodies. What a client does wrong ends its own connection.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from edgevpn.actors.channel import peer_credentials

if TYPE_CHECKING:
    from edgevpn.web.guard import Guard

MAX_CONNECTIONS = 64
HEAD_PATIENCE = 10  # seconds
SEND_PATIENCE = 10.0
SEND_SIZE = 65536
_HEAD_SIZE = 16 * 1024
_SHORT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class BoundedStream:
    """A connection that is given up when its other end does not read; as much of a stream as hypercorn uses.

    What can't be sent ends all of the connection's tasks by `scope`: hypercorn's reader may wait for an answer to be
    through before it takes the next request, and would wait for ever.
    """

    def __init__(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope
        self.socket = stream.socket

    async def send_all(self, data: bytes | bytearray) -> None:
        try:
            for start in range(0, len(data), SEND_SIZE):
                with trio.fail_after(SEND_PATIENCE):
                    await self._stream.send_all(memoryview(data)[start : start + SEND_SIZE])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
            self._scope.cancel()
            raise trio.BrokenResourceError("the client does not read, or left") from exc

    async def receive_some(self, most: int) -> bytes:
        return bytes(await self._stream.receive_some(min(most, _HEAD_SIZE)))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Connection(TCPServer):
    """hypercorn's, which would wait for its idle timer to run out after the client left."""

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


class Server:
    """Accepts and serves until cancelled. `trusted_uids`: whom SO_PEERCRED vouches for; empty on TCP."""

    def __init__(
        self, app: Guard, trusted_uids: Collection[int] = (), failed: Callable[[Exception], None] = lambda _: None
    ) -> None:
        self._trusted = frozenset(trusted_uids)
        self._config = config = Config()
        config.keep_alive_timeout = HEAD_PATIENCE
        config.h11_max_incomplete_size = _HEAD_SIZE
        config.include_server_header = False
        config.accesslog = None
        config.errorlog = None

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except Exception as exc:  # a bug of ours, in one request
                failed(exc)
                raise

        self._app = wrap_app(guarded, config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._free = trio.Semaphore(MAX_CONNECTIONS)
        self.connections = 0  # open now

    async def run(self, listener: trio.SocketListener) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._free.acquire()
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    self._free.release()
                    if exc.errno not in _SHORT_OF:
                        raise
                    await trio.sleep(0.1)  # descriptors come back as clients leave
                    continue
                self.connections += 1
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            known = bool(self._trusted) and peer_credentials(stream).uid in self._trusted
            state = ConnectionState({"known_peer": known})
            with trio.CancelScope() as scope:
                bounded: Any = BoundedStream(stream, scope)
                await Connection(self._app, self._config, self._context, state, bounded).run()
        except OSError:
            pass  # it left before it said anything
        finally:
            await trio.aclose_forcefully(stream)
            self.connections -= 1
            self._free.release()
