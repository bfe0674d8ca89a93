"""Yamux over a pair of sessions in memory."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p import yamux
from edgevpn.p2p.yamux import Connection, Stream
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
    Frame,
    parse_frames_untrusted,
)


class MemorySession:
    """One end of a secured connection, in memory. `writes` is what left here, write by write."""

    def __init__(self, stream: trio.StapledStream, is_initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = is_initiator
        self.writes: list[bytes] = []

    async def receive(self) -> bytes:
        try:
            data = await self.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc)) from exc
        if not data:
            raise ConnectionClosedError("the peer closed the connection")
        return bytes(data)

    async def write(self, data: bytes) -> None:
        self.writes.append(data)
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc)) from exc

    def write_now(self, _data: bytes) -> bool:
        return False  # everything goes by the writer task

    unsent = False

    async def close(self) -> None:
        await trio.aclose_forcefully(self.stream)

    def get_remote_address(self) -> None:
        return None


PEER = ID(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


def sessions() -> tuple[MemorySession, MemorySession]:
    one, other = trio.testing.memory_stream_pair()
    return MemorySession(one, True), MemorySession(other, False)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, Connection]]:
    """Two connections that talk to each other."""
    left, right = sessions()
    async with trio.open_nursery() as nursery:
        pair = Connection(left, PEER), Connection(right, PEER)  # type: ignore[arg-type]
        for connection in pair:
            nursery.start_soon(connection.start)
        yield pair
        for connection in pair:
            await connection.close()


class RawPeer:
    """A peer that speaks frames by hand."""

    def __init__(self, session: MemorySession) -> None:
        self.session = session
        self.buffer = bytearray()
        self.frames: list[Frame] = []

    async def send(self, *frames: tuple[int, int, int, int] | bytes) -> None:
        raw = b"".join(f if isinstance(f, bytes) else HEADER.pack(0, *f) for f in frames)
        await self.session.write(raw)

    async def next(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.kind in kinds:
                    return frame
            self.buffer += await self.session.receive()
            self.frames += parse_frames_untrusted(self.buffer)


@asynccontextmanager
async def against_raw_peer(dialled: bool = False) -> AsyncIterator[tuple[Connection, RawPeer]]:
    """A connection (accepted, unless `dialled`) whose peer is played by the test."""
    left, right = sessions()
    ours, theirs = (left, right) if dialled else (right, left)
    async with trio.open_nursery() as nursery:
        connection = Connection(ours, PEER)  # type: ignore[arg-type]
        nursery.start_soon(connection.start)
        await connection.event_started.wait()
        yield connection, RawPeer(theirs)
        await theirs.close()
        await connection.close()


async def stream_pair(pair: tuple[Connection, Connection]) -> tuple[Stream, Stream]:
    return await pair[0].open_stream(), await pair[1].accept_stream()


async def read_all(stream: Stream) -> bytes:
    data = bytearray()
    try:
        while True:
            data += await stream.read()
    except MuxedStreamEOF:
        return bytes(data)


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


# --- what a peer can do wrong


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


class StuckSender(trio.abc.Stream):
    """A stream whose peer does not read: sending blocks."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self._stream = stream

    async def send_all(self, _data: bytes) -> None:  # type: ignore[override]
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


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
    monkeypatch.setattr(yamux, "MAX_GROWN", INITIAL_WINDOW)
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


# --- the life of a connection


async def test_a_silent_link_is_noticed_within_a_ping_interval(autojump_clock: trio.testing.MockClock) -> None:
    async with against_raw_peer() as (connection, _peer):
        stream = await connection.open_stream()
        start = trio.current_time()
        with pytest.raises(MuxedStreamReset, match="no sign of life"):
            await stream.read()
        assert trio.current_time() - start <= yamux.PING_INTERVAL + yamux.PING_TIMEOUT
        assert connection.is_closed


async def test_a_link_that_falls_silent_later_is_noticed_too(autojump_clock: trio.testing.MockClock) -> None:
    async with against_raw_peer() as (connection, peer):
        for _ in range(4):  # it answers for a minute
            ping = await peer.next(PING)
            await peer.send((PING, ACK, 0, ping.length))
        last = trio.current_time()
        await connection.event_closed.wait()
        assert trio.current_time() - last <= yamux.PING_INTERVAL + yamux.PING_TIMEOUT


