"""Gossip over a network in memory, on a virtual clock. Each mend of py-libp2p has a test that fails without it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.gossip_router import BoundedMessageCache, PeerQueue, SeenCache
from edgevpn.p2p.gossip_rpc import decode_rpc_untrusted, instance_field
from edgevpn.p2p.memory_host import MemoryHost, MemoryNetwork
from edgevpn.p2p.pubsub import Gossip, MessageTooLongError, Received, TopicEvent, open_gossip
from tests.p2p.memory_nodes import add_hosts, connect_all, hello, raw_peer, seed

from libp2p.crypto.ed25519 import create_new_key_pair  # isort: skip  # after edgevpn.p2p
from libp2p.peer.id import ID  # isort: skip
from libp2p.pubsub.pb import rpc_pb2  # isort: skip


class Node:
    """A gossip on a host, and what it received."""

    def __init__(self, host: MemoryHost, gossip: Gossip) -> None:
        self.host = host
        self.gossip = gossip
        self.received: list[Received] = []

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.received]

    async def read(self) -> None:
        async for message in self.gossip:
            self.received.append(message)


@asynccontextmanager
async def open_node(host: MemoryHost, number: int, *topics: str, **options: object) -> AsyncIterator[Node]:
    async with open_gossip(host, seed(number), **options) as gossip, trio.open_nursery() as nursery:
        node = Node(host, gossip)
        nursery.start_soon(node.read)
        for topic in topics:
            await gossip.join(topic)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_nodes(*hosts: MemoryHost, topic: str = "t") -> AsyncIterator[list[Node]]:
    """Nodes 1, 2, ... on a topic."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_node(host, number, topic))
            for number, host in enumerate(hosts, start=1)
        ]


def signed(number: int, topic: str, data: bytes, seqno: int = 1) -> rpc_pb2.Message:
    keys = create_new_key_pair(seed(number))
    author = ID.from_pubkey(keys.public_key).to_bytes()
    message = rpc_pb2.Message(from_id=author, data=data, seqno=seqno.to_bytes(8, "big"), topicIDs=[topic])
    message.signature = keys.private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
    return message


async def test_an_error_of_the_caller_comes_out(autojump_clock):
    (one,) = add_hosts(MemoryNetwork(), 1)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with open_gossip(one, seed(1)):
            raise ZeroDivisionError


# --- messages


async def test_a_message_reaches_all_of_five_nodes_once(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.02), 5)
    async with open_nodes(*hosts) as nodes:
        await connect_all(*hosts)
        await trio.sleep(1)
        assert await nodes[0].gossip.publish("t", b"hello") == 4
        await trio.sleep(3)
        author = hosts[0].peer_id
        for node in nodes[1:]:
            assert node.received == [Received("t", author, author, b"hello")]
        assert nodes[0].received == []
        assert nodes[0].gossip.topic_peers("t") == sorted(host.peer_id for host in hosts[1:])


async def test_a_message_is_passed_on_by_peers_and_names_the_one_that_passed_it(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 3)
    async with open_nodes(*hosts) as nodes:
        await connect_all(hosts[0], hosts[1])
        await connect_all(hosts[1], hosts[2])
        await trio.sleep(3)
        await nodes[0].gossip.publish("t", b"far")
        await trio.sleep(1)
        assert nodes[2].received == [Received("t", hosts[1].peer_id, hosts[0].peer_id, b"far")]


async def test_what_we_publish_goes_to_all_subscribers_not_to_the_mesh_only(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 21)
    async with open_nodes(*hosts) as nodes:
        for host in hosts[1:]:
            await host.connect(hosts[0].peer_id, [hosts[0].address])
        await trio.sleep(5.05)
        assert len(nodes[0].gossip.mesh_peers("t")) <= 12
        await nodes[0].gossip.publish("t", b"all")
        await trio.sleep(0.01)  # before any heartbeat could make up for it
        assert [node.data for node in nodes[1:]] == [[b"all"]] * 20


