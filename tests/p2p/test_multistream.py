"""multistream-select: who agrees on what, and what garbage does."""

from __future__ import annotations

import contextlib

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.multistream import (
    HEADER,
    MAX_PROPOSALS,
    ProtocolRefusedError,
    encode,
    negotiate_inbound,
    negotiate_outbound,
    read_message,
)


class MemoryStream:
    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.sends = 0

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        self.sends += 1
        await self.stream.send_all(data)


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    one, other = trio.testing.memory_stream_pair()
    return MemoryStream(one), MemoryStream(other)


class Script:
    """A peer that says just this."""

    def __init__(self, says: bytes) -> None:
        self.says = says
        self.heard = b""

    async def read(self, n: int | None = None) -> bytes:
        assert n is not None
        data, self.says = self.says[:n], self.says[n:]
        return data

    async def write(self, data: bytes) -> None:
        self.heard += data


async def agree(proposals: list[str], served: list[str]) -> tuple[str, str, int]:
    left, right = stream_pair()
    answers: list[str] = []

    async def answer() -> None:
        answers.append(await negotiate_inbound(right, served, served))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        taken = await negotiate_outbound(left, proposals)
    return taken, answers[0], left.sends


async def test_both_sides_agree_on_the_first_that_is_served() -> None:
    assert await agree(["/a/1", "/b/1", "/c/1"], ["/c/1", "/b/1"]) == ("/b/1", "/b/1", 2)


async def test_a_first_proposal_that_is_taken_costs_one_write() -> None:
    assert await agree(["/a/1", "/b/1"], ["/a/1"]) == ("/a/1", "/a/1", 1)


async def test_nothing_in_common_is_a_refusal() -> None:
    peer = Script(encode(HEADER, "na", "na"))
    with pytest.raises(ProtocolRefusedError, match="does not speak /a/1, /b/1"):
        await negotiate_outbound(peer, ["/a/1", "/b/1"])


async def test_a_listing_is_answered_and_the_negotiation_goes_on() -> None:
    peer = Script(encode(HEADER, "ls", "/a/1"))
    assert await negotiate_inbound(peer, ["/a/1"], ["/a/1"]) == "/a/1"
    assert peer.heard == encode(HEADER) + b"\x07" + encode("/a/1") + b"\n" + encode("/a/1")


async def test_proposals_without_end_are_cut_off() -> None:
    peer = Script(encode(HEADER, *["/x"] * (MAX_PROPOSALS + 1)))
    with pytest.raises(UntrustedDataError, match="too many"):
        await negotiate_inbound(peer, ["/a/1"], ["/a/1"])


@hypothesis.given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=900))
def test_a_message_reads_as_it_was_written(text: str) -> None:
    assert trio.run(read_message, Script(encode(text) + b"rest")) == text


@pytest.mark.parametrize("length", [1, 126, 127, 128, 900])
def test_a_message_of_any_length_reads_as_it_was_written(length: int) -> None:
    assert trio.run(read_message, Script(encode("x" * length) + b"rest")) == "x" * length


@hypothesis.given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_negotiation_or_untrusted_data(raw: bytes, with_header: bool) -> None:
    peer = Script((encode(HEADER) if with_header else b"") + raw)
    for negotiate in (lambda: negotiate_inbound(peer, ["/a/1"], ["/a/1"]), lambda: negotiate_outbound(peer, ["/a/1"])):
        with contextlib.suppress(UntrustedDataError):
            trio.run(negotiate)
