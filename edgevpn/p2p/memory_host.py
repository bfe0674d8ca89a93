"""A network of hosts in memory, each a `HostService`: for tests without sockets, on a virtual clock.

Links have a latency, which a dial waits once for; bytes then arrive at once and in order. Hosts can be partitioned,
links dropped, and a host can crash and be started again with the same identity, as the host actor can.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

from edgevpn.p2p.host_service import Inbound, PeerDown, PeerUp, StreamRefusedError

HOLD = 10.0  # s an inbound stream waits for whoever serves its protocol


def _break(stream: trio.StapledStream) -> None:
    """End both directions at once, without waiting."""
    stream.send_stream.close()  # type: ignore[attr-defined]  # a MemorySendStream
    stream.receive_stream.close()  # type: ignore[attr-defined]


class MemoryNetwork:
    """Hosts by peer id, and which of them can reach each other."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.hosts: dict[str, MemoryHost] = {}
        self._side: dict[str, int] = {}

    def add(self, peer_id: str, offers: Sequence[str], *, agent: str = "memory") -> MemoryHost:
        """A new host, which speaks the protocols `offers`."""
        host = MemoryHost(self, peer_id, f"/ip4/10.0.0.{len(self.hosts) + 1}/tcp/4001", offers, agent)
        self.hosts[peer_id] = host
        return host

    def partition(self, *sides: Iterable[MemoryHost]) -> None:
        """Only hosts on the same side reach each other; links between sides drop. Without sides: all do."""
        self._side = {host.peer_id: number for number, side in enumerate(sides) for host in side}
        for host in self.hosts.values():
            for other in list(host.links):
                if not self.reachable(host.peer_id, other):
                    self.drop(host, self.hosts[other])

    def reachable(self, one: str, other: str) -> bool:
        return (
            one in self.hosts
            and other in self.hosts
            and self.hosts[one].alive
            and self.hosts[other].alive
            and self._side.get(one, -1) == self._side.get(other, -1)
        )

    async def link(self, one: MemoryHost, other: MemoryHost) -> None:
        """Connect two hosts; each is identified a latency later."""
        if other.peer_id in one.links:
            return
        for host, peer in ((one, other), (other, one)):
            host.links[peer.peer_id] = []
            host._tell(host._up(peer.peer_id, identified=False))
        await trio.sleep(self.latency)
        for host, peer in ((one, other), (other, one)):
            if peer.peer_id in host.links:
                host._tell(host._up(peer.peer_id))

    def drop(self, one: MemoryHost, other: MemoryHost) -> None:
        """Break the connection between two hosts, and its streams."""
        one._unlinked(other)
        other._unlinked(one)


