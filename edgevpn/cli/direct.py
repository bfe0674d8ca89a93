"""Speaking with an actor without trio, whose import would be half of the time that a prompt takes to come up.

The same frames as edgevpn/actors/client.py, over a blocking socket: one request, or one pipe.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TypeVar

from edgevpn.errors import NodeUnreachableError, UntrustedDataError
from edgevpn.proto import messages
from edgevpn.proto.messages import Body, Failure, Frame, Hello, Message, OpenPipe, Reply, Request

TIMEOUT = 5.0  # seconds until the other side must have answered

M = TypeVar("M", bound=Message)


class AbsentError(NodeUnreachableError):
    """Nobody listens at the actor's socket."""


class SilentError(NodeUnreachableError):
    """The actor has a socket, but does not answer as an actor does."""


class RefusedError(NodeUnreachableError):
    """The actor answered with a Failure."""


class Direct:
    """One connection to the actor `name` of the node in `run_dir`, on which `first` was sent."""

    def __init__(self, run_dir: Path, name: str, first: Frame, timeout: float = TIMEOUT) -> None:
        """Raises AbsentError, SilentError."""
        self._name = name
        self._buffer = bytearray()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(timeout)
        try:
            try:
                self.socket.connect(os.fspath(run_dir / f"{name}.sock"))
            except PermissionError as exc:
                raise SilentError(f"the {name} actor of another user's node is not for us: try it with sudo") from exc
            except OSError as exc:
                raise AbsentError(f"the {name} actor is not there") from exc
            self._send(Hello(messages.VERSION, "command"), first)
            hello = self._receive()
            if not isinstance(hello, Hello) or hello.version != messages.VERSION:
                raise SilentError(f"the {name} actor is of another version of edgevpn: use the node's own command")
        except BaseException:
            self.socket.close()
            raise

    def answer(self, kind: type[M]) -> M:
        """The reply's body. Raises RefusedError, SilentError."""
        frame = self._receive()
        if isinstance(frame, Failure):
            raise RefusedError(frame.text)
        if not isinstance(frame, Reply) or not isinstance(frame.body, kind):
            raise SilentError(f"the {self._name} actor answered with a {type(frame).__name__}")
        return frame.body

    def take_early(self) -> bytes:
        """What came behind the last frame: the first bytes of a pipe."""
        early = bytes(self._buffer)
        self._buffer.clear()
        return early

    def _send(self, *frames: Frame) -> None:
        try:
            self.socket.sendall(b"".join(map(messages.encode, frames)))
        except OSError as exc:
            raise SilentError(f"the {self._name} actor went away") from exc

    def _receive(self) -> Frame:
        try:
            length = messages.length_untrusted(self._exactly(messages.LENGTH.size))
            return messages.decode_untrusted(self._exactly(length))
        except UntrustedDataError as exc:
            raise SilentError(f"the {self._name} actor speaks another language: {exc}") from exc

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self.socket.recv(65536)
            except TimeoutError as exc:
                raise SilentError(f"the {self._name} actor does not answer") from exc
            except OSError as exc:
                raise SilentError(f"the {self._name} actor went away") from exc
            if not data:
                raise SilentError(f"the {self._name} actor hung up: is this user allowed to speak with it?")
            self._buffer += data
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found


def ask(run_dir: Path, name: str, request: Body, reply: type[M], timeout: float = TIMEOUT) -> M:
    """One request; `timeout`: seconds for each step of it. Raises AbsentError, SilentError, RefusedError."""
    connection = Direct(run_dir, name, Request(request), timeout)
    try:
        return connection.answer(reply)
    finally:
        connection.socket.close()


def open_pipe(run_dir: Path, name: str, request: Body, reply: type[M]) -> tuple[socket.socket, bytes]:
    """A pipe: its socket, which the caller closes, and its first bytes. Raises as `ask` does."""
    connection = Direct(run_dir, name, OpenPipe(request))
    try:
        connection.answer(reply)
    except BaseException:
        connection.socket.close()
        raise
    connection.socket.settimeout(None)
    return connection.socket, connection.take_early()
