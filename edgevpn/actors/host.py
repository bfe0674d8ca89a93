"""The host actor: the node's libp2p host, as a daemon for the other actors.

It listens, dials, keeps connections and the address book. Other actors dial streams (pipe Dial), register what they
serve by subscribing to the feed "inbound" and take each inbound stream (pipe Take), and follow the states "self" and
"peers". An inbound stream waits up to HOLD seconds for its actor: an actor that is being started again misses none.

What must live through the death of this actor: the listening ports (the supervisor starts it again with the ports it
had) and the peers (their addresses are kept in the run directory, and dialled again at once). Peers that are lost while
it lives, that misbehave or are too many: see peer_care.py; those that can't be reached but through a relay: relays.py.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.linux_process import raise_descriptor_limit
from edgevpn.actors.mailbox import OpenStream, RequestError
from edgevpn.actors.own_links import changes
from edgevpn.actors.peer_care import PeerCare
from edgevpn.actors.relays import Relays
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.actors.topics import Feed
from edgevpn.actors.trust_link import TrustLink
from edgevpn.config import parse_peer_list
from edgevpn.errors import EdgevpnError
from edgevpn.fast_stream import FastStream
from edgevpn.p2p.address_book import LIFETIME
from edgevpn.p2p.host import Host, open_host
from edgevpn.p2p.host_stream import HostStream
from edgevpn.proto import messages, protocols
from edgevpn.proto.ip import split_packets_untrusted
from edgevpn.proto.messages import (
    Body,
    Connect,
    Dial,
    Dialed,
    Disconnect,
    Done,
    HostSelf,
    PeerState,
    PingPeer,
    Pong,
    StreamEnd,
    StreamEndRequest,
    Take,
    Traffic,
    TrafficRequest,
)
from edgevpn.proto.queue_state import QueueState

HOLD = 10.0
MAX_WAITING = 1024
MAX_PIPES = 8192  # a tunnel is one; each costs a descriptor here and one in its actor
MAX_ENDS = 8192  # of finished streams it is known for so long how they ended
MAX_REDIAL = 64
MAX_CONNECTIONS = 400  # where --max-connections says 0
HUNG_UP_CHECK = 1.0
PARTING = 3.0  # seconds
SETTLE = 0.1  # after a change of this machine's addresses
_PUMP = 256 * 1024


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str, listen: list[str]) -> None:
    """`listen`: the multiaddrs to listen on; those of the last start, if there was one."""
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        seed = await shell.grant("identity")
        blocked, allowed = parse_peer_list(shell.config.blacklist), parse_peer_list(shell.config.whitelist)
        async with open_host(
            seed,
            listen,
            user_agent="edgevpn",
            blocked_networks=(*(shell.config.addresses if shell.config.vpn else ()), *blocked.networks),
            denied_peers=blocked.peers,
            allowed_networks=allowed.networks,
            allowed_peers=allowed.peers,
            max_connections=shell.config.max_connections or MAX_CONNECTIONS,
        ) as host:
            actor = HostActor(shell, host, nursery)
            actor.register()
            nursery.start_soon(actor.follow_peers)
            nursery.start_soon(actor.care.run)
            nursery.start_soon(actor.relays.run)
            nursery.start_soon(actor.follow_links)
            nursery.start_soon(actor.trust.follow)
            nursery.start_soon(actor.part_with_untrusted)
            await shell.ready({"listen": list(host.bound_addrs())})
            nursery.start_soon(actor.redial)
            await trio.sleep_forever()


class _Waiting:
    """An inbound stream that its actor has not taken yet."""

    def __init__(self, stream: HostStream) -> None:
        self.stream = stream
        self.taken = trio.Event()
        self.done = trio.Event()


class HostActor:
    """Serves one libp2p host to the other actors."""

    def __init__(self, shell: Shell, host: Host, nursery: trio.Nursery) -> None:
        self._shell = shell
        self._host = host
        self._nursery = nursery
        self._began = trio.current_time()
        self._numbers = itertools.count(1)
        self._ended_cleanly: OrderedDict[int, None] = OrderedDict()
        self._waiting: dict[int, _Waiting] = {}
        self._servers: dict[str, Feed] = {}
        self._book_path = shell.state_dir / "peers.json"
        self.trust = TrustLink(shell)
        self._trust_changed = trio.Event()
        self.trust.when_changed(self._on_trust)
        self._self = shell.mailbox.state("self")
        self._peers = shell.mailbox.state("peers")
        self.care = PeerCare(shell, host, self._peers)
        self.relays = Relays(shell, host, self.trust)
        self.relays.when_announced = self._publish_self
        self.care.is_needed = self.relays.needs

    def register(self) -> None:
        mailbox = self._shell.mailbox
        mailbox.max_connections = MAX_PIPES
        raise_descriptor_limit()
        self._publish_self()
        mailbox.on_request(Connect, self._connect)
        mailbox.on_request(Disconnect, self._disconnect)
        mailbox.on_request(PingPeer, self._ping)
        mailbox.on_request(TrafficRequest, self._traffic)
        mailbox.on_request(StreamEndRequest, self._stream_end)
        mailbox.on_pipe(Dial, self._dial)
        mailbox.on_pipe(Take, self._take)
        mailbox.feed_by_args("inbound", self._inbound_feed)
        config = self._shell.config
        for actor in (*config.actors(), *(("errand",) if config.errand == "file-send" else ())):
            for protocol in protocols.SERVED_BY.get(actor, ()):
                if protocol == protocols.LEDGER and self._shell.config.ownership == "off":
                    continue  # blocks are all or nothing then: peers shall publish them
                self._host.serve(protocol, self._inbound)
        self._shell.gauges |= {"peers": lambda: len(self._peers.items), "waiting_streams": lambda: len(self._waiting)}
        self._shell.queues["inbound streams"] = self._inbound_state
        self._shell.queues["sending"] = self._host.queue_state
        self._shell.namespace["host"] = self._host

    def _inbound_state(self) -> QueueState:
        lost = ("inbound_streams_refused", "inbound_streams_not_taken")
        return QueueState(len(self._waiting), MAX_WAITING, sum(self._shell.counters.get(name, 0) for name in lost))

    # --- peers

    async def follow_peers(self) -> None:
        """Keep the state "peers" and the file of addresses to come back to."""
        async with self._host.peer_events() as events:
            self._publish_peers()
            async for event in events:
                before = dict(self._peers.items)
                self._publish_peers()
                self.relays.on_event(event)
                self.care.changed(before)
                self._save_book()

    def _publish_peers(self) -> None:
        now = {
            peer_id: PeerState(
                remotes=[c.remote for c in peer.connections],
                listen=list(peer.listen_addrs),
                protocols=sorted(peer.protocols),
                agent=peer.agent,
                direction=peer.connections[0].direction,
                since=peer.since,
                rtt_s=peer.connections[0].rtt or 0.0,
            )
            for peer_id, peer in self._host.peers().items()
            if peer.connections
        }
        self._peers.replace(now)
        self._publish_self()

    def _publish_self(self) -> None:
        told = HostSelf(self._host.peer_id, list(self._host.listen_addrs()), self.relays.observed)
        if self._self.items.get("host") != told:
            self._self.put("host", told)

    async def follow_links(self) -> None:
        """When this machine's addresses change: tell, and end what is stranded; `care` comes back to who was there."""
        async for _ in changes(SETTLE):
            self._publish_self()
            await self._host.drop_stranded()
            self.care.hurry()
            self.relays.hurry()

    def _save_book(self) -> None:
        """Dialable addresses of the peers that are connected now."""
        book = {peer_id: list(self._host.dialable(peer_id))[:8] for peer_id in list(self._peers.items)[:MAX_REDIAL]}
        temporary = self._book_path.with_suffix(".new")
        with suppress(OSError):  # a full or vanished run directory costs a slower return, not the host
            temporary.write_text(json.dumps(book))
            os.replace(temporary, self._book_path)

    async def redial(self) -> None:
        """Back to the peers that the host before this one was connected to."""
        try:
            book = json.loads(self._book_path.read_text())
            known = [(str(peer), [str(a) for a in addrs]) for peer, addrs in book.items()]
        except (OSError, ValueError, AttributeError, TypeError):
            return

        async def dial(peer_id: str, addrs: Sequence[str]) -> None:
            for delay in (0.0, 0.5, 2.0):
                await trio.sleep(delay)
                with suppress(EdgevpnError):
                    await self._host.connect(peer_id, addrs, timeout=5, source="before")
                    return

        async with trio.open_nursery() as nursery:
            for peer_id, addrs in known[:MAX_REDIAL]:
                nursery.start_soon(dial, peer_id, addrs)

    # --- requests

    async def _connect(self, request: Connect) -> Body:
        source = request.source if request.source in LIFETIME else "gossip"
        try:
            await self._host.connect(request.peer_id, request.addrs, timeout=15, source=source)
        except EdgevpnError:
            if source == "gossip":  # a member says that it is there
                self.care.missed(request.peer_id)
                self.relays.not_reached()
            raise
        return Done()

    async def _disconnect(self, request: Disconnect) -> Body:
        await self.care.part_with(request.peer_id)
        return Done()

    async def _ping(self, request: PingPeer) -> Body:
        if request.peer_id not in self._peers.items:
            raise RequestError("not-connected", f"not connected to {request.peer_id}")
        return Pong(await self._host.ping(request.peer_id, timeout=request.timeout_s))

    async def _traffic(self, _: TrafficRequest) -> Body:
        counted = self._host.bandwidth
        return Traffic(
            [counted.total.received, counted.total.sent],
            {name: [one.received, one.sent] for name, one in counted.by_protocol.items()},
            {name: [one.received, one.sent] for name, one in counted.by_peer.items()},
            wire=[counted.connections.received, counted.connections.sent],
            seconds=trio.current_time() - self._began,
        )

    # --- streams

    def _is_barred(self, peer_id: str, *asked: str) -> bool:
        """Whether the peer may not speak any of the protocols with us, because it is not trusted."""
        return not self.trust.allows(peer_id) and not protocols.BEFORE_TRUST.issuperset(asked)

    def _on_trust(self) -> None:
        self._trust_changed.set()

    async def part_with_untrusted(self) -> None:
        """Close the connections of peers that are trusted no more, a moment after: what they had open ends with them.

        They may come back, and speak what is open to all.
        """
        welcome: set[str] = set()
        while self.trust.used:
            self._trust_changed = trio.Event()
            connected = set(self._peers.items)
            now = {peer for peer in connected if self.trust.allows(peer)}
            if (welcome & connected) - now:
                await trio.sleep(PARTING)  # a key that just came may be theirs
                for peer in [peer for peer in welcome & connected if not self.trust.allows(peer)]:
                    self._shell.count("untrusted_peers_disconnected")
                    await self.care.part_with(peer)
            welcome = now
            with trio.move_on_after(PARTING):
                await self._trust_changed.wait()

    async def _dial(self, request: Dial, open_stream: OpenStream) -> None:
        if self._is_barred(request.peer_id, *request.protocols):
            self._shell.count("dials_to_untrusted_peers_refused")
            raise RequestError("untrusted", f"{request.peer_id} is not trusted: --peergate is on")
        stream = await self._host.new_stream(request.peer_id, request.protocols, timeout=10)
        number = next(self._numbers)
        try:
            pipe = await open_stream(Dialed(stream.protocol, number))
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        await pump(pipe, stream, partial(self._note_clean_end, number))

    async def _inbound(self, stream: HostStream) -> None:
        """A peer opened a stream: it waits for its actor, and lives as long as the actor's pipe."""
        if self._is_barred(stream.peer_id, stream.protocol):
            self._shell.count("streams_of_untrusted_peers_refused")
            await stream.reset()
            return
        if len(self._waiting) >= MAX_WAITING:
            self._shell.warn("inbound_streams_refused", peer=stream.peer_id)
            await stream.reset()
            return
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting(stream)
        feed = self._servers.get(stream.protocol)
        if feed is not None and feed.subscriptions:
            feed.put(messages.Inbound(number, stream.peer_id, stream.protocol))
        with trio.move_on_after(HOLD):
            await waiting.taken.wait()
        if self._waiting.pop(number, None) is not None:
            self._shell.count("inbound_streams_not_taken")
            await stream.reset()
            return
        await waiting.done.wait()

    def _inbound_feed(self, served: list[str]) -> Feed:
        """What a subscriber of "inbound" gets: the streams that wait for it, then new ones."""
        feed = Feed(size=MAX_WAITING, retain=MAX_WAITING)
        for protocol in served:
            self._servers[protocol] = feed
        for number, waiting in self._waiting.items():
            if waiting.stream.protocol in served:
                feed.put(messages.Inbound(number, waiting.stream.peer_id, waiting.stream.protocol))
        return feed

    async def _take(self, request: Take, open_stream: OpenStream) -> None:
        waiting = self._waiting.pop(request.number, None)
        if waiting is None:
            raise RequestError("gone", f"no inbound stream {request.number} waits")
        waiting.taken.set()
        try:
            pipe = await open_stream(Done())
            await pump(pipe, waiting.stream, partial(self._note_clean_end, request.number))
        finally:
            waiting.done.set()

    def _note_clean_end(self, number: int) -> None:
        self._ended_cleanly[number] = None
        if len(self._ended_cleanly) > MAX_ENDS:
            self._ended_cleanly.popitem(last=False)

    async def _stream_end(self, request: StreamEndRequest) -> Body:
        return StreamEnd(request.number in self._ended_cleanly)