async def test_two_hundred_messages_at_once_are_neither_limited_nor_dropped(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_nodes(*hosts) as (one, two):
        await connect_all(*hosts)
        await trio.sleep(1)
        for number in range(200):
            await one.gossip.publish("t", str(number).encode())
        await trio.sleep(1)
        assert two.data == [str(number).encode() for number in range(200)]
        assert one.gossip.counters["rpcs_dropped"] == 0


async def test_a_message_of_the_longest_size_passes_and_a_longer_one_is_an_error(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    size = 3 << 20
    async with (
        open_node(hosts[0], 1, "t", max_message_size=size) as one,
        open_node(hosts[1], 2, "t", max_message_size=size) as two,
    ):
        await connect_all(*hosts)
        await trio.sleep(1)
        await one.gossip.publish("t", bytes(size))
        await trio.sleep(1)
        assert [len(data) for data in two.data] == [size]
        with pytest.raises(MessageTooLongError):
            await one.gossip.publish("t", bytes(size + 1))


async def test_messages_of_a_node_started_again_are_not_held_for_seen(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    await connect_all(*hosts)
    async with open_node(hosts[1], 2, "t") as two:
        for life in range(3):
            async with open_node(hosts[0], 1, "t") as one:
                await trio.sleep(1)
                for number in range(10):
                    await one.gossip.publish("t", b"%d.%d" % (life, number))
                await trio.sleep(0.1)
        assert two.data == [b"%d.%d" % (life, number) for life in range(3) for number in range(10)]


async def test_a_slow_reader_loses_the_oldest_messages_and_they_are_counted(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with (
        open_node(hosts[0], 1, "t") as one,
        open_gossip(hosts[1], seed(2), queue_messages=3) as two,
    ):
        await two.join("t")
        await connect_all(*hosts)
        await trio.sleep(1)
        for number in range(5):
            await one.gossip.publish("t", b"%d" % number)
        await trio.sleep(0.1)
        assert [(await anext(two)).data for _ in range(3)] == [b"2", b"3", b"4"]
        assert two.counters["messages_dropped"] == 2


async def test_a_direct_peer_gets_every_message_and_is_in_no_mesh(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    direct = f"{other.address}/p2p/{other.peer_id}"
    async with open_node(ours, 1, "t", direct_peers=[direct]) as node, raw_peer(other) as peer:
        await trio.sleep(1)  # it is connected without our doing
        await node.gossip.publish("t", b"not known to be on it")
        await trio.sleep(10)
        await peer.open(ours, hello("t"))
        await trio.sleep(10)
        await node.gossip.publish("t", b"on it")
        await trio.sleep(0.1)
        rpcs = [rpc for stream in peer.streams for rpc in stream]
        assert [m.data for rpc in rpcs for m in rpc.publish] == [b"not known to be on it", b"on it"]
        assert not any(rpc.control.graft for rpc in rpcs)
        assert node.gossip.mesh_peers("t") == []


async def test_one_stream_is_opened_though_the_peer_is_identified_meanwhile(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 2)
    real = hosts[0].dial

    async def slow_dial(peer_id, protocols):
        await trio.sleep(0.1)
        return await real(peer_id, protocols)

    hosts[0].dial = slow_dial  # type: ignore[method-assign]
    async with open_nodes(*hosts):
        await connect_all(*hosts)
        await trio.sleep(5)
        assert [len(host.dialled) for host in hosts] == [1, 1]


async def test_only_meshsub_1_2_and_1_1_are_spoken(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_nodes(*hosts):
        await connect_all(*hosts)
        await trio.sleep(1)
        assert hosts[0].dialled == [(hosts[1].peer_id, "/meshsub/1.2.0")]
        hosts[0].network.drop(*hosts)
        hosts[1].offers = ("/meshsub/1.1.0", "/meshsub/1.0.0", "/floodsub/1.0.0")
        await connect_all(*hosts)
        await trio.sleep(1)
        assert hosts[0].dialled[1:] == [(hosts[1].peer_id, "/meshsub/1.1.0")]
        hosts[0].network.drop(*hosts)
        hosts[1].offers = ("/meshsub/1.0.0", "/meshsub/1.3.0", "/floodsub/1.0.0")
        await connect_all(*hosts)
        await trio.sleep(1)
        assert len(hosts[0].dialled) == 2


async def test_a_peer_that_speaks_no_meshsub_is_asked_at_most_once(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    hosts[1].offers = ("/ipfs/kad/1.0.0",)
    async with open_node(hosts[0], 1, "t") as one:
        await connect_all(*hosts)
        await trio.sleep(60)
        assert len(hosts[0].refused) <= 1
        assert one.gossip.topic_peers("t") == []


# --- topics


async def test_topic_events_tell_who_is_there_who_comes_and_who_goes(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 3)
    async with open_nodes(hosts[0], hosts[1]) as nodes, open_node(hosts[2], 3) as three:
        await connect_all(*hosts)
        await trio.sleep(1)
        seen: list[TopicEvent] = []
        async with nodes[0].gossip.topic_events() as events, trio.open_nursery() as nursery:

            async def read() -> None:
                async for event in events:
                    seen.append(event)

            nursery.start_soon(read)
            await three.gossip.join("t")
            await trio.sleep(0.001)  # at once
            assert seen[1:] == [TopicEvent("t", hosts[2].peer_id, joined=True)]
            await three.gossip.leave("t")
            await trio.sleep(0.001)
            hosts[0].network.drop(hosts[0], hosts[1])
            await trio.sleep(0.1)
            await three.gossip.join("not ours")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert seen == [
            TopicEvent("t", hosts[1].peer_id, joined=True),
            TopicEvent("t", hosts[2].peer_id, joined=True),
            TopicEvent("t", hosts[2].peer_id, joined=False),
            TopicEvent("t", hosts[1].peer_id, joined=False),
        ]


async def test_joining_a_topic_tells_the_peers_that_were_on_it_before(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_node(hosts[0], 1) as one, open_node(hosts[1], 2, "t"):
        await connect_all(*hosts)
        await trio.sleep(1)
        async with one.gossip.topic_events() as events:
            await one.gossip.join("t")
            assert await anext(events) == TopicEvent("t", hosts[1].peer_id, joined=True)
            await one.gossip.leave("t")
            assert await anext(events) == TopicEvent("t", hosts[1].peer_id, joined=False)


async def test_a_topic_left_and_joined_again_is_in_the_mesh_within_three_seconds(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 3)
    async with open_nodes(*hosts) as nodes:
        await connect_all(hosts[0], hosts[1])
        await connect_all(hosts[1], hosts[2])  # the third hears the first through the second's mesh only
        await trio.sleep(5)
        await nodes[2].gossip.leave("t")
        await trio.sleep(1)
        await nodes[2].gossip.join("t")
        await trio.sleep(3)
        assert nodes[1].gossip.mesh_peers("t") == sorted([hosts[0].peer_id, hosts[2].peer_id])
        await nodes[0].gossip.publish("t", b"again")
        await trio.sleep(0.1)
        assert nodes[2].data == [b"again"]


async def test_leaving_a_topic_does_not_end_the_reader(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_nodes(*hosts) as (one, two):
        await connect_all(*hosts)
        for topic in ("u", "v"):
            await one.gossip.join(topic)
            await two.gossip.join(topic)
            await two.gossip.leave("t")
            await two.gossip.leave("t")
            await trio.sleep(1)
            await one.gossip.publish(topic, topic.encode())
            await one.gossip.publish("t", b"not for two")
            await trio.sleep(0.1)
        assert two.data == [b"u", b"v"]


async def test_a_message_just_published_reaches_a_peer_that_subscribes_after_it(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_node(hosts[0], 1, "t") as one, open_node(hosts[1], 2) as two:
        await connect_all(*hosts)
        await trio.sleep(1)
        await one.gossip.publish("t", b"just before")
        await two.gossip.join("t")
        await trio.sleep(0.1)
        assert two.data == [b"just before"]


async def test_graft_prune_and_ihave_go_to_the_peer_they_are_for(autojump_clock):
    (host,) = add_hosts(MemoryNetwork(), 1)
    sent: list[tuple[str, rpc_pb2.ControlMessage]] = []
    async with open_node(host, 1) as node:
        router = node.gossip._pubsub.router

        async def emit(control: rpc_pb2.ControlMessage, to: ID) -> None:
            sent.append((to.to_bytes().decode(), control))

        router.emit_control_message = emit
        a, b, c = ID(b"a"), ID(b"b"), ID(b"c")
        await router._emit_control_msgs({a: ["1"], b: ["2"]}, {b: ["3"]}, {a: {"4": [b"m"]}, c: {"5": [b"n"]}})
    assert [(to, [g.topicID for g in m.graft]) for to, m in sent] == [("a", ["1"]), ("b", ["2"]), ("c", [])]
    assert [(to, [p.topicID for p in m.prune]) for to, m in sent] == [("a", []), ("b", ["3"]), ("c", [])]
    assert [(to, [i.topicID for i in m.ihave]) for to, m in sent] == [("a", ["4"]), ("b", []), ("c", ["5"])]


# --- streams come anew


async def test_a_new_inbound_stream_of_a_go_peer_makes_us_open_a_new_one_with_hello_and_recent_messages(autojump_clock):
    ours, go = add_hosts(MemoryNetwork(latency=0.005), 2)
    async with open_node(ours, 1, "t") as node, raw_peer(go) as peer:
        await connect_all(ours, go)
        first = await peer.open(ours, hello("t"))
        await trio.sleep(5)
        assert len(peer.streams) == 1
        await node.gossip.publish("t", b"lost in its dead pubsub")
        await trio.sleep(0.1)
        await peer.open(ours, hello("t"))
        await trio.sleep(0.02)
        assert len(peer.streams) == 2
        renewed = peer.streams[1]
        assert [change.topicid for change in renewed[0].subscriptions] == ["t"]
        assert [message.data for rpc in renewed for message in rpc.publish] == [b"lost in its dead pubsub"]
        assert [graft.topicID for rpc in renewed for graft in rpc.control.graft] == ["t"]
        await node.gossip.publish("t", b"heard")
        await trio.sleep(0.1)
        assert b"heard" in [message.data for rpc in renewed for message in rpc.publish]
        assert node.gossip.counters["streams_renewed"] == 1
        await trio.sleep(3)
        assert await first.receive_some() == b""  # the older one was read out, and ended


async def test_what_a_new_hello_brings_goes_to_the_new_stream_not_to_the_old(autojump_clock):
    ours, go = add_hosts(MemoryNetwork(latency=0.005), 2)
    async with open_node(ours, 1, "t", "u") as node, raw_peer(go) as peer:
        await connect_all(ours, go)
        await peer.open(ours, hello("t"))
        await trio.sleep(5)
        await node.gossip.publish("u", b"recent")
        await peer.open(ours, hello("t", "u"))
        await trio.sleep(0.02)
        old, new = peer.streams
        assert [graft.topicID for rpc in old for graft in rpc.control.graft] == ["t"]
        assert sorted(graft.topicID for rpc in new for graft in rpc.control.graft) == ["t", "u"]
        assert [message.data for rpc in old for message in rpc.publish] == []
        assert [message.data for rpc in new for message in rpc.publish] == [b"recent"]


async def test_a_stream_may_come_before_the_news_that_its_peer_is_up(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.001), 2)
    real = hosts[0].watch_peers

    @asynccontextmanager
    async def late():
        async with real() as changes:

            async def delayed():
                async for change in changes:
                    await trio.sleep(0.5)
                    yield change

            async with aclosing(delayed()) as later:
                yield later

    hosts[0].watch_peers = late  # type: ignore[method-assign]
    async with open_nodes(*hosts) as (one, two):
        await connect_all(*hosts)
        await trio.sleep(0.2)
        assert one.gossip.topic_peers("t") == [hosts[1].peer_id]
        await trio.sleep(1)
        (link,) = one.gossip._pubsub.links.values()
        assert link.inbound is not None
        await one.gossip.publish("t", b"x")
        await trio.sleep(0.1)
        assert two.data == [b"x"]


async def test_a_stream_that_the_peer_ends_is_opened_again(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t"), other.serve(["/meshsub/1.2.0"]) as inbound:
        await connect_all(ours, other)
        for _ in range(3):
            with trio.fail_after(1):
                arrived = await inbound.receive()
            assert b"t" in await arrived.stream.receive_some()
            await trio.sleep(5)
            await arrived.stream.aclose()


async def test_a_peer_that_ends_every_stream_at_once_is_tried_ever_more_seldom(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t"), other.serve(["/meshsub/1.2.0"]) as inbound:
        await connect_all(ours, other)
        with trio.move_on_after(60):
            async for arrived in inbound:
                await arrived.stream.aclose()
        assert 5 < len(ours.dialled) < 15


async def test_a_first_inbound_stream_renews_nothing(autojump_clock):
    ours, go = add_hosts(MemoryNetwork(latency=0.005), 2)
    async with open_node(ours, 1, "t"), raw_peer(go) as peer:
        await connect_all(ours, go)
        await peer.open(ours, hello("t"))
        await trio.sleep(5)
        assert len(peer.streams) == 1


async def test_a_peer_that_only_now_opens_its_first_stream_is_answered_on_a_new_one(autojump_clock):
    ours, go = add_hosts(MemoryNetwork(latency=0.005), 2)
    async with open_node(ours, 1, "t"), raw_peer(go) as peer:
        await connect_all(ours, go)
        await trio.sleep(30)
        await peer.open(ours, hello("t"))
        await trio.sleep(1)
        assert len(peer.streams) == 2


async def test_refresh_opens_one_new_stream_to_each_peer_and_no_more(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 3)
    async with open_nodes(*hosts) as nodes:
        await connect_all(*hosts)
        await trio.sleep(5)
        before = [len(host.dialled) for host in hosts]
        async with nodes[1].gossip.topic_events() as events:
            await nodes[0].gossip.refresh()
            await trio.sleep(60)
            assert [len(host.dialled) for host in hosts] == [before[0] + 2, before[1], before[2]]
            assert events.statistics().current_buffer_used == 2  # those it began with: nobody left or joined
        assert all(len(node.gossip.mesh_peers("t")) == 2 for node in nodes)
        await nodes[0].gossip.publish("t", b"after")
        await trio.sleep(1)
        assert nodes[1].data == nodes[2].data == [b"after"]


async def test_refresh_leaves_the_streams_to_peers_alone_that_keep_their_pubsub(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 3)
    hosts[2].offers = (*hosts[2].offers, "/ours/1")
    async with open_nodes(*hosts) as nodes:
        await connect_all(*hosts)
        await trio.sleep(5)
        before = len(hosts[0].dialled)
        await nodes[0].gossip.refresh(unless="/ours/1")
        await trio.sleep(5)
        assert [peer for peer, _ in hosts[0].dialled[before:]] == [hosts[1].peer_id]


async def test_nothing_is_lost_while_streams_are_renewed(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.03), 2)
    async with open_nodes(*hosts) as (one, two):
        await connect_all(*hosts)
        await trio.sleep(5)
        for number in range(100):
            if number % 10 == 3:
                await one.gossip.refresh()
            await one.gossip.publish("t", b"%d" % number)
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert sorted(two.data, key=int) == [b"%d" % number for number in range(100)]


async def test_topics_changed_while_a_stream_is_opened_are_announced(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.5), 2)
    async with open_nodes(*hosts) as (one, two):
        await connect_all(*hosts)
        await trio.sleep(5)
        await one.gossip.refresh()
        await trio.sleep(0.25)
        await one.gossip.join("u")
        await one.gossip.leave("t")
        await trio.sleep(2)
        assert two.gossip.topic_peers("u") == [hosts[0].peer_id]
        assert two.gossip.topic_peers("t") == []


async def test_the_host_restarts_and_gossip_goes_on_without_restarting(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 3)
    async with open_nodes(*hosts) as nodes:
        await connect_all(*hosts)
        await trio.sleep(3)
        hosts[0].crash()
        await trio.sleep(3)
        assert nodes[0].gossip.topic_peers("t") == []
        assert nodes[1].gossip.topic_peers("t") == [hosts[2].peer_id]
        hosts[0].restart()
        await connect_all(*hosts)
        await trio.sleep(2)
        assert nodes[0].gossip.topic_peers("t") == sorted([hosts[1].peer_id, hosts[2].peer_id])
        await nodes[0].gossip.publish("t", b"from")
        await nodes[1].gossip.publish("t", b"to")
        await trio.sleep(0.5)
        assert nodes[1].data == [b"from"]
        assert nodes[0].data == [b"to"]
        assert sorted(nodes[2].data) == [b"from", b"to"]


async def test_gossip_restarts_while_its_host_lives_and_is_heard_within_a_second(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 2)
    async with open_node(hosts[0], 1, "t") as one:
        await connect_all(*hosts)
        for life in range(3):
            async with open_node(hosts[1], 2, "t") as two:
                await trio.sleep(1)
                await two.gossip.publish("t", b"%d" % life)
                await one.gossip.publish("t", b"%d" % life)
                await trio.sleep(0.1)
                assert two.data == [b"%d" % life]
            await trio.sleep(5)  # until its messages are not recent
        assert one.data == [b"0", b"1", b"2"]


async def test_partitioned_sides_find_each_other_again(autojump_clock):
    hosts = add_hosts(MemoryNetwork(latency=0.01), 4)
    async with open_nodes(*hosts) as nodes:
        await connect_all(*hosts)
        await trio.sleep(2)
        hosts[0].network.partition(hosts[:2], hosts[2:])
        await trio.sleep(2)
        await nodes[0].gossip.publish("t", b"this side")
        await trio.sleep(5)
        assert [node.data for node in nodes[1:]] == [[b"this side"], [], []]
        hosts[0].network.partition()
        await connect_all(*hosts)
        await trio.sleep(2)
        await nodes[3].gossip.publish("t", b"all sides")
        await trio.sleep(1)
        assert all(b"all sides" in node.data for node in nodes[:3])


async def test_a_peer_whose_stream_ended_for_good_is_off_its_topics_after_seconds(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t") as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        stream = await peer.open(ours, hello("t"))
        await trio.sleep(1)
        assert node.gossip.topic_peers("t") == [other.peer_id]
        await stream.aclose()
        await trio.sleep(1)
        assert node.gossip.topic_peers("t") == [other.peer_id]
        await trio.sleep(5)
        assert node.gossip.topic_peers("t") == []
        assert node.gossip.mesh_peers("t") == []


# --- what peers do wrong


async def _malformed(ours: MemoryHost, peer, garbage: bytes) -> None:
    stream = await peer.open(ours, hello("t"))
    await stream.send_all(garbage)
    await trio.sleep(0.1)
    assert await stream.receive_some() == b""  # only its stream ended


@pytest.mark.parametrize(
    ("garbage", "counter"),
    [
        (b"\x03\xff\xfe\n", "rpcs_malformed"),
        (b"\x05\x12\xff\xff\xff\x0f", "rpcs_malformed"),
        (b"\xff" * 20, "rpcs_malformed"),
        (b"\xff\xff\xff\xff\x7f", "rpcs_oversized"),
        (b"\x04\x0a\x02\x12\xff", "rpcs_malformed"),
    ],
)
async def test_a_malformed_rpc_ends_the_stream_of_its_peer_only(autojump_clock, garbage, counter):
    ours, good, bad = add_hosts(MemoryNetwork(), 3)
    told = []
    complain = {"on_offence": lambda peer, offence: told.append((peer, offence))}
    async with open_node(ours, 1, "t", **complain) as one, open_node(good, 2, "t") as two, raw_peer(bad) as peer:
        await connect_all(ours, good, bad)
        await _malformed(ours, peer, garbage)
        assert one.gossip.counters[counter] == 1
        assert told == [(bad.peer_id, counter.removeprefix("rpcs_"))]
        await two.gossip.publish("t", b"still here")
        await trio.sleep(0.1)
        assert one.data == [b"still here"]


@pytest.mark.parametrize("broken", ["key", "signature", "author", "no author", "no signature"])
async def test_a_message_wrongly_signed_is_refused_and_the_next_is_taken(autojump_clock, broken):
    ours, other = add_hosts(MemoryNetwork(), 2)
    message = signed(9, "t", b"wrong")
    match broken:
        case "key":
            message.from_id, message.key = b"\x12\x20" + bytes(32), b"\x08\x01\x12\x01\xff"
        case "signature":
            message.signature = bytes(64)
        case "author":
            message.from_id = b"\xff\xfe"
        case "no author":
            message.from_id = b""
        case "no signature":
            message.ClearField("signature")
    async with open_node(ours, 1, "t") as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        right = signed(9, "t", b"right", seqno=2)
        await peer.open(ours, hello("t"), rpc_pb2.RPC(publish=[message]), rpc_pb2.RPC(publish=[right]))
        await trio.sleep(0.1)
        assert node.data == [b"right"]
        assert node.gossip.counters["messages_refused"] == 1


async def test_a_thousand_messages_in_one_rpc_and_more_are_survived(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t") as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        many = rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["t"], data=b"%d" % number) for number in range(1024)])
        await peer.open(ours, hello("t"), many)
        await trio.sleep(0.1)
        assert node.gossip.counters["messages_refused"] == 1024
        many.publish.add(topicIDs=["t"])
        await peer.open(ours, hello("t"), many)
        await trio.sleep(0.1)
        assert node.gossip.counters["rpcs_malformed"] == 1


async def test_a_message_asked_for_again_and_again_is_sent_three_times(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t") as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        await trio.sleep(0.05)
        await node.gossip.publish("t", b"big")
        (message_id,) = node.gossip._pubsub.router.mcache.msgs
        want = rpc_pb2.RPC()
        want.control.iwant.add(messageIDs=[message_id] * 1000)
        await peer.open(ours, hello(), *[want] * 8)
        await trio.sleep(0.01)
        assert len([message for rpcs in peer.streams for rpc in rpcs for message in rpc.publish]) == 3


async def test_a_peer_subscribes_to_a_hundred_topics_and_no_more(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1) as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        await peer.open(ours, hello(*map(str, range(200))))
        await trio.sleep(0.1)
        assert len(node.gossip._pubsub.peer_topics) == 100
        assert node.gossip.counters["subscriptions_refused"] == 100


async def test_nothing_of_a_peer_is_kept_when_it_is_gone(autojump_clock):
    ours, other = add_hosts(MemoryNetwork(), 2)
    async with open_node(ours, 1, "t") as node, raw_peer(other) as peer:
        await connect_all(ours, other)
        noise = hello("t", "u")
        noise.publish.append(signed(9, "t", b"x"))
        for topic in ("t", "u", "v"):
            noise.control.graft.add(topicID=topic)
            noise.control.ihave.add(topicID=topic, messageIDs=[b"id"])
            noise.control.prune.add(topicID=topic, backoff=2)
        noise.control.iwant.add(messageIDs=[b"id"])
        noise.control.idontwant.add(messageIDs=[b"id"])
        await peer.open(ours, noise)
        await trio.sleep(1)
        pubsub, router = node.gossip._pubsub, node.gossip._pubsub.router
        assert pubsub.links
        assert set(router.back_off) == {"t"}
        ours.network.drop(ours, other)
        await trio.sleep(10)
        for kept in (
            pubsub.links,
            pubsub.peers,
            pubsub.peer_queues,
            pubsub.peer_topics,
            pubsub._peer_subscription_count,
            pubsub._replayed_recent_topics,
            pubsub._pending_announce_retries,
            router.peer_protocol,
            router.dont_send_message_ids,
            router.back_off,
            router.mesh["t"],
            router.fanout,
            router.graft_flood_tracking,
            router.equivocation_detection,
            router._retransmitted,
            router._pending_messages,
            router._pending_control,
            router.recent_message_deliveries,
            router.mcache.msgs,
        ):
            assert not kept


async def test_rotating_topics_leave_nothing_behind(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    async with open_nodes(*hosts, topic="0") as (one, two):
        await connect_all(*hosts)
        for number in range(1, 20):
            for node in (one, two):
                await node.gossip.join(str(number))
                await node.gossip.leave(str(number - 1))
            await trio.sleep(2)
            await one.gossip.publish(str(number), b"%d" % number)
            await trio.sleep(5)
        assert two.data == [b"%d" % number for number in range(1, 20)]
        pubsub, router = one.gossip._pubsub, one.gossip._pubsub.router
        assert set(router.mesh) == set(pubsub.peer_topics) == set(pubsub.subscribed_topics_send) == {"19"}
        assert not router.back_off
        assert router.scorer is None
        assert not router.time_since_last_publish
        assert sum(map(len, pubsub._replayed_recent_topics.values())) == 1


async def test_gossip_starts_no_thread_and_what_it_saw_expires_with_its_clock(autojump_clock):
    hosts = add_hosts(MemoryNetwork(), 2)
    threads = threading.active_count()
    async with open_nodes(*hosts) as (one, two):
        assert threading.active_count() == threads
        await connect_all(*hosts)
        await trio.sleep(1)
        await one.gossip.publish("t", b"x")
        (message_id,) = one.gossip._pubsub.router.mcache.msgs
        await trio.sleep(100)
        assert two.gossip._pubsub.seen_messages.has(message_id)
        await trio.sleep(100)
        assert not two.gossip._pubsub.seen_messages.has(message_id)


async def test_the_seen_cache_forgets_by_age_and_by_number(autojump_clock):
    seen = SeenCache(ttl=10, most=3)
    assert seen.add(b"1")
    assert not seen.add(b"1")
    await trio.sleep(9)
    assert seen.has(b"1")
    await trio.sleep(1)
    assert not seen.has(b"1")
    for number in range(5):
        seen.add(bytes([number]))
    assert [seen.has(bytes([number])) for number in range(5)] == [False, False, True, True, True]
    assert len(seen) == 3


def test_the_message_cache_is_bounded_in_bytes():
    cache = BoundedMessageCache(most=100)
    for number in range(10):
        cache.put(rpc_pb2.Message(seqno=bytes([number]), data=bytes(40), topicIDs=["t"]))
    assert len(cache.msgs) == 2
    for _ in range(5):
        cache.shift()
    assert not cache.msgs


async def test_a_peers_queue_is_bounded_in_bytes_and_takes_back_what_was_not_sent():
    queue = PeerQueue(max_message_size=1000, most_bytes=1000)
    rpcs = [rpc_pb2.RPC(publish=[rpc_pb2.Message(data=bytes([number]) * 400)]) for number in range(3)]
    assert [queue.push(rpc) for rpc in rpcs] == [True, True, False]
    first = await queue.pop()
    queue.push_back(first)
    assert await queue.pop() == rpcs[0]
    assert queue.push(rpcs[2])


# --- bytes


def test_an_rpc_is_read_with_the_instance_in_it():
    rpc = hello("t")
    rpc.senderRecord = b"a record"
    decoded, instance = decode_rpc_untrusted(rpc.SerializeToString() + instance_field(b"12345678"))
    assert [change.topicid for change in decoded.subscriptions] == ["t"]
    assert not decoded.HasField("senderRecord")
    assert instance == b"12345678"
    assert decode_rpc_untrusted(hello("t").SerializeToString())[1] is None


@pytest.mark.parametrize(
    "rpc",
    [
        rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["a", "b"])]),
        rpc_pb2.RPC(publish=[rpc_pb2.Message()]),
        rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["t"], seqno=bytes(65))]),
        rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["t" * 257])]),
        rpc_pb2.RPC(control=rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave()] * 1025)),
        rpc_pb2.RPC(control=rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[bytes(1 << 20)])])),
        hello(*["t"] * 257),
        hello("t" * 257),
    ],
)
def test_an_rpc_beyond_the_limits_is_refused(rpc):
    with pytest.raises(UntrustedDataError):
        decode_rpc_untrusted(rpc.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_for_an_rpc_raise_only_untrusted_data_error(data):
    with suppress(UntrustedDataError):
        decode_rpc_untrusted(data)


@given(st.data())
def test_a_damaged_rpc_raises_only_untrusted_data_error(data):
    rpc = hello("t", "u")
    rpc.publish.append(signed(9, "t", b"x"))
    rpc.control.graft.add(topicID="t")
    good = bytearray(rpc.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UntrustedDataError):
        decode_rpc_untrusted(bytes(good))


async def test_what_is_not_accepted_is_neither_delivered_nor_passed_on(autojump_clock):
    network = MemoryNetwork()
    one, two, three = add_hosts(network, 3)
    asked = []

    def accept(topic: str, author: str, forwarder: str) -> bool:
        asked.append((topic, author, forwarder))
        return topic == "open"

    async with (
        open_node(one, 1, "t", "open") as a,
        open_node(two, 2, "t", "open", accept=accept) as b,
        open_node(three, 3, "t", "open") as c,
    ):
        await connect_all(one, two)
        await connect_all(two, three)  # a line: what reaches the third went through the second
        await trio.sleep(3)
        await a.gossip.publish("t", b"kept out")
        await a.gossip.publish("open", b"let in")
        await trio.sleep(3)
        assert (b.data, c.data) == ([b"let in"], [b"let in"])
        assert ("t", one.peer_id, one.peer_id) in asked
        assert b.gossip.counters["messages_not_accepted"] == 1
        await b.gossip.publish("t", b"our own")
        await trio.sleep(1)
        assert a.data == [b"our own"]


async def test_a_muted_author_is_neither_checked_nor_passed_on_and_is_heard_again_after(autojump_clock):
    one, two, three = add_hosts(MemoryNetwork(), 3)
    async with open_node(one, 1, "t") as a, open_node(two, 2, "t") as b, open_node(three, 3, "t") as c:
        await connect_all(one, two)
        await connect_all(two, three)  # a line: what reaches the third went through the second
        await trio.sleep(3)
        b.gossip.mute(one.peer_id, 10.0)
        await a.gossip.publish("t", b"unheard")
        await c.gossip.publish("t", b"another's")
        await trio.sleep(5)
        assert (b.data, c.data) == ([b"another's"], [])
        assert b.gossip.counters["messages_unheard"] == 1
        await trio.sleep(6)
        await a.gossip.publish("t", b"heard")
        await trio.sleep(3)
        assert (b.data, c.data) == ([b"another's", b"heard"], [b"heard"])


async def test_the_muted_are_bounded_and_forgotten(autojump_clock):
    (host,) = add_hosts(MemoryNetwork(), 1)
    async with open_node(host, 1, "t") as node:
        keys = [create_new_key_pair(number.to_bytes(32, "big")) for number in range(1100)]
        names = [ID.from_pubkey(pair.public_key) for pair in keys]
        for name in names:
            node.gossip.mute(name.to_base58(), 10.0)
        assert node.gossip.hears(names[0].to_bytes())
        assert not node.gossip.hears(names[-1].to_bytes())
        assert sum(not node.gossip.hears(name.to_bytes()) for name in names) == 1024
        await trio.sleep(11)
        assert node.gossip.hears(names[-1].to_bytes())
        with pytest.raises(ValueError, match=r".*"):
            node.gossip.mute("no peer ID 0OIl", 1.0)