class MemoryHost:
    """One host of a MemoryNetwork; it speaks what it was made with, served or not."""

    def __init__(self, network: MemoryNetwork, peer_id: str, address: str, offers: Sequence[str], agent: str) -> None:
        self.network = network
        self.peer_id = peer_id
        self.address = address
        self.offers = tuple(offers)
        self.agent = agent
        self.alive = True
        self._back = trio.Event()
        self._back.set()
        self.identifies = True  # whether peers learn our protocols
        self.links: dict[str, list[trio.StapledStream]] = {}
        self.dialled: list[tuple[str, str]] = []  # (peer id, protocol) of every stream opened from here
        self.refused: list[str] = []  # peers to which a dial or a connection was refused
        self._watchers: set[trio.MemorySendChannel[PeerUp | PeerDown]] = set()
        self._servers: dict[str, trio.MemorySendChannel[Inbound]] = {}
        self._held: defaultdict[str, deque[tuple[float, Inbound]]] = defaultdict(deque)

    # --- what a test does to it

    def crash(self) -> None:
        """The host process ends: iterators, links and streams with it. Nobody is told that its peers are down."""
        self.alive = False
        self._back = trio.Event()
        for watcher in self._watchers:
            watcher.close()
        for server in self._servers.values():
            server.close()
        self._watchers.clear()
        self._servers.clear()
        self._held.clear()
        for other in list(self.links):
            self.network.drop(self, self.network.hosts[other])

    def restart(self) -> None:
        self.alive = True
        self._back.set()

    # --- HostService

    async def dial(self, peer_id: str, protocols: Sequence[str]) -> tuple[str, trio.abc.HalfCloseableStream]:
        await trio.sleep(self.network.latency)
        other = self.network.hosts.get(peer_id)
        if other is None or peer_id not in self.links or not self.network.reachable(self.peer_id, peer_id):
            self.refused.append(peer_id)
            raise StreamRefusedError(f"not connected to {peer_id}")
        spoken = [protocol for protocol in protocols if protocol in other.offers]
        if not spoken:
            self.refused.append(peer_id)
            raise StreamRefusedError(f"{peer_id} speaks none of {', '.join(protocols)}")
        self.dialled.append((peer_id, spoken[0]))
        ours, theirs = trio.testing.memory_stream_pair()
        self.links[peer_id].append(ours)
        other.links[self.peer_id].append(theirs)
        other._arrived(Inbound(self.peer_id, spoken[0], theirs))
        return spoken[0], ours

    async def connect(self, peer_id: str, addrs: Sequence[str]) -> None:
        await trio.sleep(self.network.latency)
        other = self.network.hosts.get(peer_id)
        if other is None or not self.network.reachable(self.peer_id, peer_id):
            self.refused.append(peer_id)
            raise StreamRefusedError(f"{peer_id} can't be reached")
        if peer_id not in self.links and not any(addr.startswith(other.address) for addr in addrs):
            self.refused.append(peer_id)
            raise StreamRefusedError(f"{peer_id} is not at any of {', '.join(addrs) or 'no addresses'}")
        await self.network.link(self, other)

    @asynccontextmanager
    async def serve(self, protocols: Sequence[str]) -> AsyncIterator[trio.MemoryReceiveChannel[Inbound]]:
        await self._back.wait()
        send, receive = trio.open_memory_channel[Inbound](1024)
        for protocol in protocols:
            self._servers[protocol] = send
            for since, inbound in self._held.pop(protocol, ()):
                if trio.current_time() - since <= HOLD:
                    send.send_nowait(inbound)
                else:
                    _break(inbound.stream)  # type: ignore[arg-type]
        try:
            with receive:
                yield receive
        finally:
            for protocol in protocols:
                if self._servers.get(protocol) is send:
                    del self._servers[protocol]

    @asynccontextmanager
    async def watch_peers(self) -> AsyncIterator[trio.MemoryReceiveChannel[PeerUp | PeerDown]]:
        await self._back.wait()
        send, receive = trio.open_memory_channel[PeerUp | PeerDown](4096)
        for peer_id in self.links:
            send.send_nowait(self._up(peer_id))
        self._watchers.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._watchers.discard(send)

    async def listen_addrs(self) -> tuple[str, ...]:
        if not self.alive:
            raise StreamRefusedError("the host is away")
        return (self.address,)

    # --- inside

    def _up(self, peer_id: str, *, identified: bool = True) -> PeerUp:
        other = self.network.hosts[peer_id]
        if not identified or not other.identifies:
            return PeerUp(peer_id, (other.address,))
        return PeerUp(peer_id, (other.address,), other.offers, other.agent)

    def _tell(self, change: PeerUp | PeerDown) -> None:
        for watcher in list(self._watchers):
            watcher.send_nowait(change)

    def _unlinked(self, other: MemoryHost) -> None:
        streams = self.links.pop(other.peer_id, None)
        if streams is None:
            return
        for stream in streams:
            _break(stream)
        self._tell(PeerDown(other.peer_id))

    def _arrived(self, inbound: Inbound) -> None:
        server = self._servers.get(inbound.protocol)
        if server is not None:
            try:
                server.send_nowait(inbound)
                return
            except (trio.WouldBlock, trio.BrokenResourceError):
                pass
        self._held[inbound.protocol].append((trio.current_time(), inbound))
