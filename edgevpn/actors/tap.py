"""Watching an actor's messages as they come and go: what `tap()` in a prompt reads.

Every channel of an actor, of its mailbox and of its clients, shows each frame to the actor's one `Taps` while somebody
watches; while nobody does, a frame costs one look at an empty dict. A tap keeps short descriptions, never a message,
at most `size` of them: when it is full the oldest goes and is counted in the next one's `lost`.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import trio

from edgevpn.actors.show import brief
from edgevpn.proto.messages import (
    Change,
    Event,
    Failure,
    Frame,
    Hello,
    Message,
    OpenPipe,
    Reply,
    Request,
    Snapshot,
    Subscribe,
)

DEFAULT_SIZE = 1000
MAX_SIZE = 100_000
_SHORT = 120  # characters of a message's short form


@dataclass(frozen=True, slots=True)
class Tapped:
    """One frame that passed. `at`: unix time; `size`: bytes of its msgpack; `lost`: how many went unseen before it."""

    at: float
    outgoing: bool
    peer: str
    verb: str
    type: str
    size: int
    short: str
    lost: int = 0

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at)) + f".{int(self.at * 1000) % 1000:03d}"
        way = "to" if self.outgoing else "from"
        lost = f"(... {self.lost} were lost here)\n" if self.lost else ""
        return f"{lost}{clock} {way:>4} {self.peer:<10} {self.verb:<9} {self.type:<14} {self.size:>8} B  {self.short}"


class Taps:
    """Who watches the messages of one actor."""

    def __init__(self) -> None:
        # Weak: a tap that nobody reads any more is gone. Empty when nobody watches, which channels look at.
        self.watchers: dict[int, weakref.ref[Tap]] = {}

    def show(self, frame: Frame, size: int, peer: str, outgoing: bool, about: str) -> None:
        """Tell the watchers of a frame. `about`: what the channel is about, a topic for subscriptions."""
        if isinstance(frame, Hello):
            return
        seen = Tapped(time.time(), outgoing, peer[:32], type(frame).__name__, *_describe(frame, size, about))
        for reference in list(self.watchers.values()):
            tap = reference()
            if tap is not None:
                tap.offer(seen)


class Tap:
    """The messages from now on: `async for m in tap()`, or `await tap()`, which prints them until it is interrupted."""

    def __init__(self, taps: Taps, *types: str | type[Message], peer: str = "", size: int = DEFAULT_SIZE) -> None:
        """`types`: only messages of these classes (or their names), or with these verbs; `peer`: only of this actor."""
        self._taps = taps
        self._types = frozenset(kind if isinstance(kind, str) else kind.__name__ for kind in types)
        self._peer = peer
        self._queue: deque[Tapped] = deque(maxlen=min(max(size, 1), MAX_SIZE))
        self._lost = 0
        self._wake = trio.Event()
        self.lost = 0  # in all

    def open(self) -> None:
        """Begin to watch. Reading does it too."""
        key = id(self)
        if key not in self._taps.watchers:
            watchers = self._taps.watchers
            watchers[key] = weakref.ref(self, lambda _: watchers.pop(key, None))

    @property
    def is_open(self) -> bool:
        return id(self) in self._taps.watchers

    def close(self) -> None:
        self._taps.watchers.pop(id(self), None)
        self._queue.clear()

    def offer(self, seen: Tapped) -> None:
        if (self._types and not {seen.type, seen.verb} & self._types) or (self._peer and seen.peer != self._peer):
            return
        if len(self._queue) == self._queue.maxlen:
            self._lost += 1
            self.lost += 1
        self._queue.append(seen)
        self._wake.set()

    def __aiter__(self) -> Tap:
        return self

    async def __anext__(self) -> Tapped:
        self.open()
        await trio.lowlevel.checkpoint()  # a full queue must not keep the actor's loop to itself
        while not self._queue:
            self._wake = trio.Event()
            await self._wake.wait()
        seen = self._queue.popleft()
        if self._lost:
            seen = Tapped(seen.at, seen.outgoing, seen.peer, seen.verb, seen.type, seen.size, seen.short, self._lost)
            self._lost = 0
        return seen

    def __await__(self) -> Generator[Any, Any, None]:
        return self.print_all().__await__()

    async def print_all(self, say: Callable[[object], object] = print) -> None:
        """Print messages until cancelled."""
        try:
            async for seen in self:
                say(seen)
        finally:
            self.close()

    def __repr__(self) -> str:
        return "<tap: `await tap()` prints messages until Ctrl-C, `async for m in tap():` gives them one by one>"


def _describe(frame: Frame, size: int, about: str) -> tuple[str, int, str]:
    """Type, size and short form of a frame."""
    if isinstance(frame, Request | Reply | OpenPipe):
        return type(frame.body).__name__, size, _fields(frame.body)
    if isinstance(frame, Event):
        lost = f", {frame.dropped} dropped before" if frame.dropped else ""
        return type(frame.body).__name__, size, f"{about}: {_fields(frame.body)}{lost}"
    if isinstance(frame, Subscribe):
        return frame.topic, size, brief(frame.args, _SHORT) if frame.args else ""
    if isinstance(frame, Snapshot):
        return about, size, f"{len(frame.items)} items" + _some(frame.items)
    if isinstance(frame, Change):
        put = f"{len(frame.put)} put" + _some(frame.put)
        return about, size, put + (f"; {len(frame.gone)} gone{_some(frame.gone)}" if frame.gone else "")
    if isinstance(frame, Failure):
        return frame.kind, size, brief(frame.text, _SHORT)
    return "", size, ""


def _fields(body: Message) -> str:
    text = brief(body, _SHORT)
    name = type(body).__name__
    return text.removeprefix(f"{name}(").removesuffix(")") if text.startswith(f"{name}(") else text


def _some(keys: Any) -> str:
    first = [key if len(key) <= 24 else f"{key[:10]}..{key[-6:]}" for _, key in zip(range(3), keys, strict=False)]
    return f": {', '.join(first)}{', ...' if len(keys) > 3 else ''}" if first else ""
