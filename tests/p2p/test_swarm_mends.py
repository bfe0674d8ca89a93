"""Each mend of libp2p's swarm and host: with it, and (where it can be shown in one process) without it."""

from __future__ import annotations

import os
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from edgevpn.errors import SetupError
from edgevpn.p2p import swarm_mends
from edgevpn.p2p.host import Host, open_host
from edgevpn.p2p.host_stream import DialError, HostStream, StreamError
from edgevpn.p2p.swarm_mends import Gate, Handshakes, parse_networks
from edgevpn.p2p.yamux_stream import Stream

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
SEED_A, SEED_B, SEED_C = b"a" * 32, b"b" * 32, b"c" * 32
NOBODY = str(ID.from_pubkey(create_new_key_pair(b"z" * 32).public_key))


@asynccontextmanager
async def hosts(*, max_connections: int = 400) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts, not connected."""
    async with (
        open_host(SEED_A, LOOPBACK, max_connections=max_connections) as one,
        open_host(SEED_B, LOOPBACK) as other,
    ):
        yield one, other


@asynccontextmanager
async def stock_host(seed: bytes, max_connections: int = 300) -> AsyncIterator[BasicHost]:
    """libp2p's own host, as it makes it itself."""
    pair = create_new_key_pair(seed)
    peer_id = ID.from_pubkey(pair.public_key)
    store = PeerStore()
    store.add_key_pair(peer_id, pair)
    noise = StockNoise(pair, noise_privkey=new_x25519().private_key)
    upgrader = TransportUpgrader(
        OrderedDict({TProtocol("/noise"): noise}), OrderedDict({TProtocol("/yamux/1.0.0"): Yamux})
    )
    config = ConnectionConfig(max_connections=max_connections, min_connections=0, low_watermark=0, high_watermark=1)
    retry = RetryConfig(max_retries=0)
    host = BasicHost(Swarm(peer_id, store, upgrader, [TCP()], connection_config=config, retry_config=retry))
    async with host.run([Multiaddr(LOOPBACK[0])]):
        yield host
        await host.close()


def addr_of(host: Host) -> tuple[str, int]:
    _, _, ip, _, port = host.bound_addrs()[0].split("/")
    return ip, int(port)


async def echo(stream: HostStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def check_alive(host: Host, other: Host) -> None:
    """`other` can still connect to `host` and use it."""
    host.serve("/echo/1", echo)
    await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
    stream = await other.new_stream(host.peer_id, ["/echo/1"], timeout=5)
    await stream.write(b"alive")
    assert await stream.read_exactly(5) == b"alive"
    await stream.reset()


async def raw_stream(host: Host, other: Host) -> Stream:
    """A stream of a hostile peer to `host`: no negotiation done."""
    await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
    conn = other._swarm.best_connection(ID.from_string(host.peer_id))
    assert conn is not None
    stream = await conn.muxed_conn.open_stream()
    assert isinstance(stream, Stream)
    return stream


# --- one peer must not end the process

GARBAGE = [b"\x03\xff\xfe\n", b"\xff\xff\xff\xff\xff", b"\x00", b"\x13/multistream/1.0.0\n\x03\xff\xfe\n", b"\x05nope"]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_instead_of_a_negotiation_ends_the_stream_alone(garbage: bytes) -> None:
    async with hosts() as (host, other):
        stream = await raw_stream(host, other)
        await stream.write(garbage)
        await stream.close()
        with trio.fail_after(5), pytest.raises(BaseLibp2pError):  # noqa: PT012 - some bytes may come first
            while True:
                await stream.read()
        await check_alive(host, other)
        assert len(host.peers()[other.peer_id].connections) == 1


async def test_garbage_instead_of_a_negotiation_kills_the_stock_host() -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012 - a nest of groups, from anywhere within
        async with stock_host(SEED_A) as host, open_host(SEED_B, LOOPBACK) as other:
            addrs = [str(a) for a in host.get_addrs()]
            await other.connect(str(host.get_id()), addrs, timeout=5)
            stream = await other._swarm.best_connection(host.get_id()).muxed_conn.open_stream()  # type: ignore[union-attr]
            await stream.write(b"\x03\xff\xfe\n")
            await trio.sleep(5)
    assert "UnicodeDecodeError" in repr(caught.value)


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00", b"\xff" * 200, b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(70000)]
)
async def test_garbage_instead_of_a_handshake_ends_the_connection_alone(garbage: bytes) -> None:
    async with hosts() as (host, other):
        async with await trio.open_tcp_stream(*addr_of(host)) as raw:
            with trio.fail_after(5), suppress(trio.BrokenResourceError):  # the host may be quicker to end it
                await raw.send_all(garbage)
                await raw.send_eof()
                while await raw.receive_some():
                    pass
        await check_alive(host, other)
        assert len(host._swarm.handshakes) == 0


