"""multistream-select 1.0: which protocol a stream speaks.

Each message is a varint length, the text and a newline. Both sides send the header first; the dialling side sends its
first proposal along with the header, which saves a round trip. Messages are short (`MAX_MESSAGE`), proposals few
(`MAX_PROPOSALS`), and anything else ends the stream: `negotiate_inbound` and `negotiate_outbound` raise only
UntrustedDataError (and what the stream itself raises).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Protocol

from edgevpn.errors import UntrustedDataError

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_MESSAGE = 1024
MAX_PROPOSALS = 32


class ByteStream(Protocol):
    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


class ProtocolRefusedError(UntrustedDataError):
    """The peer speaks none of the protocols that were proposed."""


def encode(*messages: str) -> bytes:
    """The messages (each shorter than `MAX_MESSAGE`) as one piece for the wire."""
    return b"".join(_with_length(message.encode() + b"\n") for message in messages)


def _with_length(body: bytes) -> bytes:
    size = len(body)
    return (bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])) + body


def decode_body_untrusted(body: bytes) -> str:
    """The text of a message. Raises UntrustedDataError."""
    if not body.endswith(b"\n"):
        raise UntrustedDataError("multistream: a message without its newline")
    try:
        return body[:-1].decode("ascii")
    except UnicodeDecodeError:
        raise UntrustedDataError("multistream: a message that is not text") from None


async def read_message(stream: ByteStream) -> str:
    """The next message, and not a byte beyond it. Raises UntrustedDataError."""
    length = (await _exactly(stream, 1))[0]
    if length >= 128:
        length = (length & 0x7F) | (await _exactly(stream, 1))[0] << 7
    if not 0 < length <= MAX_MESSAGE:
        raise UntrustedDataError("multistream: a message that is too long")
    return decode_body_untrusted(await _exactly(stream, length))


async def _exactly(stream: ByteStream, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = await stream.read(n - len(data))
        if not more:
            raise UntrustedDataError("multistream: the stream ended")
        data += more
    return data


async def negotiate_inbound(stream: ByteStream, served: Container[str], listing: Iterable[str]) -> str:
    """Answer a peer's proposals until one is in `served`; returns it. `listing` answers `ls`."""
    await stream.write(encode(HEADER))
    if await read_message(stream) != HEADER:
        raise UntrustedDataError("multistream: not the header")
    for _ in range(MAX_PROPOSALS):
        proposal = await read_message(stream)
        if proposal in served:
            await stream.write(encode(proposal))
            return proposal
        if proposal == "ls":
            names = encode(*listing)
            await stream.write(encode(NOT_AVAILABLE) if len(names) >= MAX_MESSAGE else _with_length(names + b"\n"))
        else:
            await stream.write(encode(NOT_AVAILABLE))
    raise UntrustedDataError("multistream: too many proposals")


async def negotiate_outbound(stream: ByteStream, proposals: Sequence[str]) -> str:
    """Propose in order; returns what the peer took. Raises ProtocolRefusedError, UntrustedDataError."""
    if not proposals:
        raise ProtocolRefusedError("no protocol was proposed")
    await stream.write(encode(HEADER, proposals[0]))
    if await read_message(stream) != HEADER:
        raise UntrustedDataError("multistream: not the header")
    for number, proposal in enumerate(proposals):
        if number:
            await stream.write(encode(proposal))
        answer = await read_message(stream)
        if answer == proposal:
            return proposal
        if answer != NOT_AVAILABLE:
            raise UntrustedDataError("multistream: an answer to another proposal")
    raise ProtocolRefusedError(f"the peer does not speak {', '.join(proposals)}")
