"""Gossip's streams that end, come anew, or come early; hosts that go and come. In memory, on a virtual clock."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import trio

from edgevpn.p2p.memory_host import MemoryNetwork
from tests.p2p.gossip_nodes import open_node, open_nodes
from tests.p2p.memory_nodes import add_hosts, connect_all, hello, raw_peer


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