async def test_garbage_after_the_handshake_ends_the_connection_alone() -> None:
    async with hosts() as (host, other):
        stream = await raw_stream(host, other)
        stream.muxed_conn._queue.append(b"\xff" * 100)
        stream.muxed_conn._queue_filled.unpark()
        await stream.muxed_conn.event_closed.wait()
        await check_alive(host, other)


async def test_an_exception_of_a_handler_resets_its_stream_alone() -> None:
    async with hosts() as (host, other):

        async def broken(stream: HostStream) -> None:
            raise ValueError(await stream.read())

        host.serve("/broken/1", broken)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        stream = await other.new_stream(host.peer_id, ["/broken/1"], timeout=5)
        await stream.write(b"boom")
        with pytest.raises(StreamError):
            await stream.read()
        await check_alive(host, other)


async def test_an_exception_of_a_handler_kills_the_stock_host() -> None:
    async def broken(stream: INetStream) -> None:
        raise ValueError("boom")

    with pytest.raises(BaseException) as caught:  # noqa: PT011, PT012 - a nest of groups, from anywhere within
        async with stock_host(SEED_A) as host, open_host(SEED_B, LOOPBACK) as other:
            host.set_stream_handler(TProtocol("/broken/1"), broken)
            await other.connect(str(host.get_id()), [str(a) for a in host.get_addrs()], timeout=5)
            await other.new_stream(str(host.get_id()), ["/broken/1"], timeout=5)
            await trio.sleep(5)
    assert "boom" in repr(caught.value)


# --- slots and half-open connections


async def connect_and_leave(connect: Callable[[Host], Awaitable[None]], times: int) -> int:
    """How many of several short connections, one after the other, come about."""
    worked = 0
    for _ in range(times):
        async with open_host(SEED_B, LOOPBACK) as other:
            try:
                await connect(other)
            except DialError:
                continue
            worked += 1
        await trio.sleep(0.05)
    return worked


async def test_a_slot_comes_back_when_its_connection_ends() -> None:
    async with open_host(SEED_A, LOOPBACK, max_connections=2) as host:

        async def connect(other: Host) -> None:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=2)

        assert await connect_and_leave(connect, 6) == 6


async def test_nothing_of_a_connection_stays_when_it_ended() -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        nursery = host._swarm.background_nursery
        assert nursery is not None
        await trio.testing.wait_all_tasks_blocked()
        tasks, descriptors = len(nursery.child_tasks), len(os.listdir("/proc/self/fd"))

        async def connect(other: Host) -> None:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=2)
            await other.ping(host.peer_id, timeout=2)

        assert await connect_and_leave(connect, 5) == 5
        await trio.sleep(0.2)
        assert len(nursery.child_tasks) == tasks
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert not host._swarm.connections
        assert host._swarm.peerstore.peer_ids() == [ID.from_string(host.peer_id)]


async def test_the_stock_host_never_gives_a_slot_back() -> None:
    async with stock_host(SEED_A, max_connections=2) as host:

        async def connect(other: Host) -> None:
            await other.connect(str(host.get_id()), [str(a) for a in host.get_addrs()], timeout=2)

        assert await connect_and_leave(connect, 4) == 2


