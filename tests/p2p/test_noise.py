"""The noise transport: its frames, and its session over a connection in memory."""

from __future__ import annotations

import contextlib

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.noise import MAX_PLAINTEXT, FrameOpener, FrameSealer, NoiseSession, NoiseTransport

KEY = bytes(range(32))


class RawEnd:
    """One end of a plain connection in memory."""

    def __init__(self, stream: trio.StapledStream, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator
        self.writes: list[bytes] = []

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        self.writes.append(data)
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> None:
        return None


def raw_pair() -> tuple[RawEnd, RawEnd]:
    one, other = trio.testing.memory_stream_pair()
    return RawEnd(one, True), RawEnd(other, False)


async def session_pair() -> tuple[NoiseSession, NoiseSession, RawEnd, RawEnd]:
    left, right = raw_pair()
    ours, theirs = create_new_key_pair(b"a" * 32), create_new_key_pair(b"b" * 32)
    made: dict[str, NoiseSession] = {}

    async def dial() -> None:
        session = await NoiseTransport(ours).secure_outbound(left, ID.from_pubkey(theirs.public_key))  # type: ignore[arg-type]
        assert isinstance(session, NoiseSession)
        made["left"] = session

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        session = await NoiseTransport(theirs).secure_inbound(right)  # type: ignore[arg-type]
        assert isinstance(session, NoiseSession)
        made["right"] = session
    return made["left"], made["right"], left, right


@hypothesis.given(st.lists(st.binary(max_size=2000), max_size=8), st.integers(1, 500))
def test_frames_open_however_the_bytes_are_cut(messages: list[bytes], step: int) -> None:
    sealer, opener = FrameSealer(KEY), FrameOpener(KEY)
    wire = b"".join(sealer.seal(message) for message in messages)
    opened = b"".join(opener.feed_untrusted(wire[i : i + step]) for i in range(0, len(wire), step))
    assert opened == b"".join(messages)


def test_long_data_is_cut_into_frames_of_the_largest_size() -> None:
    data = bytes(3 * MAX_PLAINTEXT + 5)
    wire = FrameSealer(KEY).seal(data)
    assert len(wire) == len(data) + 4 * 18
    assert FrameOpener(KEY).feed_untrusted(wire) == data


@hypothesis.given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    wire = bytearray(FrameSealer(KEY).seal(b"x" * 200))
    wire[2 + position % (len(wire) - 2)] ^= change
    with pytest.raises(UntrustedDataError):
        FrameOpener(KEY).feed_untrusted(bytes(wire))


def test_a_frame_sent_again_is_noticed() -> None:
    wire = FrameSealer(KEY).seal(b"once")
    opener = FrameOpener(KEY)
    assert opener.feed_untrusted(wire) == b"once"
    with pytest.raises(UntrustedDataError):
        opener.feed_untrusted(wire)


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_open_or_are_untrusted_data(wire: bytes) -> None:
    with contextlib.suppress(UntrustedDataError):
        assert FrameOpener(KEY).feed_untrusted(wire) == b""


async def test_both_ends_know_each_other_and_read_what_the_other_wrote() -> None:
    left, right, _, _ = await session_pair()
    assert left.get_remote_peer() == right.get_local_peer()
    assert right.get_remote_peer() == left.get_local_peer()
    await left.write(b"hello")
    await right.write(b"there")
    assert await right.read(3) == b"hel"
    assert await right.receive() == b"lo"
    assert await left.read() == b"there"


async def test_many_frames_in_one_receive_are_read_at_once() -> None:
    left, right, _, _ = await session_pair()
    for _ in range(20):
        await left.write(b"x" * 100)
    assert len(await right.receive()) == 2000


async def test_one_write_is_one_send_whatever_its_size() -> None:
    left, _, raw, _ = await session_pair()
    before = len(raw.writes)
    await left.write(bytes(1_000_000))
    assert len(raw.writes) == before + 1


async def test_the_end_of_the_connection_is_an_error_for_readers() -> None:
    left, right, raw, _ = await session_pair()
    await left.write(b"last")
    await raw.close()
    assert await right.receive() == b"last"
    with pytest.raises(ConnectionClosedError):
        await right.receive()


async def test_a_write_cut_short_makes_the_session_unusable() -> None:
    left, _, raw, _ = await session_pair()

    async def stuck(data: bytes) -> None:
        await trio.sleep_forever()

    raw.stream.send_all = stuck  # type: ignore[method-assign]
    with trio.move_on_after(0.01):
        await left.write(b"half of it may be on its way")
    with pytest.raises(ConnectionClosedError, match="middle of a frame"):
        await left.write(b"unreadable")


@pytest.mark.parametrize(
    "garbage", [b"\x00\x00", b"\x00\x05hello", b"\xff\xff" + bytes(65535), b"\x00\x30" + b"\x01" * 48]
)
async def test_garbage_in_the_handshake_is_one_kind_of_error(garbage: bytes) -> None:
    left, right = raw_pair()
    await left.write(garbage + b"\x00\x40" + bytes(64))
    left.stream.send_stream.close()  # type: ignore[attr-defined]
    with pytest.raises(HandshakeFailure):
        await NoiseTransport(create_new_key_pair(b"b" * 32)).secure_inbound(right)  # type: ignore[arg-type]


async def test_another_peer_than_expected_is_refused() -> None:
    left, right = raw_pair()
    stranger = ID.from_pubkey(create_new_key_pair(b"c" * 32).public_key)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(HandshakeFailure):
                await NoiseTransport(create_new_key_pair(b"b" * 32)).secure_inbound(right)  # type: ignore[arg-type]

        nursery.start_soon(accept)
        with pytest.raises(HandshakeFailure):
            await NoiseTransport(create_new_key_pair(b"a" * 32)).secure_outbound(left, stranger)  # type: ignore[arg-type]
        left.stream.send_stream.close()  # type: ignore[attr-defined]