async def test_the_pings_of_one_side_are_enough(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: Counter[bool] = Counter()
    send_frame = Connection.send_frame

    def counted(self: Connection, kind: int, flags: int, *rest: Any) -> None:
        sent[self.is_initiator] += kind == PING and bool(flags & SYN)
        send_frame(self, kind, flags, *rest)

    monkeypatch.setattr(Connection, "send_frame", counted)
    async with connected() as (left, right):
        await trio.sleep(600)
        assert not left.is_closed
        assert left.rtt == right.rtt == 0.0  # an answer came to both, at once
    assert 600 / 15 <= sent[True] <= 600 / 13 + 1
    assert 600 / 60 <= sent[False] <= 600 / 60 + 1  # for the round trip


async def test_a_link_that_answers_stays_and_its_round_trip_is_known(autojump_clock: trio.testing.MockClock) -> None:
    async with against_raw_peer() as (connection, peer):
        for _ in range(10):
            ping = await peer.next(PING)
            await trio.sleep(0.25)
            await peer.send((PING, ACK, 0, ping.length))
        await trio.testing.wait_all_tasks_blocked()
        assert not connection.is_closed
        assert connection.rtt == pytest.approx(0.25)


async def test_a_link_that_is_to_be_checked_and_is_dead_is_noticed_in_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with against_raw_peer() as (connection, peer):
        ping = await peer.next(PING)
        await peer.send((PING, ACK, 0, ping.length))
        for pause in (6.0, 11.0):  # within the wait for an answer, and between two pings
            await trio.sleep(pause)
            connection.check_now()
            ping = await peer.next(PING)
            await peer.send((PING, ACK, 0, ping.length))
        await trio.sleep(1)
        assert not connection.is_closed
        connection.check_now()
        asked = trio.current_time()
        await connection.event_closed.wait()
        assert trio.current_time() - asked <= yamux.CHECK_TIMEOUT + 0.1


async def test_a_process_that_was_stopped_does_not_take_its_peer_for_dead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with against_raw_peer() as (connection, peer):
        ping = await peer.next(PING)
        await peer.send((PING, ACK, 0, ping.length))
        await peer.next(PING)
        autojump_clock.jump(600)  # what was due meanwhile is due at once, the peer's answer comes later
        ping = await peer.next(PING)
        assert not connection.is_closed
        await peer.send((PING, ACK, 0, ping.length))
        await trio.sleep(1)
        assert not connection.is_closed
        await connection.event_closed.wait()  # now it does not answer any more
        assert "no sign of life" in connection.end_reason


async def test_a_peer_that_vanishes_is_a_reset_not_an_end_of_file() -> None:
    async with against_raw_peer() as (connection, peer):
        await peer.send(HEADER.pack(0, DATA, SYN, 1, 4) + b"data")
        stream = await connection.accept_stream()
        await peer.session.close()
        assert await stream.read() == b"data"
        with pytest.raises(MuxedStreamReset):
            await stream.read()
        with pytest.raises(MuxedConnUnavailable):
            await connection.open_stream()
        with pytest.raises(MuxedConnUnavailable):
            await connection.accept_stream()


async def test_closing_sends_what_was_written_before() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await ours.write(b"last words")
        await pair[0].close()
        assert await theirs.read() == b"last words"
        with pytest.raises(MuxedStreamReset, match="closed the connection"):
            await theirs.read()


async def test_closing_takes_bounded_time_when_the_peer_does_not_read(autojump_clock: trio.testing.MockClock) -> None:
    async with against_raw_peer() as (connection, _peer):
        connection._session.stream = StuckSender(connection._session.stream)  # type: ignore[attr-defined]
        await connection.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await connection.close()
        assert trio.current_time() - start <= 1


async def test_a_released_stream_that_the_peer_never_closes_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await theirs.write(b"bye")
        await theirs.release()
        assert await ours.read() == b"bye"
        with pytest.raises(MuxedStreamEOF):
            await ours.read()
        assert pair[1].stream_count == 1
        await trio.sleep(yamux.LINGER + 2 * yamux.PING_INTERVAL)
        assert pair[1].stream_count == 0
        with pytest.raises(MuxedStreamReset):
            await ours.write(b"x")


async def test_data_for_a_released_stream_resets_it() -> None:
    async with connected() as pair:
        ours, theirs = await stream_pair(pair)
        await theirs.release()
        await ours.write(b"x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(MuxedStreamReset):
            await ours.write(b"y")
