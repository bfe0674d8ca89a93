"""How an actor, or the command line, speaks with another actor.

A call opens a connection of its own (0.2 ms on one machine), so that nothing has to be resumed when the other actor
was started again in between. An actor that is away is waited for, up to the call's time: actors may start in any
order and die at any moment. `watch` is a subscription that comes back by itself, each time with a whole snapshot.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import trio

from edgevpn.actors.channel import Channel, Pipe
from edgevpn.actors.run_directory import socket_path
from edgevpn.actors.tap import Taps
from edgevpn.errors import EdgevpnError, NodeUnreachableError, UntrustedDataError
from edgevpn.proto.messages import (
    Body,
    Change,
    Event,
    Failure,
    Frame,
    Grant,
    Message,
    OpenPipe,
    Reply,
    Request,
    Snapshot,
    Subscribe,
)

CALL_TIMEOUT = 10.0
_RETRY_FIRST = 0.01
_RETRY_MOST = 0.25

M = TypeVar("M", bound=Message)


class ActorUnavailableError(NodeUnreachableError):
    """The other actor is not there (in time), or went away before it answered."""


class RefusedError(EdgevpnError):
    """The other actor answered with a Failure; `kind` is for programs."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Client:
    """Speaks with one actor of the node in `run_dir`."""

    def __init__(self, run_dir: Path, actor: str, *, caller: str, wait: bool = True, taps: Taps | None = None) -> None:
        """`wait`: an actor that is away is waited for (actors); else it is an error at once (commands).

        `taps`: who watches the messages.
        """
        self._path = socket_path(run_dir, actor)
        self._actor = actor
        self._caller = caller
        self._wait = wait
        self._taps = taps or Taps()

    async def call(self, body: Body, reply: type[M], *, timeout: float = CALL_TIMEOUT) -> M:
        """One request. Raises ActorUnavailableError or RefusedError."""
        with trio.move_on_after(timeout):
            channel = await self._connect(Request(body))
            try:
                return self._unwrap(await self._receive(channel), reply)
            finally:
                await channel.aclose()
        raise ActorUnavailableError(f"the {self._actor} actor did not answer within {timeout:g} s")

    async def grant(self, request: Grant, reply: type[M], *, timeout: float = CALL_TIMEOUT) -> tuple[M, list[int]]:
        """A request whose reply carries descriptors; the caller owns them."""
        with trio.move_on_after(timeout):
            channel = await self._connect(Request(request), collect_descriptors=True)
            try:
                body = self._unwrap(await self._receive(channel), reply)
                return body, channel.descriptors or []
            finally:
                await channel.aclose()
        raise ActorUnavailableError(f"the {self._actor} actor did not answer within {timeout:g} s")

    async def open_pipe(self, body: Body, reply: type[M], *, timeout: float = CALL_TIMEOUT) -> tuple[M, Pipe]:
        """A pipe: what the other actor said of it, and the stream, which the caller owns."""
        with trio.move_on_after(timeout):
            channel = await self._connect(OpenPipe(body))
            try:
                answer = self._unwrap(await self._receive(channel), reply)
                return answer, channel.take_pipe()
            except BaseException:
                await channel.aclose()
                raise
        raise ActorUnavailableError(f"the {self._actor} actor did not answer within {timeout:g} s")

    def watch(self, topic: str, *args: str, once: bool = False) -> Watch:
        """A subscription that reconnects, unless `once`. Use `async with client.watch(...) as updates`."""
        return Watch(self, Subscribe(topic, list(args)), once=once)

    async def _connect(self, first: Frame, *, collect_descriptors: bool = False) -> Channel:
        """A connection on which both said Hello and `first` is sent."""
        delay = _RETRY_FIRST
        while True:
            try:
                channel = Channel(await trio.open_unix_socket(os.fspath(self._path)), self._taps)
                channel.peer = self._actor
            except OSError as exc:
                if not self._wait:
                    raise ActorUnavailableError(self._absent()) from exc
                await trio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST)
                continue
            if collect_descriptors:
                channel.descriptors = []
            try:
                await channel.greet(self._caller)
                await channel.send(first)
                await channel.expect_hello()
            except (trio.BrokenResourceError, UntrustedDataError) as exc:
                await channel.aclose()
                if not self._wait:
                    raise ActorUnavailableError(f"the {self._actor} actor refused the connection: {exc}") from exc
                await trio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST)
                continue
            except BaseException:
                await channel.aclose()
                raise
            return channel

    def _absent(self) -> str:
        return (
            f"no node answers at {self._path}: is it running, and is this the right --run-dir or --interface?"
            if self._actor == "supervisor"
            else f"the {self._actor} actor is not there now: `edgevpn actors` tells why"
        )

    async def _receive(self, channel: Channel) -> Frame:
        try:
            frame = await channel.receive()
        except (trio.BrokenResourceError, UntrustedDataError) as exc:
            raise ActorUnavailableError(f"the {self._actor} actor went away before it answered") from exc
        if frame is None:
            raise ActorUnavailableError(f"the {self._actor} actor went away before it answered")
        return frame

    def _unwrap(self, frame: Frame, reply: type[M]) -> M:
        if isinstance(frame, Failure):
            raise RefusedError(frame.kind, frame.text)
        if not isinstance(frame, Reply) or not isinstance(frame.body, reply):
            raise ActorUnavailableError(f"the {self._actor} actor answered with a {type(frame).__name__}")
        return frame.body


class Watch:
    """Snapshots, changes and events of a topic, over as many connections as it takes.

    After the other actor went away iteration goes on: for a state with the next Snapshot, for a feed with the next
    Event. `connected` says whether a connection stands now.
    """

    def __init__(self, client: Client, subscribe: Subscribe, *, once: bool) -> None:
        self._client = client
        self._subscribe = subscribe
        self._once = once
        self._channel: Channel | None = None

    @property
    def connected(self) -> bool:
        return self._channel is not None

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._drop()

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Snapshot | Change | Event:
        while True:
            if self._channel is None:
                self._channel = await self._client._connect(self._subscribe)
            try:
                frame = await self._channel.receive()
            except (trio.BrokenResourceError, UntrustedDataError):
                frame = None
            if isinstance(frame, (Snapshot, Change, Event)):
                return frame
            await self._drop()
            if isinstance(frame, Failure):
                raise RefusedError(frame.kind, frame.text)
            if self._once:
                raise StopAsyncIteration
            await trio.sleep(_RETRY_FIRST)

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()


def apply(items: dict[str, Body], update: Snapshot | Change | Event) -> None:
    """Bring a copy of a state up to date."""
    if isinstance(update, Snapshot):
        items.clear()
        items.update(update.items)
    elif isinstance(update, Change):
        items.update(update.put)
        for key in update.gone:
            items.pop(key, None)
