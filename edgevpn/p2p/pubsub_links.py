"""py-libp2p's Pubsub, mended: the meshsub streams to and from each peer, and what comes in on them.

Signing, announcing subscriptions and passing messages to the router are py-libp2p's. Changed is everything between it
and the peers. Each connected peer has one task that keeps an outbound stream to it:

    open -> say hello (our subscriptions) -> send from the peer's queue -+
     ^                                                                   |
     +----- the stream ended, or `reopen`: what was not sent is kept ----+

and one inbound stream; a newer one takes over, the older is read to its end for what it still carries.

A Go node makes a new pubsub at each rotation, and opens a new stream to us. Our older outbound stream then leads to its
dead pubsub, and what we write there is lost. So a new inbound stream makes us open a new outbound one at once and send
the recent messages again, unless its hello names the pubsub we already speak with (see gossip_rpc.py): peers of ours
also open new streams, and both would go on opening streams for ever.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IncompleteReadError, MessageTooLarge
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.gossip_router import PeerQueue, Router, SeenCache
from edgevpn.p2p.gossip_rpc import INSTANCE_SIZE, decode_rpc_untrusted, instance_field
from edgevpn.p2p.host_service import PeerUp
from edgevpn.p2p.stand_in import StandIn, StandInStream

SEEN_TTL = 120.0  # s
SEEN_MOST = 65536
RPC_OVERHEAD = 64 * 1024  # bytes an RPC may be longer than the longest message
MAX_TOPICS_PER_PEER = 100

_RETRY_FIRST, _RETRY_MOST = 0.1, 10.0  # s between tries to open a stream
_SETTLED = 2.0  # s after which a stream that ends is opened again without pause, and is no news to a peer
_SILENCE = 3.0  # s without an inbound stream after which the peer's subscriptions are forgotten
_DRAIN = 2.0  # s an older inbound stream is still read


@dataclass
class Link:
    """What we know of one connected peer."""

    queue: PeerQueue
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    reopen: trio.Event = field(default_factory=trio.Event)
    retry: trio.Event = field(default_factory=trio.Event)
    opened: float | None = None  # when the outbound stream was, None when there is none
    inbound: trio.CancelScope | None = None  # of the newest inbound stream
    silent_since: float | None = None
    heard: bool = False  # whether the peer ever said hello
    instance: bytes | None = None  # of the pubsub that said it, if it is of ours


TopicChange = Callable[[str, ID, bool], None]


class LinkedPubsub(Pubsub):
    """Runs as py-libp2p's service; a follower of its stand-in host."""

    host: StandIn  # type: ignore[assignment]
    router: Router

    def __init__(
        self,
        host: StandIn,
        router: Router,
        nursery: trio.Nursery,
        *,
        max_message_size: int,
        counters: Counter[str],
        topic_changed: TopicChange,
        on_offence: Callable[[str, str], None] = lambda _peer, _offence: None,
        hears: Callable[[bytes], bool] = lambda _author: True,
    ) -> None:
        """`topic_changed(topic, peer, joined)` is told of each peer that joins or leaves a topic, ours or not.

        `hears(author)`: whether a message that claims to be of this peer (bytes of its ID) is worth being checked.
        """
        self._max_rpc_size = max_message_size + RPC_OVERHEAD
        super().__init__(host, router, strict_signing=True, max_inbound_rpc_size=self._max_rpc_size)  # type: ignore[arg-type]
        self.seen_messages.stop()  # it sweeps in a thread
        self.seen_messages = SeenCache(SEEN_TTL, SEEN_MOST)  # type: ignore[assignment]
        self.counter = time.time_ns()  # above those of an earlier life of this key, which peers still hold for seen
        self.links: dict[ID, Link] = {}
        self._nursery = nursery
        self._counters = counters
        self._topic_changed = topic_changed
        self._on_offence = on_offence
        self._hears = hears
        self._instance = secrets.token_bytes(INSTANCE_SIZE)

    # --- peers come and go

    def peer_up(self, peer_id: ID, peer: PeerUp) -> None:  # noqa: ARG002
        link = self.links.get(peer_id)
        if link is None:
            if self._may_speak(peer_id):
                self._new_link(peer_id)
        elif not self._may_speak(peer_id) and link.opened is None and link.inbound is None:
            link.scope.cancel()
        elif link.opened is None:
            link.retry.set()  # more is known of it now: try at once

    def peer_down(self, peer_id: ID) -> None:
        link = self.links.pop(peer_id, None)
        if link is not None:
            link.scope.cancel()
            self._forget(peer_id)

    def refresh(self, unless: str = "") -> None:
        """Open new streams to all peers, with the hello first; not to those that offer the protocol `unless`."""
        for peer_id, link in self.links.items():
            peer = self.host.peers.get(peer_id)
            if unless and peer is not None and unless in peer.protocols:
                continue
            link.reopen.set()
            link.retry.set()

    def check_silent(self) -> None:
        """Forget the subscriptions of peers that ended their stream and opened no other."""
        now = trio.current_time()
        for peer_id, link in self.links.items():
            if link.silent_since is not None and now - link.silent_since > _SILENCE:
                link.silent_since = None
                self._forget_topics(peer_id)

    def _may_speak(self, peer_id: ID) -> bool:
        """Whether the peer is connected and, if it is identified, speaks meshsub."""
        peer = self.host.peers.get(peer_id)
        return peer is not None and (not peer.protocols or any(str(p) in peer.protocols for p in self.protocols))

    def _new_link(self, peer_id: ID) -> Link:
        link = self.links[peer_id] = Link(PeerQueue(self._max_rpc_size, max(32 << 20, 2 * self._max_rpc_size)))
        self._nursery.start_soon(self._keep_link, peer_id, link)
        return link

    def _forget(self, peer_id: ID) -> None:
        self._forget_topics(peer_id)
        self.peers.pop(peer_id, None)
        queue = self.peer_queues.pop(peer_id, None)
        if queue is not None:
            queue.close()
        self._clear_pending_announce_retries_for_peer(peer_id)
        self.router.remove_peer(peer_id)

    def _forget_topics(self, peer_id: ID) -> None:
        self.router.forget_mesh(peer_id)
        for topic in self._topics_of(peer_id):
            self._topic_changed(topic, peer_id, False)
        self._forget_all_subscriptions(peer_id)

    def _topics_of(self, peer_id: ID) -> set[str]:
        return {topic for topic, peers in self.peer_topics.items() if peer_id in peers}

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """What py-libp2p does when a write fails. Here the link's own task notices."""

    # --- the outbound stream

    async def _keep_link(self, peer_id: ID, link: Link) -> None:
        pause = _RETRY_FIRST
        with link.scope:
            while True:
                link.reopen = trio.Event()
                try:
                    stream = await self.host.new_stream(peer_id, list(self.protocols))
                except SwarmException:
                    self._counters["streams_refused"] += 1
                    self._unregister(peer_id)
                    if not self._may_speak(peer_id) and link.inbound is None:
                        break  # with an inbound stream it is there: the news that it is up comes on another way
                else:
                    began = trio.current_time()
                    await self._use_stream(peer_id, link, stream)
                    if trio.current_time() - began > _SETTLED:
                        pause = _RETRY_FIRST
                    if link.reopen.is_set():
                        continue
                link.retry = trio.Event()
                with trio.move_on_after(pause):
                    await link.retry.wait()
                pause = min(pause * 2, _RETRY_MOST)
        if self.links.get(peer_id) is link:
            del self.links[peer_id]
            self._forget(peer_id)

    def _unregister(self, peer_id: ID) -> None:
        """Nothing can be sent: what is published meanwhile is not kept for it."""
        self.peers.pop(peer_id, None)
        self.peer_queues.pop(peer_id, None)

    async def _use_stream(self, peer_id: ID, link: Link, stream: StandInStream) -> None:
        """Until it ends, breaks, or is to be opened anew."""
        try:
            self.router.add_peer(peer_id, stream.get_protocol())
            self.peers[peer_id] = stream  # type: ignore[assignment]
            self.peer_queues[peer_id] = link.queue
            link.opened = trio.current_time()
            hello = self._frame(self.get_hello_packet(), instance_field(self._instance))
            for topic in self._topics_of(peer_id):
                await self._greet_subscriber(peer_id, topic)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, hello, link.queue, nursery.cancel_scope)
                nursery.start_soon(self._notice_end, stream, nursery.cancel_scope)
                await link.reopen.wait()
                nursery.cancel_scope.cancel()
        finally:
            link.opened = None
            await stream.close()

    async def _send(self, stream: StandInStream, hello: bytes, queue: PeerQueue, scope: trio.CancelScope) -> None:
        """The hello, then the queue. What was not written whole goes back to the queue, for the next stream."""
        with suppress(StreamError):
            await stream.write(hello)
            while (rpc := await queue.pop()) is not None:
                try:
                    await stream.write(self._frame(rpc))
                except BaseException:
                    queue.push_back(rpc)
                    raise
        scope.cancel()

    async def _notice_end(self, stream: StandInStream, scope: trio.CancelScope) -> None:
        """A peer sends nothing on the stream we opened, but its end says that nobody reads there any more."""
        await stream.drain()
        scope.cancel()

    @staticmethod
    def _frame(rpc: rpc_pb2.RPC, more: bytes = b"") -> bytes:
        rpc.ClearField("senderRecord")  # a record of our addresses, which are not for everybody; peers need none
        return encode_varint_prefixed(rpc.SerializeToString() + more)

    # --- the inbound stream

    async def stream_handler(self, stream: StandInStream) -> None:  # type: ignore[override]
        """Never raises for what a peer sends: that ends this stream and is counted."""
        peer_id = stream.muxed_conn.peer_id
        link = self.links.get(peer_id) or self._new_link(peer_id)
        scope = trio.CancelScope()
        if link.inbound is not None:
            link.inbound.deadline = trio.current_time() + _DRAIN
        link.inbound = scope
        link.silent_since = None
        try:
            with scope:
                await self._read(stream, peer_id, link, scope)
        except (UntrustedDataError, ParseError):
            self._counters["rpcs_malformed"] += 1
            self._on_offence(peer_id.to_base58(), "malformed")
        except MessageTooLarge:
            self._counters["rpcs_oversized"] += 1
            self._on_offence(peer_id.to_base58(), "oversized")
        except (StreamError, IncompleteReadError):
            pass  # its end
        finally:
            if link.inbound is scope:
                link.inbound = None
                link.silent_since = trio.current_time()

    async def _read(self, stream: StandInStream, peer_id: ID, link: Link, scope: trio.CancelScope) -> None:
        hello = True
        while True:
            frame = await read_varint_prefixed_bytes_limited(stream, self._max_rpc_size)  # type: ignore[arg-type]
            rpc, instance = decode_rpc_untrusted(frame)
            del frame
            if link.inbound is scope:
                if hello:
                    await self._heard_hello(peer_id, link, rpc, instance)
                    hello = False
                for change in rpc.subscriptions:
                    await self._heard_subscription(peer_id, change.topicid, joined=change.subscribe)
            for message in rpc.publish:
                if self._is_subscribed_to_msg(message):
                    await self.push_msg(peer_id, message)
                    await trio.lowlevel.checkpoint()
            if link.inbound is scope and rpc.HasField("control"):
                await self.router.handle_rpc(rpc, peer_id)

    async def _heard_hello(self, peer_id: ID, link: Link, rpc: rpc_pb2.RPC, instance: bytes | None) -> None:
        """The first RPC of a new inbound stream: it names all the peer's subscriptions."""
        now = trio.current_time()
        if instance is None or instance != link.instance:
            if link.heard or (link.opened is not None and now - link.opened > _SETTLED):
                self._counters["streams_renewed"] += 1
                self.router.forget_mesh(peer_id)
                self._replayed_recent_topics.pop(peer_id, None)
                link.reopen.set()
            link.instance = instance
        link.heard = True
        named = {change.topicid for change in rpc.subscriptions if change.subscribe}
        for topic in self._topics_of(peer_id):
            if topic not in named:
                await self._heard_subscription(peer_id, topic, joined=False)
            else:
                await self._greet_subscriber(peer_id, topic)

    async def _heard_subscription(self, peer_id: ID, topic: str, *, joined: bool) -> None:
        known = peer_id in self.peer_topics.get(topic, ())
        if joined and not known:
            if self._peer_subscription_count.get(peer_id, 0) >= MAX_TOPICS_PER_PEER:
                self._counters["subscriptions_refused"] += 1
                return
            self.peer_topics.setdefault(topic, set()).add(peer_id)
            self._peer_subscription_count[peer_id] = self._peer_subscription_count.get(peer_id, 0) + 1
            self._topic_changed(topic, peer_id, True)
            await self._greet_subscriber(peer_id, topic)
        elif known and not joined:
            self.router.forget_mesh(peer_id, topic)
            self._topic_changed(topic, peer_id, False)
            self._forget_subscription(peer_id, topic)

    async def _greet_subscriber(self, peer_id: ID, topic: str) -> None:
        """Recent messages, and a place in our mesh if there is room; at once, or when a stream to it is open."""
        link = self.links.get(peer_id)
        if link is None or link.opened is None or link.reopen.is_set():
            return
        await self._replay_recent_messages(peer_id, topic)
        await self.router.on_peer_subscribed(peer_id, topic)

    # --- messages

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """A message of ours, or of a peer: only those may be wrong."""
        if msg_forwarder == self.my_id:
            await super().push_msg(msg_forwarder, msg)
            return
        if self._is_msg_seen(msg):
            return
        if not self._hears(msg.from_id):  # before its signature is checked, which costs the most
            self._counters["messages_unheard"] += 1
            return
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception:  # noqa: BLE001  # keys and ids that are none make py-libp2p raise anything
            self._refused(msg_forwarder)
        else:
            if not self._is_msg_seen(msg):
                self._refused(msg_forwarder)

    def _refused(self, forwarder: ID) -> None:
        """A message that is wrongly signed: who passed it on must have seen that."""
        self._counters["messages_refused"] += 1
        self._on_offence(forwarder.to_base58(), "wrongly-signed")

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Not here: the router delivers, since it knows whom the message came from."""
