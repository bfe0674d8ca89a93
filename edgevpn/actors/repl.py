"""A Python prompt inside a running actor, with top-level await.

A `Conversation` serves one `edgevpn repl` over a pipe (frames: edgevpn/proto/prompt_frames.py). Source that comes in
runs in a task of the conversation's own, in a namespace of its own that begins as the actor's and follows it; what it
prints goes out while it runs. Leaving, by Ctrl-D or because the terminal is gone, cancels that task, closes the taps
and forgets the names, so the actor is as it was, but for what the code did to its objects.

How code is run is in prompt_run.py, how its output gets out in prompt_output.py. Secrets are struck out of all output
(show.py) but the result of `reveal(x)`.

Whoever can open the actor's socket (root, or the user it runs as) can run code in it: that is the point, and the
mailbox's credential check is its guard.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import trio

from edgevpn.actors.complete import completions
from edgevpn.actors.prompt_output import MAX_FRAMES, Outbox, here, printing_here
from edgevpn.actors.prompt_run import format_error, is_cancellation, run_source
from edgevpn.actors.show import Revealed, Secrets, pretty
from edgevpn.actors.tap import Tap, Taps
from edgevpn.actors.task_tree import task_tree
from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import Message, Scalar
from edgevpn.proto.prompt_frames import (
    Complete,
    Completions,
    Finished,
    Greeting,
    Interrupt,
    PromptFrame,
    Run,
    Splitter,
)


class Conversation:
    """One prompt in an actor."""

    def __init__(
        self,
        namespace: Mapping[str, Any],
        *,
        secrets: Secrets | None = None,
        taps: Taps | None = None,
        stats: Callable[[], dict[str, Scalar]] = dict,
    ) -> None:
        """`namespace`: the actor's names, which may change while we are here."""
        self._live = namespace
        self._seen: dict[str, Any] = {}
        self._secrets = secrets or Secrets()
        self._taps = taps or Taps()
        self._stats = stats
        self._opened: weakref.WeakSet[Tap] = weakref.WeakSet()
        self._outbox = Outbox(self._secrets)
        self._running: trio.CancelScope | None = None
        self.names: dict[str, Any] = {
            "tap": self._tap,
            "tasks": task_tree,
            "stats": self._stats,
            "reveal": Revealed,
            "exit": _Leave(),
            "quit": _Leave(),
        }
        self._follow()

    async def serve(self, stream: trio.abc.Stream, greeting: Greeting) -> None:
        """Talk until the other side closes or leaves. Raises UntrustedDataError when it speaks nonsense."""
        self._outbox.put(greeting)
        nonsense: UntrustedDataError | None = None
        with printing_here():
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._outbox.drain, stream, nursery.cancel_scope)
                    try:
                        await self._listen(stream, nursery)
                    except UntrustedDataError as exc:
                        nonsense = exc
                    nursery.cancel_scope.cancel()
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the terminal is gone
            finally:
                self._outbox.closed = True
                for tap in list(self._opened):
                    tap.close()
        if nonsense is not None:
            raise nonsense

    async def _listen(self, stream: trio.abc.ReceiveStream, nursery: trio.Nursery) -> None:
        splitter = Splitter()
        while data := await stream.receive_some():
            for frame in splitter.feed_untrusted(bytes(data)):
                self._handle(frame, nursery)
            if len(self._outbox) > MAX_FRAMES:
                raise UntrustedDataError("a terminal asks more than it reads")

    def _handle(self, frame: PromptFrame, nursery: trio.Nursery) -> None:
        if isinstance(frame, Run) and self._running is None:
            self._running = trio.CancelScope()
            nursery.start_soon(self._run, frame, self._running, name="what runs at the prompt")
        elif isinstance(frame, Interrupt):
            if self._running is not None:
                self._running.cancel()
        elif isinstance(frame, Complete):
            self._follow()
            try:
                names = completions(frame.text, self.names)
            except Exception:  # noqa: BLE001 - objects may do anything when they are asked for their class
                names = []
            self._outbox.put(Completions(frame.number, names))
        else:
            raise UntrustedDataError(f"a {type(frame).__name__} out of turn")

    async def _run(self, run: Run, scope: trio.CancelScope) -> None:
        self._follow()
        here.set(self._outbox)
        failed = leave = False
        with scope:
            try:
                value = await run_source(run.source, self.names)
                if value is not None:
                    self._show(value, run.width)
            except SystemExit as exc:
                leave = bool(exc.args) and exc.args[0] is _LEAVE
                failed = not leave
                if failed:
                    self._outbox.say(format_error(exc), error=True)
            except BaseException as exc:
                if is_cancellation(exc):
                    raise
                # The code of a person at a prompt may raise anything.
                failed = True
                self._outbox.say(format_error(exc), error=True)
        if scope.cancelled_caught:
            failed = True
            self._outbox.say("interrupted\n", error=True)
        self._running = None
        secret = self._secrets.hide(run.source) != run.source
        self._outbox.put(Finished(failed, secret, leave))

    def _show(self, value: object, width: int) -> None:
        if isinstance(value, Revealed):
            self._outbox.say(pretty(value.value, width, reveal=True) + "\n", hide=False)
        else:
            self.names["_"] = value
            self._outbox.say(pretty(value, width) + "\n")

    def _follow(self) -> None:
        """Take over what changed in the actor's names, except where the prompt gave a name another meaning."""
        for name, value in self._live.items():
            if name not in self.names or (name in self._seen and self.names[name] is self._seen[name]):
                self.names[name] = self._seen[name] = value
        for name in [name for name in self._seen if name not in self._live]:
            if self.names.get(name) is self._seen.pop(name):
                del self.names[name]

    def _tap(self, *types: str | type[Message], peer: str = "", size: int = 1000) -> Tap:
        """The actor's messages from now on; `types` and `peer` choose among them.

        `await tap()` prints them until Ctrl-C; `async for m in tap("Request", peer="gossip")` gives them one by one.
        At most `size` wait to be read: the oldest go first, and the next says how many in `lost`.
        """
        tap = Tap(self._taps, *types, peer=peer, size=size)
        self._opened.add(tap)
        return tap


_LEAVE = object()


class _Leave:
    """exit and quit: the site module's would close the actor's stdin."""

    def __call__(self, *_: object) -> None:
        raise SystemExit(_LEAVE)

    def __repr__(self) -> str:
        return "exit() or Ctrl-D leaves; the actor goes on"
