"""What peers of a gossip do wrong: it costs them a stream, us neither memory nor the others."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest
import trio
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.gossip_router import BoundedMessageCache, PeerQueue, SeenCache
from edgevpn.p2p.gossip_rpc import decode_rpc_untrusted, instance_field
from edgevpn.p2p.memory_host import MemoryHost, MemoryNetwork
from tests.p2p.gossip_nodes import open_node, open_nodes, signed
from tests.p2p.memory_nodes import add_hosts, connect_all, hello, raw_peer

from libp2p.pubsub.pb import rpc_pb2  # isort: skip


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
