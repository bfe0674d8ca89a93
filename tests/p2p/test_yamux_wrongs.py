"""What a peer can do wrong on a yamux connection: it spoils its own."""

from __future__ import annotations

from contextlib import suppress

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import (
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from edgevpn.p2p import yamux, yamux_stream
from edgevpn.p2p.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    GO_AWAY_PROTOCOL_ERROR,
    HEADER,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
)
from tests.p2p.yamux_pair import (
    StuckSender,
    against_raw_peer,
    connected,
    stream_pair,
)


async def test_the_connections_of_other_peers_outlive_one_that_sends_garbage() -> None:
    async with connected() as pair, against_raw_peer() as (connection, peer):
        await peer.send(b"\xff" * 64)
        await connection.event_closed.wait()
        assert "yamux" in connection.end_reason
        ours, theirs = await stream_pair(pair)
        await ours.write(b"x")
        assert await theirs.read() == b"x"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("our own id", HEADER.pack(0, WINDOW_UPDATE, SYN, 2, 0)),
        ("an id twice", HEADER.pack(0, WINDOW_UPDATE, SYN, 1, 0) * 2),
        ("stream 0", HEADER.pack(0, DATA, 0, 0, 0)),
        ("a version", HEADER.pack(1, DATA, 0, 1, 0)),
        ("a type", HEADER.pack(0, 4, 0, 1, 0)),
        ("a frame beyond the window", HEADER.pack(0, DATA, SYN, 1, INITIAL_WINDOW + 1) + bytes(INITIAL_WINDOW + 1)),
        ("a frame beyond any window", HEADER.pack(0, DATA, SYN, 1, 2**31)),
        (
            "the window used twice",
            HEADER.pack(0, DATA, SYN, 1, INITIAL_WINDOW) + bytes(INITIAL_WINDOW) + HEADER.pack(0, DATA, 0, 1, 1) + b"x",
        ),
        ("data after FIN", HEADER.pack(0, WINDOW_UPDATE, SYN | FIN, 1, 0) + HEADER.pack(0, DATA, 0, 1, 1) + b"x"),
    ],
)
async def test_a_broken_rule_ends_the_connection(name: str, raw: bytes) -> None:
    async with against_raw_peer() as (connection, peer):
        await peer.send(raw)
        with trio.fail_after(5):
            await connection.event_closed.wait()
        assert "yamux" in connection.end_reason, name
        goodbye = await peer.next(GO_AWAY)
        assert goodbye.length == GO_AWAY_PROTOCOL_ERROR


async def test_an_unfinished_frame_beyond_the_window_is_not_waited_for() -> None:
    async with against_raw_peer() as (connection, peer):
        await peer.send((WINDOW_UPDATE, SYN, 1, 0), HEADER.pack(0, DATA, 0, 1, INITIAL_WINDOW + 1) + b"x")
        with trio.fail_after(5):
            await connection.event_closed.wait()


async def test_data_for_a_stream_that_ended_here_is_dropped() -> None:
    async with against_raw_peer() as (connection, peer):
        await peer.send((WINDOW_UPDATE, SYN, 1, 0))
        await (await connection.accept_stream()).reset()
        await peer.send(HEADER.pack(0, DATA, 0, 1, 3) + b"abc", (PING, SYN, 0, 7))
        pong = await peer.next(PING)
        while not pong.flags & ACK:
            pong = await peer.next(PING)
        assert pong.length == 7
        assert not connection.is_closed


async def test_streams_beyond_the_backlog_are_refused_one_by_one() -> None:
    async with against_raw_peer() as (connection, peer):
        for number in range(yamux.BACKLOG + 5):
            await peer.send((WINDOW_UPDATE, SYN, 1 + 2 * number, 0))
        refused = 0
        for _ in range(yamux.BACKLOG + 5):
            frame = await peer.next(WINDOW_UPDATE)
            refused += bool(frame.flags & RST)
        assert refused == 5
        assert connection.stream_count == yamux.BACKLOG


