"""The gossip actor: pubsub on the topics of the current and the adjacent windows.

It knows topics, not secrets: which topic holds when comes from the sealer's state "windows", and what it carries is
sealed. Messages that arrive go to the feed "messages" as they are; whatever the ledger publishes is flooded on the
current topic. The state "members" has the connected peers that are on one of our topics: the others may be connected
(to share a DHT, say) but are not of this network. With --peerguard it is on the public topics too (feed "public"), and
with --peergate it drops what comes from peers that are not trusted, and does not pass it on.

After a change of windows it opens fresh meshsub streams to Go nodes, which make a new pubsub then: so they hear us.
Dies: the ledger stands still, Publish calls wait for the next one, members come back as they are seen again.
"""

from __future__ import annotations

import time
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import apply
from edgevpn.actors.complaints import Complaints
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.actors.topics import Feed
from edgevpn.actors.trust_link import TrustLink
from edgevpn.p2p.pubsub import Gossip, open_gossip
from edgevpn.proto import protocols
from edgevpn.proto.messages import (
    Body,
    Done,
    GossipReceived,
    Member,
    Mute,
    NetworkFacts,
    Publish,
    Published,
    Window,
)
from edgevpn.proto.topic_schedule import TopicWindow, schedule

QUEUE = 256
LONGEST_MUTE = 60.0  # s
RETAIN = 64  # messages kept for a ledger that is away; the newest matter


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        seed = await shell.grant("identity")
        windows: dict[str, Body] = {}
        async with shell.client("sealer").watch("windows") as updates:
            first = await anext(updates)
            apply(windows, first)
            facts = windows.get("network")
            most = facts.max_message_size if isinstance(facts, NetworkFacts) else 20 << 20
            link = HostLink(shell.client("host"))
            trust = TrustLink(shell)
            accept = Acceptance(windows, trust)
            complaints = Complaints(shell)
            async with open_gossip(
                link, seed, max_message_size=most, accept=accept, on_offence=complaints.note
            ) as gossip:
                actor = GossipActor(shell, gossip, windows, trust)
                trust.when_changed(actor.show_members)
                nursery.start_soon(trust.follow)
                nursery.start_soon(complaints.run)
                if trust.used:
                    nursery.start_soon(accept.follow_peers, shell)
                nursery.start_soon(actor.receive)
                nursery.start_soon(actor.follow_members)
                nursery.start_soon(actor.follow_schedule)
                await shell.ready()
                async for update in updates:
                    apply(windows, update)
                    actor.windows_changed()


def public_topics(windows: dict[str, Body]) -> dict[str, str]:
    """The public topic of each topic."""
    return {window.topic: window.public_topic for window in windows.values() if isinstance(window, Window)}


class Acceptance:
    """Which messages of others are delivered and passed on: on the topics, but not the public ones, by trust."""

    def __init__(self, windows: dict[str, Body], trust: TrustLink) -> None:
        self._windows = windows
        self._trust = trust
        self._connected: dict[str, Body] = {}

    def __call__(self, topic: str, author: str, forwarder: str) -> bool:
        if not self._trust.closed or topic in public_topics(self._windows).values():
            return True
        return self._trust.allows_message(author, forwarder, author_is_connected=author in self._connected)

    async def follow_peers(self, shell: Shell) -> None:
        async with shell.client("host").watch("peers") as updates:
            async for update in updates:
                apply(self._connected, update)


