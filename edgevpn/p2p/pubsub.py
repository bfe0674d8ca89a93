"""Gossip: topics, messages to everyone on a topic, and who is on it.

`open_gossip` runs py-libp2p's pubsub (GossipSub v1.1 and v1.2, messages signed and checked: StrictSign) on a stand-in
host. It outlives the host: when that goes away all peers leave all topics, and come back with it.

    pubsub.py        what the rest of the program uses
    pubsub_links.py  the streams to and from each peer
    gossip_router.py who gets which message
    gossip_rpc.py    what a peer's bytes must look like
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.pb import rpc_pb2
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError
from edgevpn.p2p.gossip_router import QUEUE_RPCS, Router
from edgevpn.p2p.host_service import HostService
from edgevpn.p2p.pubsub_links import RPC_OVERHEAD, LinkedPubsub
from edgevpn.p2p.stand_in import StandIn
from edgevpn.proto.queue_state import QueueState, fullest

MAX_MESSAGE_SIZE = 20 << 20
QUEUE_MESSAGES = 256
QUEUE_BYTES = 64 << 20
_TOPIC_EVENTS = 1024
_MUTED = 1024
_COUNTERS = (
    "messages_dropped",  # by the reader's queue
    "messages_refused",  # wrongly signed
    "messages_not_accepted",  # by the caller
    "messages_unheard",  # of muted authors
    "rpcs_malformed",
    "rpcs_oversized",
    "rpcs_dropped",  # outbound, a peer's queue was full
    "streams_refused",  # outbound, by the peer
    "streams_renewed",  # because a peer made a new pubsub
    "subscriptions_refused",
    "topic_events_dropped",
)


# It logs what peers do wrong, which is up to them. Said at import: to say it walks over all loggers, and would copy the
# page of each in an actor that was forked.
logging.getLogger("libp2p.pubsub").setLevel(logging.CRITICAL)


class MessageTooLongError(EdgevpnError):
    """A message is longer than the network allows: max_message_size in the token."""


@dataclass(frozen=True)
class Received:
    """A message of a joined topic, published by another node."""

    topic: str
    from_peer: str  # the peer that passed it on to us
    author: str  # the peer that signed it
    data: bytes


@dataclass(frozen=True)
class TopicEvent:
    """A peer joined or left a topic that we are on."""

    topic: str
    peer_id: str
    joined: bool


Accept = Callable[[str, str, str], bool]  # topic, author, the peer that passed it on
OnOffence = Callable[[str, str], None]  # a peer, and what it did (conduct.py)


class Gossip:
    """The topics we are on. Iterate it for the messages that arrive: one reader."""

    def __init__(
        self, counters: Counter[str], max_message_size: int, queue_messages: int, accept: Accept | None = None
    ) -> None:
        self.counters = counters
        self._accept = accept
        self._max_message_size = max_message_size
        self._queue_messages = queue_messages
        self._pubsub: LinkedPubsub
        self._queue: deque[Received] = deque()
        self._queued_bytes = 0
        self._arrived = trio.Event()
        self._muted: dict[bytes, float] = {}  # authors, until when
        self._watchers: set[trio.MemorySendChannel[TopicEvent]] = set()

    async def join(self, topic: str) -> None:
        """Subscribe. Peers that are on the topic already are told as joining."""
        if topic in self._pubsub.topic_ids:
            return
        await self._pubsub.subscribe(topic)
        for peer in self.topic_peers(topic):
            self._tell(TopicEvent(topic, peer, joined=True))

    async def leave(self, topic: str) -> None:
        """Unsubscribe. What arrived before is still delivered."""
        if topic not in self._pubsub.topic_ids:
            return
        for peer in self.topic_peers(topic):
            self._tell(TopicEvent(topic, peer, joined=False))
        await self._pubsub.unsubscribe(topic)

    async def publish(self, topic: str, data: bytes) -> int:
        """Send to every peer known to be on the topic, and return how many those are.

        Raises MessageTooLongError.
        """
        if len(data) > self._max_message_size:
            raise MessageTooLongError(
                f"a message of {len(data)} bytes is too long: this network allows {self._max_message_size}"
            )
        await self._pubsub.publish(topic, data)
        return len(self.topic_peers(topic))

    def mute(self, author: str, seconds: float) -> None:
        """Drop what this peer publishes unchecked for so long; at most 1024 peers, the first of them go."""
        now = trio.current_time()
        self._muted = {one: until for one, until in self._muted.items() if until > now}
        self._muted[ID.from_string(author).to_bytes()] = now + seconds
        if len(self._muted) > _MUTED:
            del self._muted[next(iter(self._muted))]

    def topic_peers(self, topic: str) -> list[str]:
        """The connected peers that are on a topic."""
        return sorted(peer.to_base58() for peer in self._pubsub.peer_topics.get(topic, ()))

    def mesh_peers(self, topic: str) -> list[str]:
        """Those of them that messages of others are passed on to."""
        return sorted(peer.to_base58() for peer in self._pubsub.router.mesh.get(topic, ()))

    async def refresh(self, unless: str = "") -> None:
        """Open new streams to all peers, each with our subscriptions first; not to those that offer `unless`.

        After a rotation: a Go node has made a new pubsub then, to which the older streams do not lead.
        """
        self._pubsub.refresh(unless)
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def topic_events(self) -> AsyncIterator[trio.MemoryReceiveChannel[TopicEvent]]:
        """Who is on our topics now, as joining, then the changes. A reader 1024 events late loses some: counted."""
        send, receive = trio.open_memory_channel[TopicEvent](math.inf)
        with send, receive:
            for topic in self._pubsub.topic_ids:
                for peer in self.topic_peers(topic):
                    send.send_nowait(TopicEvent(topic, peer, joined=True))
            self._watchers.add(send)
            try:
                yield receive
            finally:
                self._watchers.discard(send)

    def queue_states(self) -> dict[str, QueueState]:
        """What arrived and is not read yet, and what is to be sent to the peers."""
        counters = self.counters
        return {
            "received": QueueState(len(self._queue), self._queue_messages, counters["messages_dropped"]),
            "to peers": fullest(map(len, self._pubsub.peer_queues.values()), QUEUE_RPCS, counters["rpcs_dropped"]),
        }

    def __aiter__(self) -> Gossip:
        return self

    async def __anext__(self) -> Received:
        while not self._queue:
            self._arrived = trio.Event()
            await self._arrived.wait()
        received = self._queue.popleft()
        self._queued_bytes -= len(received.data)
        await trio.lowlevel.checkpoint()
        return received

    # --- told by the pubsub

    def attach(self, pubsub: LinkedPubsub) -> None:
        self._pubsub = pubsub

    def accept(self, from_peer: ID, message: rpc_pb2.Message) -> bool:
        """Whether a message may be delivered and passed on."""
        if self._accept is None:
            return True
        author = ID(message.from_id).to_base58()
        return all(self._accept(topic, author, from_peer.to_base58()) for topic in message.topicIDs)

    def hears(self, author: bytes) -> bool:
        """Whether what claims to be this peer's is to be looked at."""
        return not self._muted or self._muted.get(author, 0.0) <= trio.current_time()

    def deliver(self, from_peer: ID, message: rpc_pb2.Message) -> None:
        """Into the reader's queue; when it is full the oldest go."""
        author = ID(message.from_id).to_base58()
        received = Received(message.topicIDs[0], from_peer.to_base58(), author, message.data)
        self._queue.append(received)
        self._queued_bytes += len(received.data)
        while len(self._queue) > self._queue_messages or (self._queued_bytes > QUEUE_BYTES and len(self._queue) > 1):
            self._queued_bytes -= len(self._queue.popleft().data)
            self.counters["messages_dropped"] += 1
        self._arrived.set()

    def topic_changed(self, topic: str, peer_id: ID, joined: bool) -> None:
        if topic in self._pubsub.topic_ids:
            self._tell(TopicEvent(topic, peer_id.to_base58(), joined))

    def heartbeat(self) -> None:
        self._pubsub.check_silent()

    def _tell(self, event: TopicEvent) -> None:
        for watcher in self._watchers:
            if watcher.statistics().current_buffer_used < _TOPIC_EVENTS:
                watcher.send_nowait(event)
            else:
                self.counters["topic_events_dropped"] += 1


