"""Frames over a Unix stream socket, and who is at the other end.

`Channel` reads and writes the frames of `edgevpn.proto.messages`; `peer_credentials` asks the kernel (SO_PEERCRED,
unix(7)) for the process that connected. Once a pipe is open, `Channel.take_pipe` gives its bytes.
"""

from __future__ import annotations

import array
import socket
import struct
from dataclasses import dataclass

import trio

from edgevpn.actors.tap import Taps
from edgevpn.errors import UntrustedDataError
from edgevpn.fast_stream import FastStream
from edgevpn.proto import messages
from edgevpn.proto.messages import Frame, Hello, Subscribe

_UCRED = struct.Struct("3i")
_READ_SIZE = 65536
_MAX_DESCRIPTORS = 8
_INT = array.array("i").itemsize
_NOBODY = Taps()


@dataclass(frozen=True, slots=True)
class Credentials:
    """The process, user and group at the other end of a Unix socket, as the kernel saw them connect."""

    pid: int
    uid: int
    gid: int


def peer_credentials(stream: trio.SocketStream) -> Credentials:
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(raw))


class Pipe(FastStream):
    """Plain bytes over the socket of a channel, those first that came together with its last frame."""

    number = 0  # of the stream behind it, as the host calls it


class Channel:
    """One connection between two actors, frame by frame. `taps`: who watches this process's messages."""

    def __init__(self, stream: trio.SocketStream, taps: Taps = _NOBODY) -> None:
        self.stream = stream
        self.peer = ""  # what the other end calls itself
        self._taps = taps
        self._topic = ""  # of a subscription
        self.descriptors: list[int] | None = None  # a list: collect what comes with the bytes (SCM_RIGHTS)
        self._buffer = bytearray()

    async def send(self, *frames: Frame) -> None:
        payloads = list(map(messages.encode, frames))
        for frame, payload in zip(frames, payloads, strict=True):
            self._show(frame, len(payload), outgoing=True)
        await self.stream.send_all(b"".join(payloads))

    async def send_with_descriptors(self, frame: Frame, descriptors: list[int]) -> None:
        """One small frame with file descriptors beside it."""
        payload = messages.encode(frame)
        self._show(frame, len(payload), outgoing=True)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())
        sent = await self.stream.socket.sendmsg([payload], [rights])
        await self.stream.send_all(payload[sent:])

    async def receive(self) -> Frame | None:
        """The next frame, or None at the end. Raises UntrustedDataError when the other end speaks nonsense."""
        header = await self._exactly(messages.LENGTH.size)
        if header is None:
            return None
        payload = await self._exactly(messages.length_untrusted(header))
        if payload is None:
            raise UntrustedDataError("the connection ended within a frame")
        frame = messages.decode_untrusted(payload)
        self._show(frame, messages.LENGTH.size + len(payload), outgoing=False)
        return frame

    async def greet(self, actor: str) -> None:
        await self.send(Hello(messages.VERSION, actor))

    async def expect_hello(self) -> str:
        """The other end's actor name. Raises UntrustedDataError unless it begins with a Hello of our version."""
        hello = await self.receive()
        if not isinstance(hello, Hello):
            raise UntrustedDataError("the other end did not begin with a Hello")
        if hello.version != messages.VERSION:
            raise UntrustedDataError(f"the other end speaks version {hello.version}, this one {messages.VERSION}")
        self.peer = hello.actor
        return hello.actor

    def take_pipe(self) -> Pipe:
        """The bytes after the last frame, both ways."""
        early, self._buffer = bytes(self._buffer), bytearray()
        return Pipe(self.stream, early)

    def _show(self, frame: Frame, size: int, *, outgoing: bool) -> None:
        if isinstance(frame, Subscribe):
            self._topic = frame.topic
        if self._taps.watchers:
            self._taps.show(frame, size, self.peer, outgoing, self._topic)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def _exactly(self, count: int) -> bytes | None:
        """`count` bytes, or None when the stream ended before the first of them."""
        while len(self._buffer) < count:
            chunk = await self._some()
            if not chunk:
                if self._buffer:
                    raise UntrustedDataError("the connection ended within a frame")
                return None
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _some(self) -> bytes:
        if self.descriptors is None:
            return bytes(await self.stream.receive_some(_READ_SIZE))
        space = socket.CMSG_SPACE(_MAX_DESCRIPTORS * _INT)
        chunk, ancillary, _, _ = await self.stream.socket.recvmsg(_READ_SIZE, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(data[: len(data) // _INT * _INT])
                self.descriptors.extend(received)
        return chunk
