"""The verbs between actors: request, subscribe with a snapshot first, pipe, descriptors."""

from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError, apply
from edgevpn.actors.mailbox import Mailbox, OpenStream, RequestError
from edgevpn.actors.topics import Feed
from edgevpn.proto.messages import (
    Body,
    Change,
    Done,
    Event,
    GossipReceived,
    Grant,
    Heartbeat,
    Member,
    OpenRepl,
    PingPeer,
    Pong,
    Snapshot,
    Stop,
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path


async def test_a_request_is_answered_and_a_refusal_carries_its_text(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("host", run_dir)

    async def pong(message: PingPeer) -> Body:
        if message.peer_id == "nobody":
            raise RequestError("unknown-peer", "no such peer")
        return Pong(0.5)

    mailbox.on_request(PingPeer, pong)
    await nursery.start(mailbox.serve)
    client = Client(run_dir, "host", caller="test")
    assert await client.call(PingPeer("x", 1.0), Pong) == Pong(0.5)
    with pytest.raises(RefusedError, match="no such peer") as caught:
        await client.call(PingPeer("nobody", 1.0), Pong)
    assert caught.value.kind == "unknown-peer"
    with pytest.raises(RefusedError, match="does not answer Stop"):
        await client.call(Stop(), Done)


async def test_a_call_waits_for_an_actor_that_is_still_starting(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("sealer", run_dir)
    answered = trio.Event()

    async def done(_: Heartbeat) -> Body:
        return Done()

    mailbox.on_request(Heartbeat, done)

    async def call() -> None:
        await Client(run_dir, "sealer", caller="test").call(Heartbeat(), Done)
        answered.set()

    nursery.start_soon(call)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not answered.is_set()
    await nursery.start(mailbox.serve)
    with trio.fail_after(5):
        await answered.wait()


async def test_a_command_does_not_wait_for_a_node_that_is_not_there(run_dir: Path) -> None:
    with pytest.raises(ActorUnavailableError, match="no node answers"):
        await Client(run_dir, "supervisor", caller="test", wait=False).call(Heartbeat(), Done)


async def test_a_subscriber_gets_a_snapshot_then_changes_that_coalesce(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("gossip", run_dir)
    state = mailbox.state("members")
    state.put("a", Member(["t"]))
    await nursery.start(mailbox.serve)
    async with Client(run_dir, "gossip", caller="test").watch("members") as updates:
        assert await updates.__anext__() == Snapshot({"a": Member(["t"])})
        for n in range(1000):
            state.put("b", Member([str(n)]))
        state.remove("a")
        assert await updates.__anext__() == Change({"b": Member(["999"])}, ["a"])


async def test_a_watcher_survives_the_death_of_the_watched_and_starts_from_a_snapshot(run_dir: Path) -> None:
    items: dict[str, Body] = {}
    client = Client(run_dir, "gossip", caller="test")
    async with client.watch("members") as updates:
        for generation in ("first", "second"):
            async with trio.open_nursery() as life:
                mailbox = Mailbox("gossip", run_dir)
                mailbox.state("members").put(generation, Member([]))
                await life.start(mailbox.serve)
                with trio.fail_after(5):
                    update = await updates.__anext__()
                assert isinstance(update, Snapshot)
                apply(items, update)
                assert list(items) == [generation]
                life.cancel_scope.cancel()


async def test_a_feed_keeps_the_newest_while_nobody_listens_and_counts_what_a_slow_reader_lost(
    run_dir: Path, nursery: trio.Nursery
) -> None:
    mailbox = Mailbox("gossip", run_dir)
    feed = mailbox.feed("messages", Feed(size=4, retain=2))
    for n in range(5):
        feed.put(GossipReceived("p", bytes([n])))
    await nursery.start(mailbox.serve)
    async with Client(run_dir, "gossip", caller="test").watch("messages") as events:
        assert await events.__anext__() == Event(GossipReceived("p", b"\3"), 0)
        assert await events.__anext__() == Event(GossipReceived("p", b"\4"), 0)
        for n in range(10):  # no checkpoint between: the subscriber cannot read
            feed.put(GossipReceived("p", bytes([n])))
        assert await events.__anext__() == Event(GossipReceived("p", b"\6"), 6)
        assert feed.dropped == 6


async def test_a_pipe_carries_bytes_both_ways_and_half_closes(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("host", run_dir)

    async def shout(_: OpenRepl, open_stream: OpenStream) -> None:
        stream = await open_stream(Done())
        async for data in stream:
            await stream.send_all(data.upper())
        await stream.send_all(b".")

    mailbox.on_pipe(OpenRepl, shout)
    await nursery.start(mailbox.serve)
    _, stream = await Client(run_dir, "host", caller="test").open_pipe(OpenRepl(), Done)
    async with stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"HELLO"
        await stream.send_eof()
        assert await stream.receive_some() == b"."
        assert await stream.receive_some() == b""


async def test_descriptors_come_with_a_reply(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("supervisor", run_dir)
    secret = os.memfd_create("secret")
    os.write(secret, b"sesame")
    mailbox.on_descriptors(Grant, lambda _: (Done(), [secret]))
    await nursery.start(mailbox.serve)
    _, descriptors = await Client(run_dir, "supervisor", caller="sealer").grant(Grant("t", "token"), Done)
    assert len(descriptors) == 1
    assert os.pread(descriptors[0], 100, 0) == b"sesame"
    os.close(descriptors[0])
    os.close(secret)


async def test_another_user_is_not_spoken_to(run_dir: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("host", run_dir, people={os.geteuid() + 1})
    await nursery.start(mailbox.serve)
    stream = await trio.open_unix_socket(os.fspath(mailbox.path))
    async with stream:
        assert await stream.receive_some() == b""
    assert mailbox.refused == 1


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"\0\0\0\5abc"])
async def test_garbage_ends_its_own_connection_only(run_dir: Path, nursery: trio.Nursery, garbage: bytes) -> None:
    mailbox = Mailbox("host", run_dir)

    async def done(_: Heartbeat) -> Body:
        return Done()

    mailbox.on_request(Heartbeat, done)
    await nursery.start(mailbox.serve)
    async with await trio.open_unix_socket(os.fspath(mailbox.path)) as raw:
        await raw.send_all(garbage)
        await raw.send_eof()
        while await raw.receive_some():
            pass
    assert await Client(run_dir, "host", caller="test").call(Heartbeat(), Done) == Done()
    assert mailbox.refused == 1


async def test_the_socket_is_gone_after_the_actor(run_dir: Path) -> None:
    mailbox = Mailbox("host", run_dir)
    async with trio.open_nursery() as nursery:
        await nursery.start(mailbox.serve)
        assert stat.S_ISSOCK(mailbox.path.stat().st_mode)
        nursery.cancel_scope.cancel()
    assert not mailbox.path.exists()


@pytest.fixture
def no_descriptors() -> Iterator[Callable[[bool], None]]:
    """Switches the process's supply of descriptors off and on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def switch(off: bool) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 if off else soft, hard))

    yield switch
    switch(False)


async def test_a_mailbox_without_descriptors_goes_on_when_there_are_some_again(
    run_dir: Path, nursery: trio.Nursery, no_descriptors: Callable[[bool], None], autojump_clock: trio.testing.MockClock
) -> None:
    mailbox = Mailbox("host", run_dir, give_up_after=3.0)
    mailbox.on_request(Heartbeat, _done)
    await nursery.start(mailbox.serve)
    for _ in range(3):  # each time for a little less than it has patience for
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(os.fspath(mailbox.path))
            no_descriptors(True)
            await trio.sleep(2.5)
            no_descriptors(False)
            assert await Client(run_dir, "host", caller="test").call(Heartbeat(), Done) == Done()


async def test_a_mailbox_that_has_had_no_descriptor_for_long_ends(
    run_dir: Path, no_descriptors: Callable[[bool], None], autojump_clock: trio.testing.MockClock
) -> None:
    patient, other = Mailbox("supervisor", run_dir), Mailbox("host", run_dir, give_up_after=3.0)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        async with trio.open_nursery() as nursery:
            await nursery.start(patient.serve)
            one.connect(os.fspath(patient.path))
            no_descriptors(True)
            await trio.sleep(60)
            no_descriptors(False)
            nursery.cancel_scope.cancel()
        began = trio.current_time()
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
            async with trio.open_nursery() as nursery:
                await nursery.start(other.serve)
                two.connect(os.fspath(other.path))
                no_descriptors(True)
                await trio.sleep_forever()
    no_descriptors(False)
    assert caught.group_contains(OSError, match="no descriptor was free for a client in 3 s")
    assert 3 <= trio.current_time() - began < 4


async def _done(_: Heartbeat) -> Body:
    return Done()
