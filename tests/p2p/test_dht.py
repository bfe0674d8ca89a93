"""The DHT over a network in memory, on a virtual clock. Each mend of py-libp2p has a test that fails without it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.dht import Dht, open_dht
from edgevpn.p2p.dht_node import MAX_KEYS, PROTOCOL, decode_providers_untrusted
from edgevpn.p2p.memory_host import MemoryHost, MemoryNetwork
from tests.p2p.memory_nodes import PipeReader, add_hosts, connect_all, peer_id_of, seed

from libp2p.io.exceptions import IncompleteReadError  # isort: skip  # after edgevpn.p2p
from libp2p.kad_dht.pb.kademlia_pb2 import Message  # isort: skip
from libp2p.peer.id import ID  # isort: skip
from libp2p.peer.peerinfo import PeerInfo  # isort: skip
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed

from multiaddr import Multiaddr  # isort: skip
import functools
import operator

KEY = b"\x12\x20" + hashlib.sha256(b"rendezvous").digest()
LATENCY = 0.03


def at(host: MemoryHost) -> str:
    return f"{host.address}/p2p/{host.peer_id}"


def record_of(host: MemoryHost) -> tuple[str, tuple[str, ...]]:
    return host.peer_id, (host.address,)


async def ask(host: MemoryHost, of: MemoryHost, request: bytes | Message) -> Message | None:
    """What `of` answers on a stream of its own; None if it ends the stream."""
    if isinstance(request, Message):
        body = request.SerializeToString()
        request = encode_varint_prefixed(body)
    _, stream = await host.dial(of.peer_id, [PROTOCOL])
    async with stream:
        await stream.send_all(request)
        try:
            return Message.FromString(await PipeReader(stream).frame())
        except Exception:  # noqa: BLE001  # the end, in whatever form
            return None


@asynccontextmanager
async def answering(host: MemoryHost, answer: Message) -> AsyncIterator[None]:
    """A DHT server that says the same to everything."""
    body = answer.SerializeToString()
    async with host.serve([PROTOCOL]) as inbound, trio.open_nursery() as nursery:

        async def one(stream: trio.abc.HalfCloseableStream) -> None:
            with suppress(trio.BrokenResourceError, IncompleteReadError):  # who asked has enough, and left
                await PipeReader(stream).frame()
                await stream.send_all(encode_varint_prefixed(body))

        async def take() -> None:
            async for arrived in inbound:
                nursery.start_soon(one, arrived.stream)

        nursery.start_soon(take)
        yield
        nursery.cancel_scope.cancel()


async def test_an_error_of_the_caller_comes_out(autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with open_dht(one, seed(1)):
            raise ZeroDivisionError


# --- finding each other


async def test_two_nodes_with_one_bootstrap_peer_find_each_other_within_a_second(autojump_clock):
    boot, one, two = add_hosts(MemoryNetwork(LATENCY), 3)
    async with open_dht(boot, seed(1)), open_dht(one, seed(2), [at(boot)]) as first:
        await first.wait_for_peers()
        assert await first.provide(KEY) == 1
        await trio.sleep(30)
        began = trio.current_time()
        async with open_dht(two, seed(3), [at(boot)]) as second:
            await second.wait_for_peers()
            assert await second.provide(KEY) == 1
            assert await second.find_providers(KEY, 20) == [record_of(one)]
            assert trio.current_time() - began < 1
            assert await first.find_providers(KEY, 20) == [record_of(two)]
            assert trio.current_time() - began < 1


async def test_a_bootstrap_peer_that_comes_late_is_used_as_soon_as_it_is_there(autojump_clock):
    boot, one = add_hosts(MemoryNetwork(LATENCY), 2)
    boot.crash()
    async with open_dht(one, seed(2), [at(boot)]) as dht:
        await trio.sleep(3)
        assert dht.routing_table_size == 0
        assert await dht.provide(KEY) == 0
        assert await dht.find_providers(KEY) == []
        boot.restart()
        async with open_dht(boot, seed(1)):
            with trio.fail_after(5):
                assert await dht.wait_for_peers() == 1
            assert await dht.provide(KEY) == 1


async def test_eight_nodes_in_a_line_find_all_providers(autojump_clock):
    hosts = add_hosts(MemoryNetwork(LATENCY), 8)
    async with trio.open_nursery() as nursery:
        nodes: list[Dht] = []

        async def run(number: int, task_status: trio.TASK_STATUS_IGNORED = trio.TASK_STATUS_IGNORED) -> None:
            bootstrap = [at(hosts[number - 1])] if number else []
            async with open_dht(hosts[number], seed(number + 1), bootstrap) as dht:
                nodes.append(dht)
                task_status.started()
                await trio.sleep_forever()

        for number in range(8):
            await nursery.start(run, number)
        await trio.sleep(1)
        for node in nodes:
            await node.provide(KEY)
        await trio.sleep(1)
        for node, host in zip(nodes, hosts, strict=True):
            found = await node.find_providers(KEY, 20)
            assert sorted(found) == sorted(record_of(other) for other in hosts if other is not host)
            assert len(await node.find_providers(KEY, 3)) == 3
        nursery.cancel_scope.cancel()


async def test_a_node_asks_the_network_though_it_holds_records_itself(autojump_clock):
    boot, one, two = add_hosts(MemoryNetwork(), 3)
    async with open_dht(boot, seed(1)), open_dht(one, seed(2), [at(boot)]) as first:
        await first.wait_for_peers()
        first._node.store.add_provider(KEY, PeerInfo(ID.from_base58(peer_id_of(9)), [Multiaddr("/ip4/9.9.9.9/tcp/9")]))
        await first.provide(KEY)
        async with open_dht(two, seed(3), [at(boot)]) as second:
            await second.wait_for_peers()
            await second.provide(KEY)
            assert await first.find_providers(KEY) == [record_of(two), (peer_id_of(9), ("/ip4/9.9.9.9/tcp/9",))]


async def test_a_provider_named_by_many_counts_once(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 5)
    answer = Message(type=Message.MessageType.GET_PROVIDERS)
    for number in (8, 9):
        answer.providerPeers.add(
            id=ID.from_base58(peer_id_of(number)).to_bytes(), addrs=[Multiaddr("/ip4/9.9.9.9/tcp/9").to_bytes()]
        )
    async with (
        answering(hosts[1], answer),
        answering(hosts[2], answer),
        answering(hosts[3], answer),
        open_dht(hosts[0], seed(1)) as dht,
    ):
        await connect_all(*hosts)
        await dht.wait_for_peers(2)
        assert [peer for peer, _ in await dht.find_providers(KEY, 3)] == [peer_id_of(8), peer_id_of(9)]


async def test_peers_that_are_gone_do_not_hold_up_who_has_found_somebody(autojump_clock):
    ours, server, other = add_hosts(MemoryNetwork(), 3)
    answer = Message(type=Message.MessageType.GET_PROVIDERS)
    answer.providerPeers.add(id=ID.from_base58(other.peer_id).to_bytes(), addrs=[Multiaddr(other.address).to_bytes()])
    for number in range(20, 40):
        answer.closerPeers.add(
            id=ID.from_base58(peer_id_of(number)).to_bytes(), addrs=[Multiaddr("/ip4/9.9.9.9/tcp/9").to_bytes()]
        )
    real = ours.connect

    async def connect(peer_id: str, addrs: list[str]) -> None:
        if peer_id not in ours.network.hosts:
            await trio.sleep(60)
        await real(peer_id, addrs)

    ours.connect = connect  # type: ignore[method-assign]
    async with answering(server, answer), open_dht(ours, seed(1)) as dht:
        await connect_all(ours, server)
        await dht.wait_for_peers()
        began = trio.current_time()
        assert await dht.find_providers(KEY) == [record_of(other)]
        assert trio.current_time() - began <= 1
        began = trio.current_time()
        await dht.provide(KEY)
        assert trio.current_time() - began <= 0.1


async def test_a_record_carries_the_addresses_the_host_listens_on_now(autojump_clock):
    boot, one = add_hosts(MemoryNetwork(), 2)
    listens: list[str] = []

    async def listen_addrs() -> tuple[str, ...]:
        return tuple(listens)

    one.listen_addrs = listen_addrs  # type: ignore[method-assign]
    async with open_dht(boot, seed(1)) as server, open_dht(one, seed(2), [at(boot)]) as dht:
        await dht.wait_for_peers()
        assert await dht.provide(KEY) == 0
        for listens in (["/ip4/192.168.1.1/tcp/4001", "/ip6/fd00::1/tcp/4001"], ["/ip4/10.9.9.9/tcp/5"]):
            assert await dht.provide(KEY) == 1
            await trio.sleep(0.1)
            assert await server.find_providers(KEY) == [(one.peer_id, tuple(listens))]


async def test_the_dht_goes_on_when_the_host_restarts(autojump_clock):
    boot, one, two = add_hosts(MemoryNetwork(LATENCY), 3)
    async with (
        open_dht(boot, seed(1)),
        open_dht(one, seed(2), [at(boot)]) as first,
        open_dht(two, seed(3), [at(boot)]) as second,
    ):
        await second.wait_for_peers()
        await second.provide(KEY)
        one.crash()
        await trio.sleep(3)
        assert first.routing_table_size == 0
        assert await first.find_providers(KEY) == []
        one.restart()
        with trio.fail_after(5):
            await first.wait_for_peers()
        assert await first.find_providers(KEY) == [record_of(two)]


async def test_a_key_that_is_no_multihash_is_an_error_of_ours(autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    async with open_dht(one, seed(1)) as dht:
        with pytest.raises(ValueError, match="DHT key"):
            await dht.provide(b"short")
        with pytest.raises(ValueError, match="DHT key"):
            await dht.find_providers(bytes(34))


# --- whom to ask


async def test_only_peers_that_say_they_serve_the_dht_are_in_the_table_and_asked(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 4)
    ours, server, client, silent = hosts
    client.offers = ("/meshsub/1.2.0",)
    silent.identifies = False
    async with open_dht(ours, seed(1)) as dht, open_dht(server, seed(2)):
        await connect_all(*hosts)
        await trio.sleep(1)
        node = ID.from_base58(peer_id_of(7)).to_bytes()
        for asking in (client, silent):
            assert await ask(asking, ours, Message(type=Message.MessageType.FIND_NODE, key=node)) is not None
        await trio.sleep(10)
        assert [peer.to_base58() for peer in dht._node.table.get_peer_ids()] == [server.peer_id]
        await dht.provide(KEY)
        await dht.find_providers(KEY)
        await trio.sleep(10)
        assert {peer_id for peer_id, _ in ours.dialled} == {server.peer_id}
        assert ours.refused == []


async def test_a_peer_that_is_gone_is_out_of_the_table_at_once(autojump_clock):
    ours, server = add_hosts(MemoryNetwork(), 2)
    async with open_dht(ours, seed(1)) as dht:
        await connect_all(ours, server)
        await trio.sleep(60)  # until no lookup is under way, which would notice too
        assert dht.routing_table_size == 1
        server.crash()
        await trio.sleep(0.01)
        assert dht.routing_table_size == 0


async def test_a_connected_server_stays_in_the_table_though_it_answers_no_ping(autojump_clock):
    ours, server = add_hosts(MemoryNetwork(), 2)
    async with open_dht(ours, seed(1)) as dht, open_dht(server, seed(2)):
        await connect_all(ours, server)
        await trio.sleep(10)
        bucket = dht._node.table.buckets[0]
        bucket.peers = type(bucket.peers)((peer, (info, 0.0)) for peer, (info, _) in bucket.peers.items())
        for _ in range(100):
            await trio.sleep(9)
            assert dht.routing_table_size == 1


async def test_several_nodes_behind_one_public_address_are_in_the_table(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 6)
    for host in hosts:
        host.address = f"/ip4/8.8.8.8/tcp/{hosts.index(host) + 1000}"
    async with open_dht(hosts[0], seed(1)) as dht:
        for host in hosts[1:]:
            await host.connect(hosts[0].peer_id, [hosts[0].address])
        await trio.sleep(1)
        assert dht.routing_table_size == 5


async def test_a_client_serves_nothing_and_still_finds(autojump_clock):
    boot, one, two = add_hosts(MemoryNetwork(), 3)
    async with (
        open_dht(boot, seed(1)),
        open_dht(one, seed(2), [at(boot)], server=False) as client,
        open_dht(two, seed(3), [at(boot)]) as server,
    ):
        await server.wait_for_peers()
        await server.provide(KEY)
        await client.wait_for_peers()
        assert await client.find_providers(KEY) == [record_of(two)]
        assert one._servers == {}


# --- what is stored


async def test_of_a_keys_providers_the_oldest_go_and_of_the_keys_too(autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    async with open_dht(one, seed(1)) as dht:
        store = dht._node.store
        for number in range(30):
            peer = PeerInfo(ID(bytes([0, 1, number])), [Multiaddr("/ip4/1.2.3.4/tcp/1")] * 100)
            store.add_provider(KEY, peer)
            store.providers[KEY][str(peer.peer_id)].timestamp += number
        held = store.get_providers(KEY)
        assert [peer.peer_id.to_bytes()[2] for peer in held] == list(range(10, 30))
        assert all(len(peer.addrs) == 16 for peer in held)
        for number in range(MAX_KEYS + 10):
            store.add_provider(b"%d" % number, PeerInfo(ID(b"\0\1x"), []))
        assert len(store.providers) == MAX_KEYS
        assert KEY not in store.providers


async def test_keys_of_past_windows_are_not_announced_for_ever(autojump_clock):
    boot, one = add_hosts(MemoryNetwork(), 2)
    async with open_dht(boot, seed(1)), open_dht(one, seed(2), [at(boot)]) as dht:
        await dht.wait_for_peers()
        await dht.provide(KEY)
        await trio.sleep(1)
        assert not dht._node.provider_store.providing_keys
        assert not dht._announcing


async def test_values_are_refused(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_dht(ours, seed(1)) as dht:
        await connect_all(ours, other)
        put = Message(type=Message.MessageType.PUT_VALUE, key=b"/any/thing")
        put.record.key, put.record.value = b"/any/thing", b"value"
        plain = Message(type=Message.MessageType.PUT_VALUE, key=b"plain")
        plain.record.key, plain.record.value = b"plain", b"value"
        for request in (put, plain):
            assert await ask(other, ours, request) is None
        assert dht._node.get_value_store_size() == 0


async def test_addresses_a_peer_makes_up_for_others_do_not_pile_up(autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    async with open_dht(one, seed(1)) as dht:
        peerstore = dht._host.get_peerstore()
        for number in range(2000):
            peer = ID(b"\0\2" + number.to_bytes(2, "big"))
            for port in range(1, 40 if number == 1999 else 2):
                peerstore.add_addrs(peer, [Multiaddr(f"/ip4/1.2.3.4/tcp/{port}")], 3600)
        assert len(peerstore.peer_data_map) <= 1000
        assert len(peerstore.addrs(peer)) == 16


# --- what peers do wrong


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x03\xff\xfe\n",
        b"\xff" * 20,
        b"\xff\xff\xff\x7f",
        encode_uvarint(300_000),
        b"\x00",
        Message(type=Message.MessageType.GET_PROVIDERS),
        Message(type=Message.MessageType.GET_PROVIDERS, key=bytes(1000)),
        Message(type=Message.MessageType.ADD_PROVIDER, key=KEY, senderRecord=b"none"),
        Message(type=Message.MessageType.FIND_NODE, key=b""),
    ],
)
async def test_a_malformed_message_ends_the_stream_of_its_peer_only(autojump_clock, garbage):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_dht(ours, seed(1)):
        await connect_all(ours, other)
        with trio.fail_after(1):
            assert await ask(other, ours, garbage) is None
        assert await ask(other, ours, Message(type=Message.MessageType.GET_PROVIDERS, key=KEY)) is not None


async def test_idle_streams_of_some_peers_do_not_take_the_server_from_the_others(autojump_clock):
    ours, good, *hostile = add_hosts(MemoryNetwork(), 5)
    async with open_dht(ours, seed(1)):
        await connect_all(ours, good, *hostile)
        streams = [(await host.dial(ours.peer_id, [PROTOCOL]))[1] for host in hostile for _ in range(30)]
        await trio.sleep(1)
        assert await ask(good, ours, Message(type=Message.MessageType.GET_PROVIDERS, key=KEY)) is not None
        await trio.sleep(61)
        with trio.fail_after(1):
            for stream in streams:
                assert await stream.receive_some() == b""


async def test_a_provider_announces_every_window_without_being_cut_off(autojump_clock):
    boot, one = add_hosts(MemoryNetwork(), 2)
    async with open_dht(boot, seed(1)) as server, open_dht(one, seed(2), [at(boot)]) as dht:
        await dht.wait_for_peers()
        for number in range(30):
            assert await dht.provide(b"\x12\x20" + hashlib.sha256(b"%d" % number).digest()) == 1
        await trio.sleep(1)
        assert len(server._node.store.providers) == 30


async def test_a_record_for_somebody_else_is_not_taken(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_dht(ours, seed(1)) as dht:
        await connect_all(ours, other)
        request = Message(type=Message.MessageType.ADD_PROVIDER, key=KEY)
        request.providerPeers.add(
            id=ID.from_base58(peer_id_of(9)).to_bytes(), addrs=[Multiaddr("/ip4/9.9.9.9/tcp/9").to_bytes()]
        )
        await ask(other, ours, request)
        assert await dht.find_providers(KEY) == []


async def test_peer_ids_and_addresses_that_are_none_do_not_stop_a_lookup(autojump_clock):
    ours, server, other = add_hosts(MemoryNetwork(), 3)
    answer = Message(type=Message.MessageType.GET_PROVIDERS)
    for peer_id in (b"", b"\xff" * 5, bytes(100)):
        answer.providerPeers.add(id=peer_id, addrs=[b"\xff\xff"])
        answer.closerPeers.add(id=peer_id, addrs=[b"\xff\xff"])
    bad = [b"\xff\xff\xff", b"", b"\x04\x01", b"\x06\x0f\xa1"]
    good = Multiaddr(other.address).to_bytes()
    answer.providerPeers.add(id=ID.from_base58(other.peer_id).to_bytes(), addrs=[*bad, good])
    answer.closerPeers.add(id=ID.from_base58(peer_id_of(9)).to_bytes(), addrs=[*bad, good])
    async with answering(server, answer), open_dht(ours, seed(1)) as dht:
        await connect_all(ours, server)
        await dht.wait_for_peers()
        (found,) = await dht.find_providers(KEY)
        assert found[0] == other.peer_id
        assert other.address in found[1]
        answer.type = Message.MessageType.FIND_NODE
    async with answering(server, answer), open_dht(ours, seed(1)) as dht:
        await dht.wait_for_peers()
        await dht.provide(KEY)
        await trio.sleep(30)
        assert dht.routing_table_size == 1


@given(st.binary(max_size=200))
def test_any_bytes_for_an_answer_raise_only_untrusted_data_error(data):
    with suppress(UntrustedDataError):
        decode_providers_untrusted(data)


@given(st.data())
def test_a_damaged_answer_raises_only_untrusted_data_error(data):
    answer = Message(type=Message.MessageType.GET_PROVIDERS, key=KEY)
    for peers in (answer.providerPeers, answer.closerPeers):
        peers.add(id=ID.from_base58(peer_id_of(1)).to_bytes(), addrs=[Multiaddr("/ip4/1.2.3.4/tcp/1").to_bytes()])
    good = bytearray(answer.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        for peer in functools.reduce(operator.iadd, decode_providers_untrusted(bytes(good)), []):
            str(peer.addrs)
    except UntrustedDataError:
        pass
