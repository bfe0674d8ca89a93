"""Taps: what passes an actor's channels, seen from inside."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from edgevpn.actors.client import Client
from edgevpn.actors.mailbox import Mailbox, OpenStream
from edgevpn.actors.tap import Tap, Tapped, Taps
from edgevpn.actors.topics import Feed
from edgevpn.proto.messages import (
    Body,
    Done,
    GossipReceived,
    Grant,
    Heartbeat,
    Member,
    PingPeer,
    Pong,
    Request,
    Seal,
)


async def read(tap: Tap, count: int) -> list[Tapped]:
    with trio.fail_after(5):
        return [await anext(tap) for _ in range(count)]


async def test_requests_replies_subscriptions_and_pipes_are_seen_with_peer_and_size(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    mailbox = Mailbox("host", tmp_path)

    async def pong(_: PingPeer) -> Body:
        return Pong(0.5)

    async def pipe(_: Heartbeat, open_stream: OpenStream) -> None:
        await open_stream(Done())

    mailbox.on_request(PingPeer, pong)
    mailbox.on_pipe(Heartbeat, pipe)
    state = mailbox.state("members")
    mailbox.feed("messages", Feed(size=4))
    await nursery.start(mailbox.serve)
    tap = Tap(mailbox.taps)
    tap.open()
    client = Client(tmp_path, "host", caller="gossip")
    await client.call(PingPeer("peer", 1.0), Pong)
    async with client.watch("members") as updates:
        await anext(updates)
        state.put("one", Member(["t"]))
        await anext(updates)
    _, stream = await client.open_pipe(Heartbeat(), Done)
    await stream.aclose()
    seen = await read(tap, 7)
    assert [(one.outgoing, one.verb, one.type, one.short) for one in seen] == [
        (False, "Request", "PingPeer", "peer_id='peer', timeout_s=1.0"),
        (True, "Reply", "Pong", "rtt_s=0.5"),
        (False, "Subscribe", "members", ""),
        (True, "Snapshot", "members", "0 items"),
        (True, "Change", "members", "1 put: one"),
        (False, "OpenPipe", "Heartbeat", ""),
        (True, "Reply", "Done", ""),
    ]
    assert {one.peer for one in seen} == {"gossip"}
    assert all(10 < one.size < 200 for one in seen)


async def test_what_an_actor_asks_of_others_is_seen_too(tmp_path: Path, nursery: trio.Nursery) -> None:
    mailbox = Mailbox("gossip", tmp_path)
    feed = mailbox.feed("messages", Feed(size=4))
    await nursery.start(mailbox.serve)
    taps = Taps()
    tap = Tap(taps)
    tap.open()
    async with Client(tmp_path, "gossip", caller="ledger", taps=taps).watch("messages") as events:
        nursery.start_soon(anext, events)
        first = (await read(tap, 1))[0]
        assert (first.outgoing, first.peer, first.verb, first.type) == (True, "gossip", "Subscribe", "messages")
        await trio.testing.wait_all_tasks_blocked(0.01)
        feed.put(GossipReceived("12D3", b"x" * 500))
        event = (await read(tap, 1))[0]
        assert (event.outgoing, event.verb, event.type) == (False, "Event", "GossipReceived")
        assert event.short == "messages: from_peer='12D3', data=<500 bytes>, author=''"
        assert event.size > 500


def test_a_tap_is_bounded_and_says_what_it_lost() -> None:
    async def main() -> None:
        taps = Taps()
        tap = Tap(taps, size=3)
        tap.open()
        for _ in range(10):
            taps.show(Request(Heartbeat()), 1, "x", False, "")
        seen = await read(tap, 3)
        assert [one.lost for one in seen] == [7, 0, 0]
        assert str(seen[0]).startswith("(... 7 were lost here)\n")
        assert tap.lost == 7

    trio.run(main)


def test_a_ticket_does_not_show_in_a_tap() -> None:
    async def main() -> None:
        taps = Taps()
        tap = Tap(taps)
        tap.open()
        taps.show(Request(Grant("secret-ticket", "token")), 1, "x", False, "")
        assert (await read(tap, 1))[0].short == "ticket=<secret>, what='token'"

    trio.run(main)


async def test_a_tap_chooses_by_type_verb_and_peer() -> None:
    taps = Taps()
    by_type, by_verb, by_peer = Tap(taps, Heartbeat), Tap(taps, "Request"), Tap(taps, peer="a")
    for tap in (by_type, by_verb, by_peer):
        tap.open()
    taps.show(Request(Seal(b"")), 1, "a", False, "")
    taps.show(Request(Heartbeat()), 1, "b", False, "")
    assert [one.type for one in await read(by_type, 1)] == ["Heartbeat"]
    assert [one.type for one in await read(by_verb, 2)] == ["Seal", "Heartbeat"]
    assert [one.peer for one in await read(by_peer, 1)] == ["a"]
    for tap in (by_type, by_verb, by_peer):
        tap.close()
    assert not taps.watchers


async def test_a_reader_of_a_full_tap_lets_others_run() -> None:
    taps = Taps()
    tap = Tap(taps, size=1000)
    tap.open()
    for _ in range(1000):
        taps.show(Request(Heartbeat()), 1, "a", False, "")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await read(tap, 1000)
        nursery.cancel_scope.cancel()
    assert turns > 500