@asynccontextmanager
async def open_gossip(
    service: HostService,
    key_seed: bytes,
    max_message_size: int = MAX_MESSAGE_SIZE,
    *,
    direct_peers: Sequence[str] = (),
    queue_messages: int = QUEUE_MESSAGES,
    accept: Accept | None = None,
    on_offence: OnOffence = lambda _peer, _offence: None,
) -> AsyncIterator[Gossip]:
    """Run pubsub on the host behind `service`.

    `key_seed`: the 32 bytes of the node's Ed25519 key, which signs what we publish. `direct_peers` (multiaddr/p2p/ID)
    get every message, and are in no mesh. `accept(topic, author, forwarder)`: whether a message of others is delivered
    and passed on. `on_offence` is told of peers that send what is no pubsub, or wrongly signed.
    """
    counters: Counter[str] = Counter(dict.fromkeys(_COUNTERS, 0))
    host = StandIn(service, key_seed, counters=counters)
    gossip = Gossip(counters, max_message_size, queue_messages, accept)
    router = Router(
        direct_peers=[info_from_p2p_addr(Multiaddr(peer)) for peer in direct_peers],
        max_message_size=max_message_size + RPC_OVERHEAD,
        counters=counters,
        deliver=gossip.deliver,
        accept=gossip.accept,
        on_heartbeat=gossip.heartbeat,
    )
    async with trio.open_nursery() as nursery:
        pubsub = LinkedPubsub(
            host,
            router,
            nursery,
            max_message_size=max_message_size,
            counters=counters,
            topic_changed=gossip.topic_changed,
            on_offence=on_offence,
            hears=gossip.hears,
        )
        gossip.attach(pubsub)
        host.followers.append(pubsub)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            nursery.start_soon(host.run)
            yield gossip
        nursery.cancel_scope.cancel()  # not in a `finally`: a cancelled exit would swallow the caller's exception
