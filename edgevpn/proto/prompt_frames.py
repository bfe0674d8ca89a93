"""What `edgevpn repl` and the prompt inside an actor say to each other, over a pipe (OpenRepl).

Frames have the form of edgevpn/proto/messages: a length (u32, big-endian), then msgpack with a "type". The actor
begins with a Greeting. The terminal's side sends Run, gets Output as it is printed, and Finished at the end; meanwhile
it may send Interrupt. Complete is answered by Completions at any time. The end of the pipe, from either side, ends
the conversation and whatever runs in it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import LENGTH

MAX_FRAME = 4 * 1024 * 1024


class _Frame(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of the frames."""


class Greeting(_Frame, frozen=True):
    """The prompt is ready. `text`: a line for people; `pid`: the actor's process."""

    text: str
    pid: int


class Run(_Frame, frozen=True):
    """Run Python source; values are laid out for `width` columns."""

    source: str
    width: int = 100


class Interrupt(_Frame, frozen=True):
    """Cancel what runs."""


class Complete(_Frame, frozen=True):
    """How may `text`, a dotted name up to the cursor, go on? `number` comes back in the answer."""

    number: int
    text: str


class Output(_Frame, frozen=True):
    """Printed text; `error`: it is a traceback or a complaint. Never ends a line by itself."""

    text: str
    error: bool = False


class Finished(_Frame, frozen=True):
    """The source ran to its end. `secret`: it held a secret, keep it out of the history. `leave`: exit() was called."""

    failed: bool
    secret: bool
    leave: bool


class Completions(_Frame, frozen=True):
    """Whole dotted names that begin with the text of Complete, sorted."""

    number: int
    names: list[str]


PromptFrame: TypeAlias = Greeting | Run | Interrupt | Complete | Output | Finished | Completions

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[PromptFrame] = msgspec.msgpack.Decoder(PromptFrame)


def encode(frame: PromptFrame) -> bytes:
    """The frame with its length before it. Raises ValueError over MAX_FRAME."""
    payload = _encoder.encode(frame)
    if len(payload) > MAX_FRAME:
        raise ValueError(f"a {type(frame).__name__} of {len(payload)} bytes is over the limit of {MAX_FRAME}")
    return LENGTH.pack(len(payload)) + payload


def sendable(text: str) -> str:
    """`text` without what UTF-8 can't hold (lone surrogates)."""
    return text.encode(errors="replace").decode()


class Splitter:
    """Bytes as they come, to frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed_untrusted(self, data: bytes) -> list[PromptFrame]:
        """The frames that `data` completes. Raises UntrustedDataError for anything that is no frame."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= LENGTH.size:
            length: int = LENGTH.unpack_from(self._buffer)[0]
            if length > MAX_FRAME:
                raise UntrustedDataError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                frames.append(_decoder.decode(bytes(self._buffer[LENGTH.size : end])))
            except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
                raise UntrustedDataError(f"not a frame of a prompt: {exc}") from exc
            del self._buffer[:end]
        return frames