async def test_five_hundred_half_open_connections_keep_nobody_out() -> None:
    async with hosts() as (host, other):
        silent: list[trio.SocketStream] = []
        try:
            for _ in range(500):
                silent.append(await trio.open_tcp_stream(*addr_of(host)))
            await check_alive(host, other)
            assert len(host._swarm.handshakes) <= swarm_mends.MAX_HANDSHAKES_PER_IP
        finally:
            for stream in silent:
                await trio.aclose_forcefully(stream)


async def test_a_half_open_connection_is_dropped_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_mends, "UPGRADE_TIMEOUT", 0.1)
    async with open_host(SEED_A, LOOPBACK) as host:
        raw = await trio.open_tcp_stream(*addr_of(host))
        with trio.fail_after(5):
            while await raw.receive_some():
                pass
        await raw.aclose()


async def test_handshakes_make_room_at_the_busiest_address(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(swarm_mends, "MAX_HANDSHAKES", 4)
    monkeypatch.setattr(swarm_mends, "MAX_HANDSHAKES_PER_IP", 3)
    table, ended = Handshakes(), []

    async def shake(ip: str, number: int) -> None:
        with table.admit(ip, 10 + number):
            await trio.sleep_forever()
        ended.append((ip, number))

    async with trio.open_nursery() as nursery:
        for ip, number in [("x", 0), ("x", 1), ("y", 2), ("x", 3), ("x", 4), ("z", 5)]:
            nursery.start_soon(shake, ip, number)
            await trio.testing.wait_all_tasks_blocked()
        assert ended == [("x", 0), ("x", 1)]
        assert len(table) == 4
    assert [number for _, number in ended] == [0, 1, 2, 3, 4, 5]
    assert len(table) == 0


async def test_a_full_host_refuses_in_both_directions() -> None:
    async with hosts(max_connections=1) as (host, other), open_host(SEED_C, LOOPBACK) as third:
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        with pytest.raises(DialError):
            await third.connect(host.peer_id, host.listen_addrs(), timeout=5)
        with pytest.raises(DialError, match="all 1 connections are in use"):
            await host.connect(third.peer_id, third.listen_addrs(), timeout=5)
        await host.disconnect(other.peer_id)
        await third.connect(host.peer_id, host.listen_addrs(), timeout=5)


async def test_one_address_gets_no_more_than_half_of_the_connections() -> None:
    third_and_fourth = open_host(SEED_C, LOOPBACK), open_host(b"d" * 32, LOOPBACK)
    async with hosts(max_connections=4) as (host, other), third_and_fourth[0] as third, third_and_fourth[1] as fourth:
        for peer in (other, third):
            await peer.connect(host.peer_id, host.listen_addrs(), timeout=5)
        with pytest.raises(DialError):
            await fourth.connect(host.peer_id, host.listen_addrs(), timeout=5)
        await host.connect(fourth.peer_id, fourth.listen_addrs(), timeout=5)


# --- dialling


class Dead:
    """A TCP port that takes connections and says nothing."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.addr = f"/ip4/127.0.0.1/tcp/{self.socket.getsockname()[1]}"

    def __enter__(self) -> str:
        return self.addr

    def __exit__(self, *_: object) -> None:
        self.socket.close()


async def test_an_address_that_hangs_does_not_hold_up_the_next() -> None:
    with Dead() as dead, Dead() as dead_too:
        async with hosts() as (host, other):
            await other.connect(host.peer_id, [dead, dead_too, *host.listen_addrs()], timeout=5)
            assert other.dialable(host.peer_id)[0] == host.listen_addrs()[0]


async def test_the_stock_host_dials_only_the_first_address() -> None:
    with Dead() as dead:
        async with open_host(SEED_A, LOOPBACK) as host, stock_host(SEED_B) as other:
            addrs = [Multiaddr(dead), *map(Multiaddr, host.listen_addrs())]
            with trio.move_on_after(2) as scope:
                await other.connect(PeerInfo(ID.from_string(host.peer_id), addrs))
            assert scope.cancelled_caught


async def test_a_dial_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_mends, "DIAL_TIMEOUT", 0.2)
    with Dead() as dead:
        async with open_host(SEED_A, LOOPBACK) as host:
            with trio.fail_after(5), pytest.raises(DialError, match="timed out"):
                await host.connect(NOBODY, [dead], timeout=30)


async def test_a_peer_that_failed_may_be_dialled_again_at_once() -> None:
    async with hosts() as (host, other):
        closed = host.listen_addrs()[0].rsplit("/", 1)[0] + "/1"
        with pytest.raises(DialError, match="connection refused"):
            await other.connect(host.peer_id, [closed], timeout=5)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)


async def test_the_stock_host_bans_a_peer_that_failed() -> None:
    async with open_host(SEED_A, LOOPBACK) as host, stock_host(SEED_B) as other:
        peer = ID.from_string(host.peer_id)
        with pytest.raises(BaseLibp2pError):
            await other.connect(PeerInfo(peer, [Multiaddr("/ip4/127.0.0.1/tcp/1")]))
        other.get_peerstore().clear_addrs(peer)
        with pytest.raises(BaseLibp2pError, match="negative cache"):
            await other.connect(PeerInfo(peer, list(map(Multiaddr, host.listen_addrs()))))


async def test_another_peer_at_the_address_is_an_error_that_says_so() -> None:
    async with hosts() as (host, other):
        with pytest.raises(DialError, match="another peer answered"):
            await other.connect(NOBODY, host.listen_addrs(), timeout=5)
        assert host.peers() == {}


async def test_an_address_through_a_relay_is_dialled_by_the_relay_client_after_the_direct_ones() -> None:
    async with hosts() as (host, other):
        tried: list[str] = []

        async def through_relay(addr: Multiaddr) -> None:
            tried.append(str(addr))
            raise OSError("the relay is full")

        other._swarm.dial_circuit = through_relay  # type: ignore[assignment]
        circuit = f"/ip4/192.0.2.1/tcp/1/p2p/{host.peer_id}/p2p-circuit"
        with pytest.raises(DialError, match="connection refused, the relay is full"):
            await other.connect(NOBODY, [circuit, "/ip4/127.0.0.1/tcp/1"], timeout=5)
        assert tried == [f"{circuit}/p2p/{NOBODY}"]


async def test_simultaneous_dials_keep_both_connections_and_both_work() -> None:
    async with hosts() as (one, other):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: one.connect(other.peer_id, other.listen_addrs(), timeout=5))
            nursery.start_soon(lambda: other.connect(one.peer_id, one.listen_addrs(), timeout=5))
        await trio.sleep(0.3)
        counts = len(one.peers()[other.peer_id].connections), len(other.peers()[one.peer_id].connections)
        assert counts[0] == counts[1] >= 1
        await one.ping(other.peer_id, timeout=5)
        await other.ping(one.peer_id, timeout=5)


async def test_calls_for_the_same_peer_share_one_dial() -> None:
    async with hosts() as (host, other):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lambda: other.connect(host.peer_id, host.listen_addrs(), timeout=5))
        assert len(other.peers()[host.peer_id].connections) == 1


# --- ports


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        ip, port = addr_of(host)
        with pytest.raises(SetupError, match=f"port {port} is in use on {ip}"):
            async with open_host(SEED_B, [f"/ip4/{ip}/tcp/{port}"]):
                pass


async def test_a_stock_host_takes_the_port_of_another_without_a_word() -> None:
    async with stock_host(SEED_A) as one, stock_host(SEED_B) as other:
        assert await other.get_network().listen(*one.get_transport_addrs())


async def test_a_port_is_free_again_at_once_after_the_host_left() -> None:
    listen = LOOPBACK
    for _ in range(3):
        async with open_host(SEED_A, listen) as host, open_host(SEED_B, LOOPBACK) as other:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            listen = list(host.bound_addrs())


async def test_hole_punching_may_dial_from_the_listening_port() -> None:
    async with hosts() as (host, other):
        raw = await host._swarm._tcp.dial_with_source(Multiaddr(other.bound_addrs()[0]), addr_of(host))
        await raw.close()


# --- who may connect


def test_a_gate_goes_by_network_and_by_peer() -> None:
    gate = Gate(parse_networks(["10.1.0.5/24"]), (), {"bad"}, set())
    assert not gate.allows_ip("10.1.0.200")
    assert not gate.allows_ip("::ffff:10.1.0.200")
    assert gate.allows_ip("10.1.1.1")
    assert not gate.allows_peer("bad")
    assert gate.allows_peer("good")
    only = Gate((), parse_networks(["192.0.2.0/24"]), {"bad"}, {"good", "bad"})
    assert only.allows_ip("192.0.2.1")
    assert not only.allows_ip("198.51.100.1")
    assert only.allows_peer("good")
    assert not only.allows_peer("bad")
    assert not only.allows_peer("other")


def test_a_network_that_is_none_is_a_setup_error() -> None:
    with pytest.raises(SetupError):
        parse_networks(["10.1.0.0/99"])


async def test_the_vpns_own_network_is_not_connected_with() -> None:
    async with (
        open_host(SEED_A, LOOPBACK, blocked_networks=["127.0.0.0/8"]) as host,
        open_host(SEED_B, LOOPBACK) as other,
    ):
        with pytest.raises(DialError):
            await other.connect(host.peer_id, [host.bound_addrs()[0]], timeout=5)
        with pytest.raises(DialError, match="no address"):
            await host.connect(other.peer_id, other.listen_addrs(), timeout=5)


async def test_a_denied_peer_is_disconnected_and_stays_out() -> None:
    async with hosts() as (host, other):
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        await host.deny(other.peer_id)
        assert host.peers() == {}
        with pytest.raises((DialError, StreamError)):  # noqa: PT012 - it is refused after the handshake
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            await other.ping(host.peer_id, timeout=5)
        assert host.peers() == {}
        with pytest.raises(DialError, match="not allowed"):
            await host.connect(other.peer_id, other.listen_addrs(), timeout=5)
        host.allow(other.peer_id)
        await trio.sleep(0.2)
        await check_alive(host, other)


async def test_a_peer_that_breaks_the_muxers_rules_is_told_of_and_one_that_leaves_is_not() -> None:
    async with hosts() as (host, other):
        told: list[tuple[str, str]] = []
        host.on_offence = lambda peer, offence: told.append((peer, offence))
        for broken in (False, True):
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            (row,) = host.holdings()
            assert row[:2] == (other.peer_id, 1)
            connection = other._swarm.get_connections()[0].muxed_conn
            if broken:
                await connection._session.write(b"\x07" * 12)  # type: ignore[attr-defined]
            else:
                await other.disconnect(host.peer_id)
            async with host.peer_events() as events:
                with trio.fail_after(2):
                    while host.peers() or host._since:
                        await events.receive()
            assert host.holdings() == []
        assert told == [(other.peer_id, "malformed")]


async def test_a_refused_peer_goes_on_until_it_is_disconnected_and_may_come_back() -> None:
    async with hosts() as (host, other):
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        host.refuse(other.peer_id)
        assert other.peer_id in host.peers()
        await host.disconnect(other.peer_id)
        with pytest.raises((DialError, StreamError)):  # noqa: PT012 - it is refused after the handshake
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            await other.ping(host.peer_id, timeout=5)
        host.allow(other.peer_id)
        await trio.sleep(0.2)
        await check_alive(host, other)


async def test_nothing_dials_by_itself() -> None:
    async with hosts() as (host, other):
        host._swarm.peerstore.add_addrs(ID.from_string(other.peer_id), [Multiaddr(other.bound_addrs()[0])], 1000)
        host._swarm._schedule_auto_connect()
        await trio.sleep(0.2)
        assert host.peers() == {}
        assert isinstance(host.libp2p, IHost)
