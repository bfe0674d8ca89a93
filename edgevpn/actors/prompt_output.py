"""What the prompts inside an actor say: frames on their way to a terminal, and sys.stdout shared among them.

Only tasks of a prompt print to it: sys.stdout looks at the task (a context variable) while somebody is here. Output
that the terminal is too slow for is dropped over MAX_WAITING characters, and said.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import trio

from edgevpn.actors.show import Secrets
from edgevpn.proto.prompt_frames import Finished, Output, PromptFrame, encode, sendable

MAX_WAITING = 1_000_000  # characters of output that wait for the terminal
MAX_FRAMES = 10_000
_OUTPUT_PIECE = 100_000


class Outbox:
    """Frames for the terminal, at most MAX_WAITING characters of output among them."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._frames: deque[PromptFrame] = deque()
        self._waiting = 0
        self._dropped = 0
        self._wake = trio.Event()
        self.closed = False

    def __len__(self) -> int:
        return len(self._frames)

    def say(self, text: str, *, error: bool = False, hide: bool = True) -> None:
        text = sendable(self._secrets.hide(text) if hide else text)
        # Once something is dropped so is all the rest, until what waits is sent: no tatters.
        if self._dropped or self._waiting + len(text) > MAX_WAITING or len(self._frames) >= MAX_FRAMES:
            self._dropped += len(text)
            return
        last = self._frames[-1] if self._frames else None
        if isinstance(last, Output) and last.error == error and len(last.text) < _OUTPUT_PIECE:
            self._frames[-1] = Output(last.text + text, error)
        else:
            self._frames.append(Output(text, error))
        self._waiting += len(text)
        self._wake.set()

    def put(self, frame: PromptFrame) -> None:
        self._tell_dropped()
        self._frames.append(frame)
        self._wake.set()

    async def drain(self, stream: trio.abc.SendStream, scope: trio.CancelScope) -> None:
        """Send until cancelled; after a Finished that leaves, cancel `scope`."""
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if isinstance(frame, Output):
                    self._waiting -= len(frame.text)
                await stream.send_all(encode(frame))
                if isinstance(frame, Finished) and frame.leave:
                    scope.cancel()
            self._tell_dropped()
            if not self._frames:
                self._wake = trio.Event()
                await self._wake.wait()

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._frames.append(Output(f"\n[{self._dropped} characters were dropped here: they came too fast]\n", True))
            self._dropped = 0


here: ContextVar[Outbox | None] = ContextVar("edgevpn_prompt", default=None)  # the prompt whose task this is


class _RoutedOutput(io.TextIOBase):
    """sys.stdout while prompts are open: each task's text goes to its own prompt, all other text where it went."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.prompts = 0

    def write(self, text: str, /) -> int:
        outbox = here.get()
        if outbox is None or outbox.closed:
            return int(self.real.write(text) or 0)
        outbox.say(text)
        return len(text)

    def flush(self) -> None:
        if here.get() is None:
            self.real.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@contextlib.contextmanager
def printing_here() -> Iterator[None]:
    """Route sys.stdout while at least one prompt is open."""
    if not isinstance(sys.stdout, _RoutedOutput):
        sys.stdout = _RoutedOutput(sys.stdout)
    routed = sys.stdout
    routed.prompts += 1
    try:
        yield
    finally:
        routed.prompts -= 1
        if routed.prompts == 0 and sys.stdout is routed:
            sys.stdout = routed.real
