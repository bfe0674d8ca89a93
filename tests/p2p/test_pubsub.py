"""Gossip over a network in memory, on a virtual clock: messages and topics, who gets them, who is not heard.

Each mend of py-libp2p has a test that fails without it; those of streams are in test_pubsub_links.py, those of what
peers do wrong in test_pubsub_wrongs.py.
"""

from __future__ import annotations

import pytest
import trio

from edgevpn.p2p.memory_host import MemoryNetwork
from edgevpn.p2p.pubsub import MessageTooLongError, Received, TopicEvent, open_gossip
from tests.p2p.gossip_nodes import open_node, open_nodes
from tests.p2p.memory_nodes import add_hosts, connect_all, hello, raw_peer, seed

from libp2p.crypto.ed25519 import create_new_key_pair  # isort: skip  # after edgevpn.p2p
from libp2p.peer.id import ID  # isort: skip
from libp2p.pubsub.pb import rpc_pb2  # isort: skip


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


# --- who is not heard


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
