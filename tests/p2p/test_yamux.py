"""Yamux over a pair of sessions in memory."""

from __future__ import annotations

import random
from contextlib import suppress

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import (
    MuxedStreamClosed,
    MuxedStreamReset,
)

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.yamux import Connection
from edgevpn.p2p.yamux_frames import (
    DATA,
    GO_AWAY,
    HEADER,
    INITIAL_WINDOW,
    PING,
    WINDOW_UPDATE,
    Frame,
    parse_frames_untrusted,
)
from tests.p2p.yamux_pair import (
    against_raw_peer,
    connected,
    read_all,
    stream_pair,
)

# --- the wire format


frames = st.lists(
    st.one_of(
        st.tuples(st.just(DATA), st.integers(0, 15), st.integers(1, 2**32 - 1), st.binary(max_size=300)),
        st.tuples(st.just(WINDOW_UPDATE), st.integers(0, 15), st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1)),
        st.tuples(st.sampled_from([PING, GO_AWAY]), st.integers(0, 15), st.just(0), st.integers(0, 2**32 - 1)),
    ),
    max_size=12,
)


@hypothesis.given(frames, st.integers(1, 40))
def test_frames_are_found_however_the_bytes_are_cut(sent: list, step: int) -> None:
    raw, expected = b"", []
    for kind, flags, stream_id, rest in sent:
        data = rest if isinstance(rest, bytes) else b""
        length = len(rest) if isinstance(rest, bytes) else rest
        raw += HEADER.pack(0, kind, flags, stream_id, length) + data
        expected.append(Frame(kind, flags, stream_id, length, data))
    buffer, found = bytearray(), []
    for start in range(0, len(raw), step):
        buffer += raw[start : start + step]
        found += parse_frames_untrusted(buffer)
    assert found == expected
    assert not buffer


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_untrusted_data(raw: bytes) -> None:
    with suppress(UntrustedDataError):
        parse_frames_untrusted(bytearray(raw))


# --- streams


async def test_bytes_arrive_in_order_whatever_the_sizes() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    pieces = [rng.randbytes(rng.choice([1, 100, 1400, 70_000, 400_000])) for _ in range(40)]
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)

        async def send() -> None:
            for piece in pieces:
                await ours.write(piece)
            await ours.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await read_all(theirs) == b"".join(pieces)
        assert pair[1].unread == 0


async def test_a_half_closed_stream_still_carries_the_answer() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await ours.write(b"question")
        await ours.close()
        assert await read_all(theirs) == b"question"
        await theirs.write(b"answer")
        await theirs.close()
        assert await read_all(ours) == b"answer"
        with pytest.raises(MuxedStreamClosed):
            await ours.write(b"more")
        assert pair[0].stream_count == pair[1].stream_count == 0


async def test_a_reset_reaches_the_peers_reader_and_writer() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await ours.reset()
        with pytest.raises(MuxedStreamReset):
            await theirs.read()
        with pytest.raises(MuxedStreamReset):
            await theirs.write(b"x")
        assert pair[1].stream_count == 0


async def test_stream_ids_are_odd_for_the_dialler_and_even_for_the_acceptor() -> None:
    async with connected() as (dialler, acceptor):
        assert [(await dialler.open_stream()).stream_id for _ in range(3)] == [1, 3, 5]
        assert [(await acceptor.open_stream()).stream_id for _ in range(3)] == [2, 4, 6]


async def test_queued_frames_leave_in_one_write() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await trio.testing.wait_all_tasks_blocked()
        session = pair[0]._session
        session.writes.clear()  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ours.write, b"x" * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert len(session.writes) <= 2  # type: ignore[attr-defined]
        assert len(await theirs.read()) == 5000


# --- one message, one frame


async def test_a_message_is_exactly_one_data_frame() -> None:
    async with against_raw_peer(dialled=True) as (connection, peer):
        stream = await connection.open_stream()
        for size in (1, 1400, 65_000, 100_000):
            await stream.write_message(bytes(size))
            frame = await peer.next(DATA)
            assert frame.length == size


def data_sent(connection: Connection) -> int:
    written = bytearray(b"".join(connection._session.writes))  # type: ignore[attr-defined]
    return sum(frame.length for frame in parse_frames_untrusted(written) if frame.kind == DATA)


async def test_a_message_waits_until_the_window_takes_the_whole_of_it() -> None:
    async with against_raw_peer(dialled=True) as (connection, peer):
        stream = await connection.open_stream()
        await stream.write(bytes(INITIAL_WINDOW - 10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write_message, bytes(20))
            await trio.testing.wait_all_tasks_blocked()
            assert data_sent(connection) == INITIAL_WINDOW - 10
            await peer.send((WINDOW_UPDATE, 0, stream.stream_id, 9))
            await trio.testing.wait_all_tasks_blocked()
            assert data_sent(connection) == INITIAL_WINDOW - 10
            await peer.send((WINDOW_UPDATE, 0, stream.stream_id, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert data_sent(connection) == INITIAL_WINDOW + 10


async def test_a_cancelled_message_has_sent_nothing() -> None:
    async with against_raw_peer(dialled=True) as (connection, peer):
        stream = await connection.open_stream()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.write_message(b"never")
        await stream.write_message(b"after")
        assert (await peer.next(DATA)).data == b"after"


@pytest.mark.parametrize("size", [0, INITIAL_WINDOW + 1])
async def test_a_message_that_no_window_is_sure_to_hold_is_refused(size: int) -> None:
    async with connected() as pair:
        ours, _ = await stream_pair(pair)
        with pytest.raises(ValueError, match="a message is"):
            await ours.write_message(bytes(size))


# --- back-pressure and cancellation


async def test_a_writer_waits_for_a_reader_that_stalls_and_is_not_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        sent = trio.Event()

        async def send() -> None:
            await ours.write(bytes(600_000))
            sent.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(100)
            assert not sent.is_set()
            assert pair[1].unread == INITIAL_WINDOW
            got = 0
            while got < 600_000:
                got += len(await theirs.read())


async def test_cancelling_a_write_leaves_the_connection_whole() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        with trio.move_on_after(0.01) as scope:
            await ours.write(bytes(INITIAL_WINDOW + 100_000))
        assert scope.cancelled_caught
        assert len(await theirs.read()) > 0
        other = await pair[0].open_stream()
        await other.write(b"still here")
        assert await (await pair[1].accept_stream()).read() == b"still here"


async def test_a_fast_reader_gets_a_growing_window() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        pair[1].rtt = 10.0  # a long path

        async def send() -> None:
            await ours.write(bytes(4_000_000))
            await ours.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert len(await read_all(theirs)) == 4_000_000
        assert theirs._window > INITIAL_WINDOW