async def pump(pipe: FastStream, stream: HostStream, ended_cleanly: Callable[[], None] = lambda: None) -> None:
    """Bytes both ways between an actor and a peer, until both directions ended or either broke.

    An end of file in one direction closes just that direction; an actor that is gone (its end of the pipe is closed
    altogether) ends both. `ended_cleanly` is called before the actor can read the end of what the peer sent, unless
    the stream broke. On `/edgevpn/0.1` each IP packet must be one yamux data frame, so what the actor writes is
    cut at packet boundaries first.
    """
    sent_all = trio.Event()
    received_all = False
    async with trio.open_nursery() as nursery:

        async def outward() -> None:
            try:
                await _send_outward(pipe, stream)
                # An actor that left in the middle has not ended what it sent: the peer must not take it for that.
                if stream.protocol in protocols.TORN_MATTERS and not received_all and pipe.hung_up():
                    raise trio.BrokenResourceError
                await stream.close()
            except (EdgevpnError, trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()
            sent_all.set()
            while not pipe.hung_up():  # noqa: ASYNC110 - trio does not wait for a hang-up
                await trio.sleep_until((trio.current_time() // HUNG_UP_CHECK + 1.01) * HUNG_UP_CHECK)  # all at once
            nursery.cancel_scope.cancel()

        nursery.start_soon(outward)
        try:
            await stream.relay_to(pipe)
            received_all = True
            ended_cleanly()
            await pipe.send_eof()
            await sent_all.wait()
        except (EdgevpnError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either end broke: the other is told by what follows
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(pipe)
        await stream.reset()


async def _send_outward(pipe: FastStream, stream: HostStream) -> None:
    rest = b""
    while data := await pipe.receive_some(_PUMP):
        if stream.protocol == protocols.EDGEVPN_PACKETS:
            packets, rest = split_packets_untrusted(rest + data)
            for packet in packets:
                await stream.write_message(packet)
        else:
            await stream.write(data)
