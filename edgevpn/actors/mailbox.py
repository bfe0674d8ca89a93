"""The socket an actor serves: requests, subscriptions and pipes.

An actor registers a handler for each message it answers, a `State` or `Feed` for each topic, and a pipe handler for
each kind of pipe, then runs `serve`. Only the node's actors, root, and the user who started the node are spoken to, by
the kernel's word (SO_PEERCRED); a handler may be for some of the actors only (`only`; people, that is root and that
user, may always). What a client sends wrong ends its own connection, counted in `refused`. A handler that raises an
EdgevpnError answers with a Failure; any other exception is the actor's own bug and ends the actor, so that the
supervisor starts it again.

The socket is bound by the supervisor before the actor's process exists (`bind_socket`), and inherited: so clients
that come early wait instead of asking again, and no actor can put its own socket in the place of another's.

Bounds: `max_connections` clients at once (a further one is closed at once), HELLO_TIMEOUT seconds for a client to say
what it wants.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

from edgevpn.actors.channel import Channel, Pipe, peer_credentials
from edgevpn.actors.run_directory import socket_path
from edgevpn.actors.tap import Taps
from edgevpn.actors.topics import Feed, State
from edgevpn.actors.users import NO_USERS, PERSON, Users
from edgevpn.errors import EdgevpnError, SetupError, UntrustedDataError
from edgevpn.proto.messages import (
    Body,
    Failure,
    Frame,
    Message,
    OpenPipe,
    QueueStatus,
    Reply,
    Request,
    Subscribe,
    Vitals,
)
from edgevpn.proto.queue_state import Tell
from edgevpn.proto.rate import RateMeter

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAILBOX_VARIABLE = "EDGEVPNMAILBOXFD"  # in an actor's environment: the number of its mailbox's descriptor
MAX_CONNECTIONS = 512
HELLO_TIMEOUT = 5.0
_PAUSE_OF_CLIENTS = 1.0  # seconds without one: what was before counts no more

M = TypeVar("M", bound=Message)
RequestHandler: TypeAlias = Callable[[Any], Awaitable[Body]]
OpenStream: TypeAlias = Callable[[Body], Awaitable[Pipe]]
PipeHandler: TypeAlias = Callable[[Any, OpenStream], Awaitable[None]]
FeedFactory: TypeAlias = Callable[[list[str]], Feed]
DescriptorHandler: TypeAlias = Callable[[Any], tuple[Body, list[int]]]


class RequestError(EdgevpnError):
    """A request can't be carried out; `kind` is for programs."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Mailbox:
    """Serves one actor's Unix socket in the run directory."""

    def __init__(
        self,
        name: str,
        run_dir: Path,
        *,
        listener: socket.socket | None = None,
        users: Users = NO_USERS,
        people: Collection[int] | None = None,
        give_up_after: float = math.inf,
    ) -> None:
        """`listener`: from `bind_socket`; without it the mailbox binds its own. `people`: uids of root and its like.

        `give_up_after`: seconds without a free descriptor, while clients wait, after which `serve` raises OSError:
        whoever owns the process can do without it then.
        """
        self.name = name
        self._give_up_after = give_up_after
        self.path = socket_path(run_dir, name)
        self._raw_listener = listener
        self._users = users
        self._people = frozenset(people if people is not None else (0, os.geteuid()))
        self._only: dict[type[Message], frozenset[str]] = {}
        self._requests: dict[type[Message], RequestHandler] = {}
        self._descriptors: dict[type[Message], DescriptorHandler] = {}
        self._pipes: dict[type[Message], PipeHandler] = {}
        self._states: dict[str, State] = {}
        self._feeds: dict[str, FeedFactory] = {}
        self._connections = 0
        self.max_connections = MAX_CONNECTIONS
        self.taps = Taps()
        self.refused = 0
        self.served = 0
        self.updates_sent = 0
        self.pipes_open = 0
        self.rate = RateMeter(time.monotonic())  # messages answered or told
        self.queues: dict[str, Tell] = {}

    def on_request(
        self, message: type[M], handler: Callable[[M], Awaitable[Body]], *, only: Collection[str] | None = None
    ) -> None:
        """`only`: the actors that may ask; None: all."""
        self._requests[message] = handler
        self._restrict(message, only)

    def _restrict(self, message: type[Message], only: Collection[str] | None) -> None:
        if only is not None:
            self._only[message] = frozenset((PERSON, *only))

    def on_descriptors(self, message: type[M], handler: Callable[[M], tuple[Body, list[int]]]) -> None:
        """A request whose reply carries file descriptors (SCM_RIGHTS)."""
        self._descriptors[message] = handler

    def on_pipe(
        self,
        message: type[M],
        handler: Callable[[M, OpenStream], Awaitable[None]],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """The handler calls `open(reply)` once it can serve, gets the stream, and returns when the pipe is done.

        `only`: the actors that may open it; None: all.
        """
        self._pipes[message] = handler
        self._restrict(message, only)

    def state(self, topic: str) -> State:
        self._states[topic] = state = State()
        return state

    def feed(self, topic: str, feed: Feed) -> Feed:
        self._feeds[topic] = lambda _args: feed
        self.queues[topic] = feed.queue_state
        return feed

    def feed_by_args(self, topic: str, factory: FeedFactory) -> None:
        """A feed that depends on what the subscriber asks for."""
        self._feeds[topic] = factory

    async def serve(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started` once clients can connect."""
        raw = self._raw_listener or bind_socket(self.path)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(raw))
        exhausted = refused = -math.inf  # since when there was no descriptor for any client; when for the last one
        try:
            async with listener, trio.open_nursery() as connections:
                task_status.started()
                while True:
                    try:
                        stream = await listener.accept()
                    except OSError as exc:
                        if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                            raise
                        now = trio.current_time()
                        if exc.errno != errno.EMFILE or now - refused > _PAUSE_OF_CLIENTS:
                            exhausted = now
                        refused = now
                        if now - exhausted >= self._give_up_after:
                            text = f"no descriptor was free for a client in {now - exhausted:.0f} s"
                            raise OSError(exc.errno, text) from exc
                        await trio.sleep(0.1)  # descriptors come back as clients leave
                        continue
                    refused = -math.inf
                    connections.start_soon(self._connection, stream)
        finally:
            if self._raw_listener is None:
                self.path.unlink(missing_ok=True)

    def _caller(self, uid: int) -> str | None:
        """The actor that runs as `uid`, PERSON, or None for a stranger."""
        return PERSON if uid in self._people else self._users.name(uid)

    async def _connection(self, stream: trio.SocketStream) -> None:
        channel = Channel(stream, self.taps)
        self._connections += 1
        try:
            caller = self._caller(peer_credentials(stream).uid)
            if self._connections > self.max_connections or caller is None:
                self.refused += 1
                return
            with trio.move_on_after(HELLO_TIMEOUT) as deadline:
                await channel.greet(self.name)
                await channel.expect_hello()
                frame = await channel.receive()
            if deadline.cancelled_caught:
                self.refused += 1
                return
            self.served += 1
            self.rate.count(time.monotonic())
            if isinstance(frame, (Request, OpenPipe)) and caller not in self._only.get(type(frame.body), (caller,)):
                self.refused += 1
                kind = type(frame.body).__name__
                await channel.send(Failure("refused", f"the {self.name} actor does not take {kind} from {caller}"))
                return
            await self._serve_frame(channel, frame)
        except UntrustedDataError:
            self.refused += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client left: its own affair
        finally:
            self._connections -= 1
            await channel.aclose()

    async def _serve_frame(self, channel: Channel, frame: Frame | None) -> None:
        if isinstance(frame, Request) and type(frame.body) in self._descriptors:
            await self._send_descriptors(channel, frame)
        elif isinstance(frame, Request):
            await channel.send(await self._answer(frame))
        elif isinstance(frame, Subscribe):
            await self._feed_subscriber(channel, frame)
        elif isinstance(frame, OpenPipe):
            await self._pipe(channel, frame)
        elif frame is not None:
            self.refused += 1

    async def _answer(self, request: Request) -> Frame:
        handler = self._requests.get(type(request.body))
        if handler is None:
            return Failure("unknown", f"the {self.name} actor does not answer {type(request.body).__name__}")
        try:
            return Reply(await handler(request.body))
        except EdgevpnError as exc:
            return Failure(getattr(exc, "kind", "failed"), str(exc))

    async def _send_descriptors(self, channel: Channel, request: Request) -> None:
        try:
            body, descriptors = self._descriptors[type(request.body)](request.body)
        except EdgevpnError as exc:
            await channel.send(Failure(getattr(exc, "kind", "refused"), str(exc)))
            return
        await channel.send_with_descriptors(Reply(body), descriptors)

    async def _feed_subscriber(self, channel: Channel, subscribe: Subscribe) -> None:
        if subscribe.topic in self._states:
            subscription: Any = self._states[subscribe.topic].subscribe()
        elif subscribe.topic in self._feeds:
            try:
                subscription = self._feeds[subscribe.topic](subscribe.args).subscribe()
            except EdgevpnError as exc:
                await channel.send(Failure("refused", str(exc)))
                return
        else:
            await channel.send(Failure("unknown", f"the {self.name} actor has no topic {subscribe.topic!r}"))
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_closed, channel, nursery.cancel_scope)
                while True:
                    await channel.send(await subscription.next())
                    self.updates_sent += 1
                    self.rate.count(time.monotonic())
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the subscriber left
        finally:
            subscription.close()

    async def _pipe(self, channel: Channel, frame: OpenPipe) -> None:
        handler = self._pipes.get(type(frame.body))
        if handler is None:
            await channel.send(Failure("unknown", f"the {self.name} actor has no pipe {type(frame.body).__name__}"))
            return

        async def open_stream(reply: Body) -> Pipe:
            await channel.send(Reply(reply))
            return channel.take_pipe()

        self.pipes_open += 1
        try:
            await handler(frame.body, open_stream)
        except UntrustedDataError:
            raise
        except EdgevpnError as exc:
            await channel.send(Failure(getattr(exc, "kind", "failed"), str(exc)))
        finally:
            self.pipes_open -= 1

    def vitals(self, queues: Mapping[str, Tell]) -> Vitals:
        """What passed here, and the state of our queues and of those given."""
        told = {**self.queues, **queues}
        return Vitals(
            requests=self.served,
            updates=self.updates_sent,
            pipes=self.pipes_open,
            messages_per_s=round(self.rate.per_second(time.monotonic()), 2),
            queues=[QueueStatus(name, *tell()) for name, tell in sorted(told.items())],
        )


def bind_socket(path: Path, *, mode: int = 0o600) -> socket.socket:
    """A listening Unix socket at `path`, in place of an old one. Raises SetupError."""
    path.unlink(missing_ok=True)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.bind(os.fspath(path))
        path.chmod(mode)
        raw.listen(128)
    except OSError as exc:
        raw.close()
        raise SetupError(f"can't listen on {path}: {exc.strerror}") from exc
    return raw


async def _until_closed(channel: Channel, scope: trio.CancelScope) -> None:
    """A subscriber says nothing more; anything from it, or its end, ends the subscription."""
    with suppress(trio.BrokenResourceError):
        await channel.stream.receive_some(1)
    scope.cancel()
