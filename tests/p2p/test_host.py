"""The host: what the rest of the program does with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from edgevpn.errors import EdgevpnError, UsageError
from edgevpn.p2p import host as host_module, host_mends
from edgevpn.p2p.host import PING, Host, open_host
from edgevpn.p2p.host_stream import DialError, HostStream, StreamError
from edgevpn.p2p.listen_addrs import default_listen, expand_wildcards
from edgevpn.p2p.peer_values import PeerEvent
from edgevpn.p2p.swarm_mends import Gate, parse_networks
from tests.p2p.test_swarm_mends import LOOPBACK, SEED_A, SEED_B, SEED_C, check_alive, echo, hosts, stock_host


async def identified(host: Host, *peers: str) -> None:
    """Wait until these peers said who they are."""
    async with host.peer_events() as events:
        while not all(p in host.peers() and host.peers()[p].agent for p in peers):
            with trio.fail_after(5):
                await events.receive()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(0.02)


# --- streams


async def test_a_stream_carries_bytes_both_ways_and_ends_in_halves() -> None:
    async with hosts() as (host, other):

        async def answer(stream: HostStream) -> None:
            question = b""
            while data := await stream.read():
                question += data
            await stream.write(question.upper())

        host.serve("/upper/1", answer)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        stream = await other.new_stream(host.peer_id, ["/upper/2", "/upper/1"], timeout=5)
        assert (stream.protocol, stream.peer_id) == ("/upper/1", host.peer_id)
        await stream.write(b"quest")
        await stream.write_message(b"ion")
        await stream.close()
        assert await stream.read_exactly(8) == b"QUESTION"
        assert await stream.read() == b""
        with pytest.raises(StreamError):
            await stream.write(b"late")


async def test_a_handler_that_returns_without_reading_loses_nothing_of_what_it_wrote() -> None:
    async with hosts() as (host, other):

        async def greet(stream: HostStream) -> None:
            await stream.write(b"g" * 100_000)

        host.serve("/greet/1", greet)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        stream = await other.new_stream(host.peer_id, ["/greet/1"], timeout=5)
        await trio.sleep(0.05)
        assert await stream.read_exactly(100_000) == b"g" * 100_000
        assert await stream.read() == b""


async def test_a_reset_is_an_error_at_both_ends() -> None:
    async with hosts() as (host, other):
        seen: list[str] = []
        done = trio.Event()

        async def wait(stream: HostStream) -> None:
            try:
                await stream.read()
            except StreamError as exc:
                seen.append(str(exc))
            done.set()

        host.serve("/wait/1", wait)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        stream = await other.new_stream(host.peer_id, ["/wait/1"], timeout=5)
        await stream.reset()
        with trio.fail_after(5):
            await done.wait()
        assert "reset" in seen[0]
        with pytest.raises(StreamError):
            await stream.read()


async def test_a_stream_dials_by_itself_when_addresses_are_known() -> None:
    async with hosts() as (host, other):
        host.serve("/echo/1", echo)
        other.book.add(host.peer_id, host.listen_addrs(), "static", trio.current_time())
        stream = await other.new_stream(host.peer_id, ["/echo/1"], timeout=5)
        await stream.write(b"x")
        assert await stream.read() == b"x"


async def test_a_protocol_that_is_not_served_is_a_dial_error() -> None:
    async with hosts() as (host, other):
        host.serve("/echo/1", echo)
        host.unserve("/echo/1")
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        with pytest.raises(DialError, match="does not speak /echo/1"):
            await other.new_stream(host.peer_id, ["/echo/1"], timeout=5)
        assert len(other.peers()) == 1


async def test_a_peer_that_does_not_negotiate_is_a_dial_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosts() as (host, other):
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)

        async def silent(_: object) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(host._swarm, "common_stream_handler", silent)
        with pytest.raises(DialError, match="timed out"):
            await other.new_stream(host.peer_id, ["/echo/1"], timeout=0.1)


async def test_streams_of_one_connection_beyond_the_limit_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_mends, "MAX_HANDLERS", 2)
    async with hosts() as (host, other):

        async def hold(stream: HostStream) -> None:
            await trio.sleep_forever()

        host.serve("/hold/1", hold)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        await identified(other, host.peer_id)
        await identified(host, other.peer_id)
        await trio.sleep(0.1)
        for _ in range(2):
            await other.new_stream(host.peer_id, ["/hold/1"], timeout=5)
        with pytest.raises(DialError):
            await other.new_stream(host.peer_id, ["/hold/1"], timeout=5)


# --- peers


async def test_both_sides_know_each_other_after_identify() -> None:
    async with (
        open_host(SEED_A, LOOPBACK, user_agent="one") as host,
        open_host(SEED_B, LOOPBACK, user_agent="two") as other,
    ):
        host.serve("/echo/1", echo)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        await identified(other, host.peer_id)
        await identified(host, other.peer_id)
        seen = other.peers()[host.peer_id]
        assert (seen.agent, seen.listen_addrs) == ("one", host.listen_addrs())
        assert {"/echo/1", PING, "/ipfs/id/1.0.0"} <= seen.protocols
        assert [(c.direction, c.remote) for c in seen.connections] == [("outbound", host.listen_addrs()[0])]
        back = host.peers()[other.peer_id]
        assert (back.agent, back.listen_addrs) == ("two", other.listen_addrs())
        assert [c.direction for c in back.connections] == ["inbound"]
        assert back.connections[0].rtt is not None
        # what identify said can be dialled later
        assert other.listen_addrs()[0] in host.dialable(other.peer_id)


async def test_identify_claims_do_not_replace_the_address_that_worked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosts() as (host, other):
        worked = host.bound_addrs()
        monkeypatch.setattr(
            host.libp2p, "get_addrs", lambda: [Multiaddr(a) for a in ("/ip4/0.0.0.0/tcp/1", "/ip4/192.0.2.1/tcp/1")]
        )
        await other.connect(host.peer_id, worked, timeout=5)
        await identified(other, host.peer_id)
        assert other.dialable(host.peer_id) == (*worked, "/ip4/192.0.2.1/tcp/1")


async def test_what_is_served_later_is_told_to_connected_peers() -> None:
    async with hosts() as (host, other):
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        await identified(other, host.peer_id)
        await identified(host, other.peer_id)
        async with other.peer_events() as events:
            host.serve("/late/1", echo)
            with trio.fail_after(5):
                while "/late/1" not in other.peers()[host.peer_id].protocols:
                    await events.receive()


async def test_events_tell_of_the_first_connection_and_the_last() -> None:
    async with hosts() as (host, other):
        async with host.peer_events() as events:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            assert await events.receive() == PeerEvent("connected", other.peer_id)
            assert await events.receive() == PeerEvent("identified", other.peer_id)
            await other.disconnect(host.peer_id)
            with trio.fail_after(5):
                assert await events.receive() == PeerEvent("disconnected", other.peer_id)
        assert host.peers() == other.peers() == {}
        assert host._identities == host._since == {}
        assert not host._feeds


async def test_a_slow_reader_of_events_is_bounded_and_still_sees_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "EVENT_QUEUE", 2)
    async with hosts() as (host, other), host.peer_events() as events:
        for _ in range(3):
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            await identified(host, other.peer_id)
            await other.disconnect(host.peer_id)
            await until(lambda: not host._since)
        assert events.statistics().current_buffer_used == 2
        await events.receive()
        await events.receive()
        assert host.peers() == {}


async def test_ping_measures_the_round_trip_in_both_directions() -> None:
    async with hosts() as (host, other):
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        assert 0 < await other.ping(host.peer_id, timeout=5) < 5
        assert 0 < await host.ping(other.peer_id, timeout=5) < 5


async def test_a_peer_without_connection_and_address_cannot_be_pinged() -> None:
    async with hosts() as (host, other):
        with pytest.raises(DialError, match="no address"):
            await host.ping(other.peer_id, timeout=1)


@pytest.mark.parametrize("peer_id", ["", "nonsense", "12D3KooW", "1" * 500, "é"])
async def test_a_peer_id_that_is_none_is_a_dial_error(peer_id: str) -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        with pytest.raises(DialError, match="not a peer id"):
            await host.connect(peer_id, [], timeout=1)
        with pytest.raises(DialError, match="not a peer id"):
            await host.new_stream(peer_id, ["/x"], timeout=1)


async def test_our_own_peer_id_is_not_dialled() -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        with pytest.raises(DialError, match="our own"):
            await host.connect(host.peer_id, host.listen_addrs(), timeout=1)


async def test_bytes_are_counted_by_protocol_and_by_peer_while_it_is_there() -> None:
    async with hosts() as (host, other):
        host.serve("/echo/1", echo)
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        stream = await other.new_stream(host.peer_id, ["/echo/1"], timeout=5)
        await stream.write(b"12345")
        await stream.read_exactly(5)
        assert (host.bandwidth.by_protocol["/echo/1"].received, host.bandwidth.by_protocol["/echo/1"].sent) == (5, 5)
        assert host.bandwidth.by_peer[other.peer_id].received >= 5
        await other.disconnect(host.peer_id)
        await until(lambda: not host.bandwidth.by_peer)
        assert host.bandwidth.total.received >= 5


async def test_a_killed_peer_is_gone_at_once() -> None:
    code = """