async def test_streams_beyond_the_limit_are_refused_and_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_STREAMS", 3)
    async with connected() as pair:
        opened = [await stream_pair(pair) for _ in range(3)]
        with pytest.raises(MuxedStreamError, match="3 streams"):
            await pair[0].open_stream()
        await opened[0][0].reset()
        ours, theirs = await stream_pair(pair)
        await ours.write(b"x")
        assert await theirs.read() == b"x"


async def test_a_peer_that_makes_us_answer_and_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "QUEUE_LIMIT", 10_000)
    async with against_raw_peer() as (connection, peer):
        connection._session.stream = StuckSender(connection._session.stream)  # type: ignore[attr-defined]
        with trio.fail_after(5):
            while not connection.is_closed:
                await peer.send(*[(PING, SYN, 0, 1)] * 100)
                await trio.testing.wait_all_tasks_blocked()
        assert "does not read" in connection.end_reason


async def test_unread_data_of_all_streams_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_UNREAD", 1000)
    async with against_raw_peer() as (connection, peer):
        for number in range(3):
            await peer.send(HEADER.pack(0, DATA, SYN, 1 + 2 * number, 400) + bytes(400))
        with trio.fail_after(5):
            await connection.event_closed.wait()
        assert "unread" in connection.end_reason


async def test_streams_that_actors_have_taken_may_wait_with_full_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "MAX_UNREAD", 1000)
    async with against_raw_peer() as (connection, peer):
        for number in range(3):
            await peer.send(HEADER.pack(0, DATA, SYN, 1 + 2 * number, 400) + bytes(400))
            (await connection.accept_stream()).relay()
        await trio.testing.wait_all_tasks_blocked()
        assert not connection.is_closed
        await peer.send((WINDOW_UPDATE, RST, 1, 0), (WINDOW_UPDATE, RST, 3, 0), (WINDOW_UPDATE, RST, 5, 0))
        await trio.testing.wait_all_tasks_blocked()
        assert (connection.relayed, connection.unread, connection.grown) == (0, 0, 0)


async def test_windows_grow_within_a_bound_for_all_streams_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux_stream, "MAX_GROWN", INITIAL_WINDOW)
    async with against_raw_peer() as (connection, peer):
        connection.rtt = 1e6
        for number in (1, 3):
            await peer.send(HEADER.pack(0, DATA, SYN, number, INITIAL_WINDOW) + bytes(INITIAL_WINDOW))
            stream = await connection.accept_stream()
            received = 0
            while received < INITIAL_WINDOW:
                received += len(await stream.read())
            assert connection.grown == INITIAL_WINDOW
            assert stream.grant == (2 * INITIAL_WINDOW if number == 1 else INITIAL_WINDOW)


async def test_unread_data_of_a_stream_that_was_reset_is_not_counted() -> None:
    async with against_raw_peer() as (connection, peer):
        await peer.send(HEADER.pack(0, DATA, SYN, 1, 400) + bytes(400), (WINDOW_UPDATE, RST, 1, 0))
        stream = await connection.accept_stream()
        assert connection.unread == 0
        assert len(await stream.read()) == 400
        assert connection.unread == 0
        with pytest.raises(MuxedStreamReset):
            await stream.read()


raw_frames = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 16),
        st.sampled_from([0, 1, 2, 3, 5, 2**32 - 1]),
        st.sampled_from([0, 1, 7, 300, INITIAL_WINDOW, INITIAL_WINDOW + 1, 2**32 - 1]),
    ),
    max_size=30,
)


@hypothesis.given(raw_frames, st.binary(max_size=400))
@hypothesis.settings(max_examples=60)
def test_whatever_frames_a_peer_sends_the_connection_ends_without_an_exception(sent: list, filler: bytes) -> None:
    async def main() -> None:
        async with against_raw_peer() as (connection, peer):
            ours = await connection.open_stream()
            with suppress(ConnectionClosedError):
                for frame in sent:
                    await peer.send(frame, filler[: frame[3]] if frame[0] == DATA else b"")
            await trio.testing.wait_all_tasks_blocked()
            with suppress(MuxedStreamError, MuxedStreamEOF):
                with trio.move_on_after(0):
                    await ours.read()
                await ours.write(b"x")
        assert connection.is_closed
        assert connection.unread == 0
        assert connection.stream_count == 0

    trio.run(main)
