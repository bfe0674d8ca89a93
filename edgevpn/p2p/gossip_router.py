"""py-libp2p's GossipSub router, mended: who gets which message, and what may be kept.

The mesh rules are py-libp2p's (gossipsub v1.1 and v1.2 of the libp2p specs). Changed:

- our own messages are flooded to every peer known to be subscribed, as the Go program does; what others publish goes to
  the mesh;
- no scoring, no rate limit on messages (it hit our own), no peer exchange (it makes us dial what a stranger says);
- a topic left can be joined again after a second, on both ends, not after 10 to 60 s;
- GRAFT, PRUNE and IHAVE go to the peer they are for (py-libp2p let the lists grow from peer to peer);
- everything kept is bounded, in bytes where messages are kept, and timed by the monotonic clock.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.rpc_queue import RpcQueue

QUEUE_RPCS = 512  # to one peer
HEARTBEAT = 1  # s
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 5, 12

_WINDOW, _HISTORY = 3, 5  # heartbeats a message is offered for, and kept for
_CACHED_MESSAGES = 4096
_MAX_IDS = 5000  # message ids in one IHAVE or IWANT
_RETRANSMISSIONS = 3  # of one message to one peer, within the history
_PRUNE_BACK_OFF, _LEAVE_BACK_OFF, _MAX_BACK_OFF = 60, 1, 3600  # s
_IDONTWANT_FROM = 1024  # bytes; below, saying so costs as much as the copy it saves


class SeenCache:
    """Ids of messages had within `ttl` seconds, the newest `most` of them."""

    def __init__(self, ttl: float, most: int) -> None:
        self._ttl = ttl
        self._most = most
        self._expiry: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._expiry)

    def add(self, message_id: bytes) -> bool:
        """False if it was there."""
        if self.has(message_id):
            return False
        self._expiry[message_id] = trio.current_time() + self._ttl
        if len(self._expiry) > self._most:
            self._expiry.popitem(last=False)
        return True

    def has(self, message_id: bytes) -> bool:
        now = trio.current_time()
        while self._expiry and next(iter(self._expiry.values())) <= now:
            self._expiry.popitem(last=False)
        return message_id in self._expiry


class BoundedMessageCache(MessageCache):
    """The messages of the last heartbeats, up to `most` bytes; further ones are not kept (their peers have them)."""

    def __init__(self, most: int) -> None:
        super().__init__(_WINDOW, _HISTORY)
        self._most = most

    def put(self, msg: rpc_pb2.Message) -> None:
        kept = sum(len(message.data) for message in self.msgs.values())
        if kept + len(msg.data) <= self._most and len(self.msgs) < _CACHED_MESSAGES:
            super().put(msg)


class PeerQueue(RpcQueue):
    """What is to be sent to one peer: at most 512 RPCs and `most_bytes`; when full, the new one is dropped."""

    def __init__(self, max_message_size: int, most_bytes: int) -> None:
        super().__init__(max_size=QUEUE_RPCS, max_message_size=max_message_size)
        self._most_bytes = most_bytes
        self._bytes = 0

    def push(self, rpc: rpc_pb2.RPC, priority: bool = False) -> bool:
        size = rpc.ByteSize()
        if self._bytes and self._bytes + size > self._most_bytes:
            return False
        if not super().push(rpc, priority):
            return False
        self._bytes += size
        return True

    async def pop(self) -> rpc_pb2.RPC | None:
        rpc = await super().pop()
        if rpc is not None:
            self._bytes -= rpc.ByteSize()
        return rpc

    def push_back(self, rpc: rpc_pb2.RPC) -> None:
        """Put what `pop` gave, and could not be sent, in front again."""
        self._queue._priority.appendleft(rpc)
        self._bytes += rpc.ByteSize()


class Router(GossipSub):
    """The mesh. Calls `deliver(from peer, message)` for each new message of a joined topic that others published.

    What `accept` refuses is neither delivered nor passed on.
    """

    def __init__(
        self,
        *,
        direct_peers: Sequence[PeerInfo],
        max_message_size: int,
        counters: Counter[str],
        deliver: Callable[[ID, rpc_pb2.Message], None],
        accept: Callable[[ID, rpc_pb2.Message], bool],
        on_heartbeat: Callable[[], None],
    ) -> None:
        super().__init__(
            [PROTOCOL_ID_V12, PROTOCOL_ID_V11],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            direct_peers=direct_peers,
            gossip_window=_WINDOW,
            gossip_history=_HISTORY,
            heartbeat_interval=HEARTBEAT,
            prune_back_off=_PRUNE_BACK_OFF,
            unsubscribe_back_off=_LEAVE_BACK_OFF,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
        )
        self.scorer = None  # it lets everybody through, and keeps a counter for each topic a peer was ever on
        self.mcache = BoundedMessageCache(max(64 << 20, 2 * max_message_size))
        self._counters = counters
        self._deliver = deliver
        self._accept = accept
        self._on_heartbeat = on_heartbeat
        self._retransmitted: defaultdict[ID, Counter[bytes]] = defaultdict(Counter)
        self._beats = 0

    # --- messages

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """A new, valid message: to our own readers, and on."""
        assert self.pubsub is not None  # noqa: S101  # attached when the Pubsub is made
        if msg_forwarder != self.pubsub.my_id and not self._accept(msg_forwarder, pubsub_msg):
            self._counters["messages_not_accepted"] += 1
            return
        self.mcache.put(pubsub_msg)
        message_id = self.pubsub.get_message_id(pubsub_msg)
        if msg_forwarder != self.pubsub.my_id:
            self._deliver(msg_forwarder, pubsub_msg)
            if len(pubsub_msg.data) >= _IDONTWANT_FROM:
                await self._emit_idontwant_for_message(message_id, pubsub_msg.topicIDs)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        origin = ID(pubsub_msg.from_id)
        for peer_id in list(self._get_peers_to_send(pubsub_msg.topicIDs, msg_forwarder, origin, message_id)):
            self.send_rpc(peer_id, rpc)

    def _get_peers_to_send(
        self, topic_ids: Iterable[str], msg_forwarder: ID, origin: ID, msg_id: bytes | None = None
    ) -> Iterable[ID]:
        assert self.pubsub is not None  # noqa: S101
        if msg_forwarder != self.pubsub.my_id:
            return super()._get_peers_to_send(topic_ids, msg_forwarder, origin, msg_id)
        flood = set(self.direct_peers)
        for topic in topic_ids:
            flood |= self.pubsub.peer_topics.get(topic, set())
        return {peer for peer in flood if msg_id not in self.dont_send_message_ids.get(peer, ())}

    async def send_recent_messages(self, peer_id: ID, topic: str) -> None:
        """To a peer that just subscribed; through its queue (py-libp2p writes beside it, into the middle of others)."""
        for message_id in self.mcache.window(topic):
            message = self.mcache.get(message_id)
            if message is not None:
                self.send_rpc(peer_id, rpc_pb2.RPC(publish=[message]))

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        """Messages as they are, shared by all queues; what has control parts is split and retried by py-libp2p."""
        assert self.pubsub is not None  # noqa: S101
        queue = self.pubsub.peer_queues.get(peer_id)
        if queue is None:
            return
        rpc.ClearField("senderRecord")
        if rpc.HasField("control") or peer_id in self._pending_control:
            super().send_rpc(peer_id, rpc, priority)
        elif not queue.push(rpc, priority):
            self._counters["rpcs_dropped"] += 1

    def _handle_dropped_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, reason: str) -> None:
        self._counters["rpcs_dropped"] += 1
        super()._handle_dropped_rpc(peer_id, rpc, reason)

    # --- what peers ask for and offer

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        if ihave_msg.topicID in self.mesh:
            del ihave_msg.messageIDs[_MAX_IDS:]
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Each message at most three times: py-libp2p sends it as often as its id is named."""
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        sent = self._retransmitted[sender_peer_id]
        for message_id in set(iwant_msg.messageIDs[:_MAX_IDS]):
            message = self.mcache.get(message_id)
            if message is not None and sent[message_id] < _RETRANSMISSIONS:
                sent[message_id] += 1
                self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))

    async def handle_prune(self, prune_msg: rpc_pb2.ControlPrune, sender_peer_id: ID) -> None:
        """The back-off is what the peer says, for topics we are on (py-libp2p refuses its GRAFT for 10 s, then 60)."""
        topic = prune_msg.topicID
        if topic in self.mesh:
            self.mesh[topic].discard(sender_peer_id)
            self._add_back_off(sender_peer_id, topic, False, min(prune_msg.backoff, _MAX_BACK_OFF))

    # --- the mesh

    def forget_mesh(self, peer_id: ID, topic: str | None = None) -> None:
        """The peer does not know any more that it is in our mesh (of `topic`, or any)."""
        for name, peers in self.mesh.items():
            if topic in (None, name):
                peers.discard(peer_id)

    def remove_peer(self, peer_id: ID) -> None:
        super().remove_peer(peer_id)
        self._retransmitted.pop(peer_id, None)

    def _get_in_topic_gossipsub_peers_from_minus(
        self, topic: str, num_to_select: int, minus: Iterable[ID], backoff_check: bool = False
    ) -> list[ID]:
        """As py-libp2p, but without direct peers, which are never in a mesh, and for topics nobody is on."""
        assert self.pubsub is not None  # noqa: S101
        if topic not in self.pubsub.peer_topics:
            return []
        not_these = {*minus, *self.direct_peers}
        return super()._get_in_topic_gossipsub_peers_from_minus(topic, num_to_select, not_these, backoff_check)

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        for peer_id in dict.fromkeys([*peers_to_graft, *peers_to_prune, *peers_to_gossip]):
            control = rpc_pb2.ControlMessage()
            for topic in peers_to_graft.get(peer_id, ()):
                control.graft.add(topicID=topic)
            for topic in peers_to_prune.get(peer_id, ()):
                control.prune.add(topicID=topic, backoff=_PRUNE_BACK_OFF)
            for topic, message_ids in peers_to_gossip.get(peer_id, {}).items():
                control.ihave.add(topicID=topic, messageIDs=message_ids[:_MAX_IDS])
            await self.emit_control_message(control, peer_id)

    def _add_back_off(self, peer: ID, topic: str, is_unsubscribe: bool, backoff_duration: int = 0) -> None:
        seconds = backoff_duration or (_LEAVE_BACK_OFF if is_unsubscribe else _PRUNE_BACK_OFF)
        until = self.back_off.setdefault(topic, {})
        until[peer] = max(until.get(peer, 0), trio.current_time() + seconds)  # type: ignore[assignment]  # a float

    def _check_back_off(self, peer: ID, topic: str) -> bool:
        return self.back_off.get(topic, {}).get(peer, 0) > trio.current_time()

    def _periodic_security_cleanup(self) -> None:
        """Each heartbeat: forget what is over."""
        super()._periodic_security_cleanup()
        now = trio.current_time()
        self.back_off = {
            topic: left
            for topic, peers in self.back_off.items()
            if (left := {peer: until for peer, until in peers.items() if until > now})
        }
        self._beats += 1
        if self._beats % _HISTORY == 0:
            self._retransmitted.clear()
        self._on_heartbeat()