import trio
from edgevpn.p2p.host import open_host
async def main():
    async with open_host(b"b" * 32, ["/ip4/127.0.0.1/tcp/0"]) as host:
        print(host.peer_id, *host.listen_addrs(), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    async with open_host(SEED_A, LOOPBACK) as host:
        process = await trio.lowlevel.open_process([sys.executable, "-c", code], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            with trio.fail_after(30):
                said = b""
                while not said.endswith(b"\n"):
                    said += (more := await process.stdout.receive_some())
                    assert more, "the other process did not start"
            peer_id, *addrs = said.decode().split()
            async with host.peer_events() as events:
                await host.connect(peer_id, addrs, timeout=5)
                process.kill()
                with trio.fail_after(5):
                    async for event in events:
                        if event.kind == "disconnected":
                            break
            assert host.peers() == {}
        finally:
            process.kill()
            await process.wait()
            await process.stdout.aclose()  # type: ignore[union-attr]


# --- the life of a host


async def test_leaving_closes_connections_and_listening_sockets() -> None:
    async with open_host(SEED_B, LOOPBACK) as other:
        async with open_host(SEED_A, LOOPBACK) as host:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            addrs = host.bound_addrs()
        await until(lambda: not other.peers())
        with pytest.raises(DialError, match="connection refused"):
            await other.connect(host.peer_id, addrs, timeout=5)


async def test_many_connections_are_closed_together() -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        others = [open_host(bytes([n]) * 32, LOOPBACK) for n in range(20)]
        opened = [await o.__aenter__() for o in others]
        for other in opened:
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        assert len(host.peers()) == 20
        for other in reversed(others):
            await other.__aexit__(None, None, None)
        await until(lambda: not host.peers())


async def test_an_error_within_the_context_comes_out_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_host(SEED_A, LOOPBACK):
            raise LookupError("mine")


async def test_cancelling_the_context_ends_it() -> None:
    with trio.move_on_after(0.1) as scope:
        async with hosts() as (host, other):
            await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
            await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "listen", ["nonsense", "/ip4/127.0.0.1", "/ip4/127.0.0.1/udp/1/quic-v1", "/dns4/localhost/tcp/1"]
)
async def test_an_address_that_cannot_be_listened_on_is_a_usage_error(listen: str) -> None:
    with pytest.raises(UsageError, match="cannot listen on"):
        async with open_host(SEED_A, [listen]):
            pass


async def test_a_seed_of_another_length_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        async with open_host(b"short"):
            pass


async def test_the_same_seed_is_the_same_peer() -> None:
    async with open_host(SEED_A, LOOPBACK) as host:
        assert host.peer_id == "12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"


async def test_without_addresses_it_listens_everywhere_and_announces_none_of_the_wildcards() -> None:
    async with open_host(SEED_A) as host:
        assert len(host.bound_addrs()) == len(default_listen())
        assert host.bound_addrs()[0].startswith("/ip4/0.0.0.0/tcp/")
        assert not any("/0.0.0.0/" in addr or "/::/" in addr for addr in host.listen_addrs())


@pytest.mark.skipif(len(default_listen()) == 1, reason="this machine has no IPv6")
async def test_connections_over_ipv6_know_their_remote_address() -> None:
    async with open_host(SEED_A, ["/ip6/::1/tcp/0"]) as host, open_host(SEED_B, LOOPBACK) as other:
        await other.connect(host.peer_id, host.listen_addrs(), timeout=5)
        assert other.peers()[host.peer_id].connections[0].remote == host.bound_addrs()[0]
        assert host.peers()[other.peer_id].connections[0].remote.startswith("/ip6/::1/tcp/")


# --- which addresses are announced

INTERFACES = ["127.0.0.1", "192.0.2.5", "10.1.0.3", "::1", "fe80::1", "2001:db8::5"]


def test_wildcards_become_the_addresses_of_the_interfaces() -> None:
    gate = Gate(parse_networks(["10.1.0.0/24"]))
    bound = ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/2"]
    assert expand_wildcards(bound, INTERFACES, gate) == ["/ip4/192.0.2.5/tcp/1", "/ip6/2001:db8::5/tcp/2"]


def test_loopback_is_announced_only_when_there_is_nothing_else() -> None:
    assert expand_wildcards(["/ip4/127.0.0.1/tcp/1"], INTERFACES, Gate()) == ["/ip4/127.0.0.1/tcp/1"]
    assert expand_wildcards(["/ip4/0.0.0.0/tcp/1"], ["127.0.0.1"], Gate()) == ["/ip4/127.0.0.1/tcp/1"]
    both = ["/ip4/127.0.0.1/tcp/1", "/ip4/192.0.2.5/tcp/1"]
    assert expand_wildcards(both, INTERFACES, Gate()) == ["/ip4/192.0.2.5/tcp/1"]


# --- with libp2p's own implementation on the other side


async def test_a_stock_host_can_be_dialled_pinged_and_identified() -> None:
    async with stock_host(SEED_A) as stock, open_host(SEED_B, LOOPBACK) as host:
        peer_id = str(stock.get_id())
        await host.connect(peer_id, [str(a) for a in stock.get_addrs()], timeout=5)
        assert await host.ping(peer_id, timeout=5) > 0
        await identified(host, peer_id)
        assert "py-libp2p" in host.peers()[peer_id].agent


async def test_a_stock_host_can_dial_and_send_much() -> None:
    async with open_host(SEED_A, LOOPBACK) as host, stock_host(SEED_B) as stock:
        got = 0
        done = trio.Event()

        async def sink(stream: HostStream) -> None:
            nonlocal got
            while data := await stream.read():
                got += len(data)
            done.set()

        host.serve("/sink/1", sink)
        peer = ID.from_string(host.peer_id)
        stock.get_peerstore().add_addrs(peer, [Multiaddr(a) for a in host.listen_addrs()], 100)
        stream = await stock.new_stream(peer, ["/sink/1"])  # type: ignore[list-item]
        for _ in range(30):
            await stream.write(bytes(100_000))
        await stream.close()
        with trio.fail_after(10):
            await done.wait()
        assert got == 3_000_000


async def test_much_can_be_sent_to_a_stock_host() -> None:
    async with stock_host(SEED_A) as stock, open_host(SEED_B, LOOPBACK) as host:
        got = 0

        async def sink(stream: object) -> None:
            nonlocal got
            while got < 3_000_000:
                got += len(await stream.read(65536))  # type: ignore[attr-defined]
            await stream.write(b"done")  # type: ignore[attr-defined]

        stock.set_stream_handler("/sink/1", sink)  # type: ignore[arg-type]
        await host.connect(str(stock.get_id()), [str(a) for a in stock.get_addrs()], timeout=5)
        stream = await host.new_stream(str(stock.get_id()), ["/sink/1"], timeout=5)
        for _ in range(30):
            await stream.write(bytes(100_000))
        with trio.fail_after(10):
            assert await stream.read_exactly(4) == b"done"


async def test_errors_are_all_of_one_family() -> None:
    assert issubclass(DialError, EdgevpnError)
    assert issubclass(StreamError, EdgevpnError)
    async with hosts() as (host, other), open_host(SEED_C, LOOPBACK) as third:
        await check_alive(host, other)
        await check_alive(host, third)
        assert set(host.peers()) == {other.peer_id, third.peer_id}
