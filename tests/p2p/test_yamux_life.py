"""How a yamux connection is kept alive, and how it ends."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamReset,
)

from edgevpn.p2p import yamux
from edgevpn.p2p.yamux import Connection
from edgevpn.p2p.yamux_frames import (
    ACK,
    DATA,
    HEADER,
    PING,
    SYN,
)
from tests.p2p.yamux_pair import (
    StuckSender,
    against_raw_peer,
    connected,
    stream_pair,
)


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