class GossipActor:
    """Keeps a `Gossip` on the right topics and between the others."""

    def __init__(self, shell: Shell, gossip: Gossip, windows: dict[str, Body], trust: TrustLink) -> None:
        self._shell = shell
        self._trust = trust
        self._gossip = gossip
        self._windows = windows
        self._changed = trio.Event()
        self._publish_topic: str | None = None
        self._public: dict[str, str] = {}  # topic to the public one beside it, with --peerguard
        self._also: dict[str, str] = {}  # of those the ones that we are on
        self._joined: set[str] = set()
        self._ours: set[str] = set()  # topics whose messages are the ledger's: those, and the ones left last
        self._members = shell.mailbox.state("members")
        self._messages = shell.mailbox.feed("messages", Feed(size=QUEUE, retain=RETAIN))
        self._words = shell.mailbox.feed("public", Feed(size=QUEUE, retain=RETAIN))
        shell.mailbox.on_request(Publish, self._publish)
        shell.mailbox.on_request(Mute, self._mute, only={"ledger"})
        shell.namespace["gossip"] = gossip
        shell.gauges |= {
            "members": lambda: len(self._members.items),
            "topics": lambda: len(self._joined),
            "messages_dropped": lambda: self._messages.dropped,
        }
        for queue in gossip.queue_states():
            shell.queues[queue] = lambda queue=queue: gossip.queue_states()[queue]  # type: ignore[misc]
        for counter in gossip.counters:
            shell.gauges[counter] = lambda counter=counter: gossip.counters[counter]  # type: ignore[misc]

    def windows_changed(self) -> None:
        self._changed.set()

    async def follow_schedule(self) -> None:
        """Join and leave topics as their windows come and go."""
        while True:
            self._changed = trio.Event()
            windows = [
                TopicWindow(w.topic, w.topic_start, w.topic_end)
                for w in self._windows.values()
                if isinstance(w, Window)
            ]
            now = schedule(windows, time.time())
            if self._trust.used:
                self._public = public_topics(self._windows)
            self._ours = self._joined | now.join
            for topic in sorted(now.join - self._joined):
                await self._gossip.join(topic)
                if topic in self._public:
                    self._also[topic] = self._public[topic]
                    await self._gossip.join(self._also[topic])
            rotated = self._publish_topic is not None and now.publish != self._publish_topic
            self._publish_topic = now.publish
            for topic in sorted(self._joined - now.join):
                await self._gossip.leave(topic)
                if topic in self._also:
                    await self._gossip.leave(self._also.pop(topic))
            self._joined = set(now.join)
            if rotated:
                self._shell.count("rotations")
                await self._gossip.refresh(unless=protocols.LEDGER)  # nodes of ours keep their pubsub
            self.show_members()
            with trio.move_on_after(max(0.0, now.until - time.time())):
                await self._changed.wait()

    async def receive(self) -> None:
        async for message in self._gossip:
            if message.topic in self._also.values():
                count, feed = "words_received", self._words
            elif message.topic in self._ours:
                count, feed = "messages_received", self._messages
            else:  # of a public topic that was just left, say: the ledger would take it for a spoiled block
                self._shell.count("messages_of_other_topics")
                continue
            self._shell.count(count)
            feed.put(GossipReceived(message.from_peer, message.data, message.author))

    async def follow_members(self) -> None:
        async with self._gossip.topic_events() as events:
            async for _ in events:
                self.show_members()

    def show_members(self) -> None:
        topics: dict[str, list[str]] = {}
        for topic in sorted(self._joined):
            for peer in self._gossip.topic_peers(topic):
                if self._trust.allows(peer):
                    topics.setdefault(peer, []).append(topic)
        self._members.replace({peer: Member(names) for peer, names in topics.items()})

    async def _mute(self, request: Mute) -> Body:
        try:
            self._gossip.mute(request.author, min(max(request.seconds, 0.0), LONGEST_MUTE))
        except ValueError as exc:
            raise RequestError("unknown", "that is no peer ID") from exc
        self._shell.count("authors_muted")
        return Done()

    async def _publish(self, request: Publish) -> Body:
        topic = request.topic or self._publish_topic
        if topic is None or topic not in self._joined:
            raise RequestError("no-window", "that topic is not joined now: is the clock right?")
        if request.public:
            topic = self._also.get(topic)
            if topic is None:
                raise RequestError("no-topic", "without --peerguard this node is not on the public topic")
        self._shell.count("messages_published")
        await self._gossip.publish(topic, request.data)
        return Published(len(self._gossip.topic_peers(topic)))
