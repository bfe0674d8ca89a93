"""Relays, in whole hosts on loopback: who gets through them, what they carry, and where it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.p2p import relay_client, relay_service
from edgevpn.p2p.address_book import DialAddr
from edgevpn.p2p.circuit import (
    HOP,
    STOP,
    Hop,
    HopKind,
    Status,
    Stop,
    StopKind,
    read_hop_untrusted,
    read_stop_untrusted,
    write_hop,
    write_stop,
)
from edgevpn.p2p.host import Host, open_host
from edgevpn.p2p.host_stream import DialError, HostStream, StreamError
from edgevpn.p2p.relay_client import RelayClient, RelayRefusedError
from edgevpn.p2p.relay_service import RelayService
from edgevpn.p2p.relay_table import Limits, RelayTable
from edgevpn.proto.peer_key import peer_id_bytes_untrusted
from tests.p2p.test_swarm_mends import LOOPBACK, SEED_A, SEED_B, SEED_C, echo


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(15):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.02)


@dataclass
class Three:
    """A relay, one behind it (`a`, which has a reservation) and one that dials (`b`); both connected to the relay."""

    relay: Host
    a: Host
    b: Host
    table: RelayTable
    service: RelayService
    behind: RelayClient
    dialler: RelayClient
    members: set[str] = field(default_factory=set)

    @property
    def circuit(self) -> str:
        return f"{self.relay.listen_addrs()[0]}/p2p/{self.relay.peer_id}/p2p-circuit"

    async def connect(self) -> None:
        await self.b.connect(self.a.peer_id, [self.circuit], timeout=5)


@asynccontextmanager
async def three(limits: Limits | None = None, *, reserve: bool = True) -> AsyncIterator[Three]:
    async with AsyncExitStack() as stack:
        relay, a, b = [await stack.enter_async_context(open_host(seed, LOOPBACK)) for seed in (SEED_C, SEED_A, SEED_B)]
        members = {a.peer_id, b.peer_id}
        table = RelayTable(limits or Limits(), members)
        service = RelayService(relay, table)
        service.serve(True)
        made = Three(relay, a, b, table, service, RelayClient(a), RelayClient(b), members)
        for host in (a, b):
            await host.connect(relay.peer_id, relay.listen_addrs(), timeout=5)
        if reserve:
            await made.behind.reserve(relay.peer_id)
        yield made


async def circuit_stream(net: Three, protocol: str = "/echo/1") -> HostStream:
    await net.connect()
    return await net.b.new_stream(net.a.peer_id, [protocol], timeout=5)


# --- what works


async def test_a_connection_through_a_relay_is_one_with_the_peer_itself() -> None:
    async with three() as net:
        net.a.serve("/echo/1", echo)
        stream = await circuit_stream(net)
        await stream.write(b"x" * 300_000)
        assert await stream.read_exactly(300_000) == b"x" * 300_000
        assert [c.relayed for c in net.b.peers()[net.a.peer_id].connections] == [True]
        assert [c.remote for c in net.b.peers()[net.a.peer_id].connections] == [net.circuit]
        await until(lambda: net.b.peer_id in net.a.peers())
        back = net.a.peers()[net.b.peer_id].connections[0]
        assert (back.relayed, back.direction) == (True, "inbound")
        assert back.remote.endswith(f"/p2p/{net.relay.peer_id}/p2p-circuit")
        assert net.table.circuits == 1
        await net.b.disconnect(net.a.peer_id)
        await until(lambda: net.table.circuits == 0 and net.b.peer_id not in net.a.peers())


async def test_the_relay_sees_nothing_of_what_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = bytearray()
    read = HostStream.read

    async def listening(self: HostStream, n: int | None = None) -> bytes:
        data = await read(self, n)
        if self.protocol in (HOP, STOP):
            seen.extend(data)
        return data

    monkeypatch.setattr(HostStream, "read", listening)
    async with three() as net:
        net.a.serve("/echo/1", echo)
        stream = await circuit_stream(net)
        await stream.write(b"a word that is secret" * 100)
        await stream.read_exactly(2100)
    assert len(seen) > 4200
    assert b"secret" not in seen
    assert b"/echo/1" not in seen


async def test_an_address_through_a_relay_is_reached_without_knowing_the_relay_before() -> None:
    async with three() as net:
        net.a.serve("/echo/1", echo)
        await net.b.disconnect(net.relay.peer_id)
        stream = await circuit_stream(net)
        await stream.write(b"hello")
        assert await stream.read_exactly(5) == b"hello"


async def test_reservations_tell_the_addresses_that_lead_through_the_relay() -> None:
    async with three() as net:
        held = net.behind.held[net.relay.peer_id]
        assert held.addrs == (net.circuit,)
        assert 3590 < held.ttl <= 3600
        net.a.announce_circuits(held.addrs)
        assert net.a.listen_addrs()[-1] == net.circuit
        await until(lambda: net.circuit in net.relay.peers()[net.a.peer_id].listen_addrs)


async def test_a_direct_connection_takes_over_and_the_relayed_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevpn.p2p.host.OVERLAP", 0.3)
    async with three() as net:
        net.a.serve("/echo/1", echo)
        old = await circuit_stream(net)
        await net.b.connect_directly(net.a.peer_id, net.a.listen_addrs(), timeout=5)
        assert sorted(c.relayed for c in net.b.peers()[net.a.peer_id].connections) == [False, True]
        new = await net.b.new_stream(net.a.peer_id, ["/echo/1"], timeout=5)
        assert (old.relayed, new.relayed) == (True, False)
        await old.write(b"still")
        assert await old.read_exactly(5) == b"still"
        await until(lambda: [c.relayed for c in net.b.peers()[net.a.peer_id].connections] == [False])
        await until(lambda: net.table.circuits == 0)
        await new.write(b"on")
        assert await new.read_exactly(2) == b"on"


async def test_a_peer_without_a_known_address_is_looked_for_at_the_relays_that_are_there() -> None:
    async with three() as net:
        net.a.serve("/echo/1", echo)
        with pytest.raises(DialError, match="no address"):
            await net.b.new_stream(net.a.peer_id, ["/echo/1"], timeout=5)
        net.b.ways_around = lambda _: [net.relay.peer_id]
        stream = await net.b.new_stream(net.a.peer_id, ["/echo/1"], timeout=5)
        await stream.write(b"found")
        assert await stream.read_exactly(5) == b"found"


async def test_a_relay_that_does_not_know_a_peer_is_left_alone_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_client, "MAX_UNKNOWN", 2)
    async with three(reserve=False) as net:
        relay, a = net.relay.peer_id, net.a.peer_id
        assert net.dialler.may_know(relay, a)
        with pytest.raises(DialError, match="no reservation"):
            await net.connect()
        assert not net.dialler.may_know(relay, a)
        assert net.dialler.may_know(relay, "somebody else")
        for other in (relay, a):  # others take the place of the first
            net.dialler._unknown[other, other] = 1e9
        with pytest.raises(DialError, match="no reservation"):
            await net.connect()
        assert len(net.dialler._unknown) == 2


# --- who may


async def test_a_stranger_gets_neither_a_reservation_nor_a_circuit() -> None:
    async with three() as net, open_host(b"s" * 32, LOOPBACK) as stranger:
        client = RelayClient(stranger)
        await stranger.connect(net.relay.peer_id, net.relay.listen_addrs(), timeout=5)
        with pytest.raises(RelayRefusedError, match="permission denied"):
            await client.reserve(net.relay.peer_id)
        with pytest.raises(DialError, match="permission denied"):
            await stranger.connect(net.a.peer_id, [net.circuit], timeout=5)
        net.members.add(stranger.peer_id)
        assert (await client.reserve(net.relay.peer_id)).addrs


async def test_who_has_just_become_a_member_is_asked_for_at_once() -> None:
    async with three(reserve=False) as net:
        learned = 0

        async def learn() -> None:
            nonlocal learned
            learned += 1
            net.members.add(net.a.peer_id)

        net.members.clear()
        net.service._learn = learn
        await net.behind.reserve(net.relay.peer_id)
        await net.behind.reserve(net.relay.peer_id)
        assert learned == 1


async def test_a_reservation_is_for_who_asks_whatever_the_message_names() -> None:
    async with three(reserve=False) as net:
        stream = await net.b.direct_stream(net.relay.peer_id, [HOP], timeout=5)
        await stream.write(write_hop(Hop(HopKind.RESERVE, peer_id_bytes_untrusted(net.a.peer_id))))
        assert read_hop_untrusted(await stream.read_message()).status == Status.OK
        assert set(net.table._reserved) == {net.b.peer_id}


async def test_a_circuit_that_names_another_as_its_source_can_not_be_made_by_the_relay() -> None:
    """The relay lies to `a` about who comes; noise tells who it is."""
    async with three() as net:
        other = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
        stop = await net.relay.direct_stream(net.a.peer_id, [STOP], timeout=5)
        await stop.write(write_stop(Stop(StopKind.CONNECT, peer_id_bytes_untrusted(other))))
        assert read_stop_untrusted(await stop.read_message()).status == Status.OK
        await stop.write(b"\x00\x01nothing that is noise")
        await stop.close()
        with suppress(StreamError):
            while await stop.read():
                pass
        assert set(net.a.peers()) == {net.relay.peer_id}


async def test_circuits_come_only_from_relays_that_were_asked() -> None:
    async with three(reserve=False) as net:
        stop = await net.relay.direct_stream(net.a.peer_id, [STOP], timeout=5)
        await stop.write(write_stop(Stop(StopKind.CONNECT, peer_id_bytes_untrusted(net.b.peer_id))))
        assert read_stop_untrusted(await stop.read_message()).status == Status.PERMISSION_DENIED


async def test_a_peer_that_is_denied_is_not_let_in_through_a_relay() -> None:
    async with three() as net:
        await net.a.deny(net.b.peer_id)
        with pytest.raises(DialError, match="connection failed"):
            await net.connect()


async def test_no_relay_is_built_on_a_relay() -> None:
    async with three() as net:
        second = RelayService(net.a, RelayTable(Limits(), None))
        second.serve(True)
        await net.connect()
        stream = await net.b.relayed_stream(net.a.peer_id, [HOP], timeout=5)
        await stream.write(write_hop(Hop(HopKind.RESERVE)))
        assert read_hop_untrusted(await stream.read_message()).status == Status.PERMISSION_DENIED
        with pytest.raises(DialError, match="no direct connection"):
            await net.dialler.reserve(net.a.peer_id)


async def test_without_a_connection_a_reservation_is_gone() -> None:
    async with three() as net:
        await net.a.disconnect(net.relay.peer_id)
        await until(lambda: net.a.peer_id not in net.relay.peers())
        net.table.gone(net.a.peer_id)
        with pytest.raises(DialError, match="no reservation"):
            await net.connect()


# --- what it may cost


async def test_more_than_the_data_that_is_allowed_ends_the_circuit_and_no_other() -> None:
    async with three(Limits(max_data=200_000)) as net:
        net.a.serve("/echo/1", echo)
        stream = await circuit_stream(net)
        await stream.write(bytes(150_000))
        await stream.read_exactly(150_000)
        with suppress(StreamError):
            await stream.write(bytes(150_000))
        with pytest.raises(StreamError):
            await stream.read_exactly(150_000)
        await until(lambda: net.table.circuits == 0 and net.a.peer_id not in net.b.peers())
        assert set(net.relay.peers()) == {net.a.peer_id, net.b.peer_id}
        again = await circuit_stream(net)
        await again.write(b"again")
        assert await again.read_exactly(5) == b"again"


async def test_a_circuit_ends_when_its_time_is_over() -> None:
    async with three(Limits(max_duration=0.4)) as net:
        await net.connect()
        began = time.monotonic()
        await until(lambda: net.a.peer_id not in net.b.peers())
        assert 0.2 < time.monotonic() - began < 2
        await until(lambda: net.table.circuits == 0)


async def test_more_circuits_than_a_peer_may_have_are_refused() -> None:
    async with three(Limits(max_circuits=1)) as net, open_host(b"d" * 32, LOOPBACK) as more:
        RelayClient(more)
        net.members.add(more.peer_id)
        await net.connect()
        with pytest.raises(DialError, match="resource limit exceeded"):
            await more.connect(net.a.peer_id, [net.circuit], timeout=5)


async def test_an_end_that_stalls_holds_up_neither_other_circuits_nor_much_memory() -> None:
    async with three() as net, open_host(b"d" * 32, LOOPBACK) as more:
        RelayClient(more)
        net.members.add(more.peer_id)
        net.a.serve("/echo/1", echo)
        stalled = trio.Event()

        async def swallow_nothing(stream: HostStream) -> None:
            await stalled.wait()

        # `b` reads nothing of its circuit's stream: a peer that opens one and leaves it
        hop = await net.b.direct_stream(net.relay.peer_id, [HOP], timeout=5)
        net.a.serve("/stall/1", swallow_nothing)
        await hop.write(write_hop(Hop(HopKind.CONNECT, peer_id_bytes_untrusted(net.a.peer_id))))
        assert read_hop_untrusted(await hop.read_message()).status == Status.OK
        # and another fills a stream that nobody reads at `a`
        with trio.move_on_after(0.5) as scope:
            full = await circuit_stream(net, "/stall/1")
            while True:
                await full.write(bytes(65536))
        assert scope.cancelled_caught
        assert net.relay.queue_state().depth < 2 * 1024 * 1024
        await more.connect(net.a.peer_id, [net.circuit], timeout=5)
        stream = await more.new_stream(net.a.peer_id, ["/echo/1"], timeout=5)
        worst = 0.0
        for _ in range(20):
            began = time.monotonic()
            await stream.write(b"quick")
            await stream.read_exactly(5)
            worst = max(worst, time.monotonic() - began)
        assert worst < 0.25
        stalled.set()


async def test_a_peer_that_says_nothing_on_its_stream_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_service, "TIMEOUT", 0.2)
    async with three() as net:
        stream = await net.b.direct_stream(net.relay.peer_id, [HOP], timeout=5)
        with trio.fail_after(2), pytest.raises(StreamError):
            await stream.read_exactly(1)


@pytest.mark.parametrize("garbage", [b"\xff" * 10, b"\x02\x08\x07", b"\x04\x08\x01\x12\x00", b"\x02\x08\x02"])
async def test_garbage_ends_its_stream_alone(garbage: bytes) -> None:
    async with three() as net:
        for peer, protocol in ((net.relay.peer_id, HOP),):
            stream = await net.b.direct_stream(peer, [protocol], timeout=5)
            await stream.write(garbage)
            answer = read_hop_untrusted(await stream.read_message())
            assert answer.status in (Status.MALFORMED_MESSAGE, Status.UNEXPECTED_MESSAGE)
        stop = await net.relay.direct_stream(net.a.peer_id, [STOP], timeout=5)
        await stop.write(garbage)
        with suppress(StreamError):
            assert read_stop_untrusted(await stop.read_message()).status == Status.UNEXPECTED_MESSAGE
        with pytest.raises(StreamError):
            await stop.read_exactly(1)
        await net.connect()
        assert net.a.peer_id in net.b.peers()


async def test_a_target_that_does_not_take_the_circuit_is_told_to_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_service, "TIMEOUT", 0.3)
    async with three() as net:
        net.a.unserve(STOP)
        with pytest.raises(DialError, match="connection failed"):
            await net.connect()
        assert net.table.circuits == 0


async def test_limits_and_an_expiry_that_a_relay_tells_are_taken_with_care() -> None:
    """A relay that announces limits, has a clock of its own and names addresses that are none."""
    async with three(reserve=False) as net:
        mine = f"/ip4/198.51.100.7/tcp/4001/p2p/{net.relay.peer_id}"
        others = f"/ip4/198.51.100.8/tcp/4001/p2p/{net.b.peer_id}"

        async def odd(stream: HostStream) -> None:
            await stream.read_message()
            addrs = (*(Multiaddr(text).to_bytes() for text in (mine, others)), b"\xff\xff")
            answer = HopMessage(type=HopMessage.STATUS, status=int(Status.OK))  # type: ignore[arg-type]
            answer.reservation.expire = 5
            answer.reservation.addrs.extend(addrs)
            answer.limit.duration, answer.limit.data = 120, 1 << 17
            await stream.write(encode_varint_prefixed(answer.SerializeToString()))

        net.service.serve(False)
        net.relay.serve(HOP, odd)
        held = await net.behind.reserve(net.relay.peer_id)
        assert held.addrs == (net.circuit, f"{mine}/p2p-circuit")
        assert held.ttl == 5.0


async def test_an_address_heard_of_while_another_hangs_is_dialled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with three() as net, trio.open_nursery() as nursery:
        direct = net.b._swarm._dial_direct

        async def hang(peer: ID, addr: DialAddr) -> object:
            if addr.text.startswith("/ip4/192.0.2."):
                await trio.sleep_forever()
            return await direct(peer, addr)

        monkeypatch.setattr(net.b._swarm, "_dial_direct", hang)

        async def first() -> None:
            with suppress(DialError):
                await net.b.connect(net.a.peer_id, ["/ip4/192.0.2.1/tcp/1"], timeout=5)

        nursery.start_soon(first)
        await trio.sleep(0.1)
        began = time.monotonic()
        await net.connect()
        assert time.monotonic() - began < 2
        assert net.b.is_relayed(net.a.peer_id)
        nursery.cancel_scope.cancel()
    assert net.b._swarm._being_tried == {}
