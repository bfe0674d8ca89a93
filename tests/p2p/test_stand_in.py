"""The stand-in host, over a network in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from edgevpn.p2p.host_service import StreamRefusedError
from edgevpn.p2p.memory_host import HOLD, MemoryNetwork
from edgevpn.p2p.stand_in import StandIn, StandInStream, is_peer_id, parse_multiaddrs_untrusted
from tests.p2p.memory_nodes import Follower, add_hosts, connect_all, seed

from libp2p.custom_types import TProtocol  # isort: skip  # after edgevpn.p2p
from libp2p.network.exceptions import SwarmException  # isort: skip
from libp2p.network.stream.exceptions import StreamEOF, StreamReset  # isort: skip
from libp2p.peer.id import ID  # isort: skip

KAD = TProtocol("/ipfs/kad/1.0.0")


async def test_peers_connected_before_and_after_are_told(nursery, autojump_clock):
    one, two, three = add_hosts(MemoryNetwork(), 3)
    await connect_all(one, two)
    follower = Follower()
    stand_in = StandIn(one, seed(1))
    stand_in.followers.append(follower)
    nursery.start_soon(stand_in.run)
    await trio.sleep(1)
    await connect_all(one, three)
    await trio.sleep(1)
    one.network.drop(one, two)
    await trio.sleep(1)
    assert follower.events == [
        ("identified", two.peer_id),
        ("up", three.peer_id),
        ("identified", three.peer_id),
        ("down", two.peer_id),
    ]
    assert [peer.to_base58() for peer in stand_in.get_connected_peers()] == [three.peer_id]
    assert stand_in.get_network().get_connections(ID.from_base58(two.peer_id)) == []


async def test_when_the_host_restarts_peers_go_down_and_come_back_and_streams_are_served_again(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)
    await connect_all(one, two)
    follower = Follower()
    stand_in = StandIn(one, seed(1))
    stand_in.followers.append(follower)
    got: list[bytes] = []

    async def handler(stream: StandInStream) -> None:
        got.append(await stream.read())

    stand_in.set_stream_handler(KAD, handler)
    nursery.start_soon(stand_in.run)
    await trio.sleep(1)
    one.crash()
    await trio.sleep(5)
    assert follower.events == [("identified", two.peer_id), ("down", two.peer_id)]
    assert stand_in.peers == {}
    one.restart()
    await trio.sleep(1)
    await connect_all(one, two)
    await trio.sleep(1)
    assert follower.events[2:] == [("up", two.peer_id), ("identified", two.peer_id)]
    _, stream = await two.dial(one.peer_id, [KAD])
    await stream.send_all(b"again")
    await trio.sleep(1)
    assert got == [b"again"]
    assert stand_in.counters["host_lost"] == 1


async def test_a_host_that_refuses_for_a_while_is_asked_again(nursery, autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    real, tries = one.watch_peers, []

    def watch_peers():
        tries.append(trio.current_time())
        if len(tries) < 4:
            raise StreamRefusedError("the host actor is not there now")
        return real()

    one.watch_peers = watch_peers  # type: ignore[method-assign]
    stand_in = StandIn(one, seed(1))
    nursery.start_soon(stand_in.run)
    await trio.sleep(10)
    assert len(tries) == 4


async def test_a_stream_that_came_while_nobody_served_is_handed_over(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)
    await connect_all(one, two)
    _, stream = await two.dial(one.peer_id, [KAD])
    await stream.send_all(b"early")
    await trio.sleep(HOLD / 2)
    got: list[bytes] = []

    async def handler(inbound: StandInStream) -> None:
        got.append(await inbound.read())

    stand_in = StandIn(one, seed(1))
    stand_in.set_stream_handler(KAD, handler)
    nursery.start_soon(stand_in.run)
    await trio.sleep(1)
    assert got == [b"early"]


async def test_a_handler_that_raises_ends_its_stream_and_nothing_else(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)
    await connect_all(one, two)

    async def handler(stream: StandInStream) -> None:
        if await stream.read() == b"bad":
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "as py-libp2p does")
        await stream.write(b"good")

    stand_in = StandIn(one, seed(1))
    stand_in.set_stream_handler(KAD, handler)
    nursery.start_soon(stand_in.run)
    await trio.sleep(1)
    _, bad = await two.dial(one.peer_id, [KAD])
    await bad.send_all(b"bad")
    assert await bad.receive_some() == b""
    _, good = await two.dial(one.peer_id, [KAD])
    await good.send_all(b"fine")
    assert await good.receive_some() == b"good"
    assert stand_in.counters["handlers_failed"] == 1


async def test_one_peer_gets_32_streams_and_the_next_is_refused(nursery, autojump_clock):
    one, two, three = add_hosts(MemoryNetwork(), 3)
    await connect_all(one, two, three)
    running = 0

    async def handler(stream: StandInStream) -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    stand_in = StandIn(one, seed(1))
    stand_in.set_stream_handler(KAD, handler)
    nursery.start_soon(stand_in.run)
    streams = [(await two.dial(one.peer_id, [KAD]))[1] for _ in range(33)]
    await trio.sleep(1)
    assert running == 32
    assert await streams[32].receive_some() == b""
    await three.dial(one.peer_id, [KAD])
    await trio.sleep(1)
    assert running == 33
    assert stand_in.counters["inbound_refused"] == 1


async def test_a_stream_reads_single_bytes_and_tells_its_end_from_a_break(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)
    stand_in = StandIn(one, seed(1))
    ours, theirs = trio.testing.memory_stream_pair()
    stream = StandInStream(stand_in, ours, ID.from_base58(two.peer_id), KAD)
    await theirs.send_all(b"abcdef")
    assert [await stream.read(1), await stream.read(2), await stream.read(100)] == [b"a", b"bc", b"def"]
    await theirs.send_eof()
    with pytest.raises(StreamEOF):
        await stream.read(1)
    await theirs.aclose()
    with pytest.raises(StreamReset):
        await stream.write(b"x")
    await stream.reset()
    with pytest.raises(StreamReset):
        await stream.read(1)


async def test_two_tasks_may_write_to_a_stream_at_once(autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)

    class SlowPipe(trio.abc.HalfCloseableStream):
        """Refuses two writers, as a socket does."""

        def __init__(self) -> None:
            self.sent: list[bytes] = []
            self.busy = False

        async def send_all(self, data: bytes) -> None:
            if self.busy:
                raise trio.BusyResourceError("another task is sending")
            self.busy = True
            await trio.sleep(1)
            self.busy = False
            self.sent.append(data)

        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def send_eof(self) -> None: ...
        async def aclose(self) -> None: ...

    pipe = SlowPipe()
    stream = StandInStream(StandIn(one, seed(1)), pipe, ID.from_base58(two.peer_id), KAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write, b"one")
        nursery.start_soon(stream.write, b"two")
    assert sorted(pipe.sent) == [b"one", b"two"]


async def test_closing_a_stream_loses_nothing_and_leaves_nothing_open(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(), 2)
    await connect_all(one, two)
    stand_in = StandIn(one, seed(1))
    nursery.start_soon(stand_in.run)
    await trio.sleep(1)
    async with two.serve([KAD]) as inbound:
        stream = await stand_in.new_stream(ID.from_base58(two.peer_id), [KAD])
        await stream.write(b"the last word")
        with trio.CancelScope() as scope:
            scope.cancel()  # py-libp2p closes in `finally`, also when it is cancelled
            await stream.close()
        theirs = (await anext(inbound)).stream
        assert await theirs.receive_some() == b"the last word"
        assert await theirs.receive_some() == b""
        await theirs.send_all(b"an answer nobody waits for")
        await trio.sleep(20)  # it never closes its direction
        with pytest.raises(trio.BrokenResourceError):
            await theirs.send_all(b"more")


async def test_a_known_peer_is_connected_for_a_stream_and_an_unknown_one_is_not(nursery, autojump_clock):
    one, two, three = add_hosts(MemoryNetwork(), 3)
    stand_in = StandIn(one, seed(1))
    nursery.start_soon(stand_in.run)
    known, unknown = ID.from_base58(two.peer_id), ID.from_base58(three.peer_id)
    stand_in.get_peerstore().add_addrs(known, parse_multiaddrs_untrusted([two.address]), 60)
    stream = await stand_in.new_stream(known, [KAD])
    assert stream.get_protocol() == KAD
    for nobody in (unknown, ID(b""), ID(b"\xff" * 40)):
        with pytest.raises(SwarmException):
            await stand_in.new_stream(nobody, [KAD])
    assert list(one.links) == [two.peer_id]


async def test_a_dial_that_hangs_is_given_up_after_three_seconds(nursery, autojump_clock):
    one, two = add_hosts(MemoryNetwork(latency=100), 2)
    stand_in = StandIn(one, seed(1))
    nursery.start_soon(stand_in.run)
    peer = ID.from_base58(two.peer_id)
    stand_in.get_peerstore().add_addrs(peer, parse_multiaddrs_untrusted([two.address]), 60)
    began = trio.current_time()
    with pytest.raises(SwarmException):
        await stand_in.new_stream(peer, [KAD])
    assert trio.current_time() - began == pytest.approx(3)


def test_addresses_that_do_not_parse_are_left_out():
    assert [str(a) for a in parse_multiaddrs_untrusted(["/ip4/1.2.3.4/tcp/1", "", "/ip4/x", "nonsense"])] == [
        "/ip4/1.2.3.4/tcp/1"
    ]
    assert len(parse_multiaddrs_untrusted([f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 100)])) == 16


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_for_an_address_is_survived(texts):
    parse_multiaddrs_untrusted(texts)


def test_a_peer_id_is_a_multihash():
    assert is_peer_id(ID.from_base58(add_hosts(MemoryNetwork(), 1)[0].peer_id).to_bytes())
    assert is_peer_id(b"\x12\x20" + bytes(32))
    assert not any(is_peer_id(data) for data in (b"", b"\0\0", b"\x12\x20", b"\x12\x20" + bytes(31), bytes(70)))
