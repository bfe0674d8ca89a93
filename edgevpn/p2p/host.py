"""The node's libp2p host: listens, dials, keeps connections, opens and serves streams.

This is what the rest of the program sees of libp2p. Peer ids and addresses are text (base58, multiaddrs); the errors
are ours: `DialError` for everything that goes wrong before a stream is there, `StreamError` for a stream that breaks.
Noise over TCP with yamux is what it speaks; the mends of py-libp2p are in the modules below it.

    async with open_host(seed, ["/ip4/0.0.0.0/tcp/4001"]) as host:
        host.serve("/echo/1", handler)
        await host.connect(peer_id, addrs, timeout=10)
        stream = await host.new_stream(peer_id, ["/echo/1"], timeout=10)
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee, IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.p2p.address_book import AddressBook, DialAddr
from edgevpn.p2p.bandwidth import Bandwidth
from edgevpn.p2p.host_mends import MendedHost, muxed
from edgevpn.p2p.host_stream import DialError, HostStream, StreamError
from edgevpn.p2p.identify import Identity
from edgevpn.p2p.listen_addrs import default_listen, expand_wildcards, interface_ips, is_loopback, parse_listen
from edgevpn.p2p.peer_values import ConnectionInfo, PeerEvent, PeerInfo, Sight
from edgevpn.p2p.swarm_mends import Gate, MendedSwarm, parse_networks
from edgevpn.p2p.tcp import stranded
from edgevpn.p2p.yamux import QUEUE_LIMIT, Connection
from edgevpn.p2p.yamux_stream import Stream
from edgevpn.proto.queue_state import QueueState, fullest
from edgevpn.proto.relayed import CIRCUIT

PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32
_PING_IDLE = 120.0
EVENT_QUEUE = 256
OVERLAP = 5.0  # seconds for which a relayed connection stays beside a new direct one
_NOBODY = Identity("", frozenset(), (), "")


Handler = Callable[[HostStream], Awaitable[None]]


class _Notifee(INotifee):
    """Tells the host of connections."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def connected(self, _network: INetwork, conn: INetConn) -> None:
        self._host.on_connected(conn)

    async def disconnected(self, _network: INetwork, conn: INetConn) -> None:
        self._host.on_disconnected(conn)

    async def opened_stream(self, _network: INetwork, _stream: INetStream) -> None: ...
    async def closed_stream(self, _network: INetwork, _stream: INetStream) -> None: ...
    async def listen(self, _network: INetwork, _multiaddr: Multiaddr) -> None: ...
    async def listen_close(self, _network: INetwork, _multiaddr: Multiaddr) -> None: ...


class Host:
    """Made by `open_host`. `libp2p` is the host underneath; `book` the address book.

    `circuits`: where this node is reached through relays. `ways_around`: relays to try for a peer that no address of
    its own leads to. `punching`: peers that holes are being made for.
    """

    def __init__(self, key_seed: bytes, agent: str, gate: Gate, book: AddressBook, max_connections: int) -> None:
        self.book = book
        self.bandwidth = Bandwidth()
        self.circuits: tuple[str, ...] = ()
        self.ways_around: Callable[[str], Iterable[str]] = lambda _peer: ()
        self.punching: set[str] = set()
        self._gate = gate
        self._swarm = MendedSwarm(create_new_key_pair(key_seed), gate, max_connections)
        self._swarm.on_dialled = self._on_dialled
        self.libp2p = MendedHost(
            self._swarm, agent, self._announced, self.listen_addrs, self._on_identified, self._on_stream
        )
        self.peer_id = str(self.libp2p.get_id())
        self._identities: dict[str, Identity] = {}
        self._since: dict[str, float] = {}
        self._feeds: set[trio.MemorySendChannel[PeerEvent]] = set()
        self.on_offence: Callable[[str, str], None] = lambda _peer, _offence: None  # see conduct.py
        self._swarm.register_notifee(_Notifee(self))
        self.serve(PING, _answer_pings)

    # --- addresses

    def bound_addrs(self) -> tuple[str, ...]:
        """The listening sockets as they are bound, wildcards as wildcards, with their real ports."""
        return tuple(str(addr) for addr in self.libp2p.get_transport_addrs())

    def listen_addrs(self) -> tuple[str, ...]:
        """Where others may reach this node: wildcards become the addresses of the interfaces, and addresses that peers
        see us under are added. Without loopback, unless there is nothing else; without the VPN's own networks. Those
        through relays are the last."""
        plain = [str(addr).removesuffix(f"/p2p/{self.peer_id}") for addr in self.libp2p.get_addrs()]
        return (*plain, *self.circuits)

    def dialable(self, peer_id: str) -> tuple[str, ...]:
        """The addresses known for a peer, the most promising first."""
        return tuple(addr.text for addr in self.book.dial_order(peer_id, trio.current_time()))

    def _announced(self, bound: list[Multiaddr]) -> list[Multiaddr]:
        return [Multiaddr(text) for text in expand_wildcards([str(a) for a in bound], interface_ips(), self._gate)]

    def announce_circuits(self, addrs: Sequence[str]) -> bool:
        """Be reached by these addresses through relays; whether they are others than before. Peers are told."""
        if tuple(addrs) == self.circuits:
            return False
        self.circuits = tuple(addrs)
        self._tell_peers()
        return True

    def own_ips(self) -> list[str]:
        """The addresses of this machine's interfaces."""
        return interface_ips()

    def sights(self) -> list[Sight]:
        """How peers see us, on each direct connection whose peer has said so."""
        found = []
        for peer, conns in self._swarm.get_connections_map().items():
            for conn in conns:
                one = conn.muxed_conn
                if isinstance(one, Connection) and one.observed and not one.is_closed and not is_relayed(conn):
                    found.append(Sight(str(peer), one.is_initiator, one.observed, one.punched))
        return found

    # --- peers

    async def connect(self, peer_id: str, addrs: Iterable[str], *, timeout: float, source: str = "static") -> None:
        """Be connected to a peer, over `addrs` (kept in the address book as from `source`) or what is known of it.

        Raises DialError.
        """
        peer = _parse_peer_id(peer_id)
        self.book.add(peer_id, addrs, source, trio.current_time())
        await self._dial(peer, timeout)

    async def _dial(self, peer: ID, timeout: float) -> None:
        with _dial_errors(str(peer)):
            if self._swarm.best_connection(peer) is None:
                addrs = self.book.dial_order(str(peer), trio.current_time())
                known = {addr.relay for addr in addrs}
                around = [relay for relay in self.ways_around(str(peer)) if relay not in known]
                addrs += [addr for relay in around if (addr := self._through(relay)) is not None]
                with trio.fail_after(timeout):
                    await self._swarm.dial(peer, addrs)

    def _through(self, relay: str) -> DialAddr | None:
        """The address of whoever is behind a relay that we have a direct connection with."""
        conn = self._swarm.direct_connection(_parse_peer_id(relay))
        addrs = conn.get_transport_addresses() if conn is not None else []
        return DialAddr(f"{addrs[0]}/p2p/{relay}{CIRCUIT}", None, relay) if addrs else None

    async def connect_directly(self, peer_id: str, addrs: Iterable[str] = (), *, timeout: float) -> None:
        """Be connected without a relay, over `addrs` or what is known of the peer. Raises DialError."""
        peer = _parse_peer_id(peer_id)
        self.book.add(peer_id, addrs, "gossip", trio.current_time())
        if self._swarm.direct_connection(peer) is None:
            known = [addr for addr in self.book.dial_order(peer_id, trio.current_time()) if addr.relay is None]
            with _dial_errors(peer_id), trio.fail_after(timeout):
                await self._swarm.dial(peer, known, direct=True)

    def dial_relayed_with(self, dial: Callable[[Multiaddr], Awaitable[INetConn]]) -> None:
        """Addresses through a relay are dialled by `dial`; without it they fail."""
        self._swarm.dial_circuit = dial

    async def run_circuit(self, raw: IRawConnection, peer_id: str) -> INetConn:
        """Make a connection of a circuit that we have opened to a peer. Raises SwarmException."""
        return await self._swarm.upgrade_outbound_raw_conn(raw, _parse_peer_id(peer_id))

    async def serve_circuit(self, raw: IRawConnection, relay: str) -> None:
        """Serve a circuit that a peer has opened to us through `relay`, until it ends. Never raises."""
        await self._swarm.serve_relayed(raw, relay)

    def is_direct(self, peer_id: str) -> bool:
        """Whether there is a connection with the peer that no relay carries."""
        return self._swarm.direct_connection(_parse_peer_id(peer_id)) is not None

    def is_relayed(self, peer_id: str) -> bool:
        """Whether there are only connections with the peer that relays carry."""
        return not self.is_direct(peer_id) and self._swarm.relayed_connection(_parse_peer_id(peer_id)) is not None

    async def punch(self, peer: ID, addr: DialAddr, *, client: bool) -> None:
        """Dial from our listening port, while the peer does the same. Raises SwarmException, OpenConnectionError."""
        version = addr.text.split("/")[1]
        port = next((int(p[4]) for text in self.bound_addrs() if len(p := text.split("/")) == 5 and p[1] == version), 0)
        await self._swarm.punch(peer, addr, port, client=client)

    async def disconnect(self, peer_id: str) -> None:
        """Close all connections to a peer."""
        async with trio.open_nursery() as nursery:
            for conn in self._swarm.get_connections(_parse_peer_id(peer_id)):
                nursery.start_soon(conn.close)

    async def drop_stranded(self) -> None:
        """End the connections from addresses that this machine has no more; a keep-alive would take half a minute."""
        for stream in stranded():
            await stream.close()

    async def deny(self, peer_id: str) -> None:
        """Never connect to this peer again (until `allow`), and end what there is."""
        self._gate.denied_peers.add(peer_id)
        await self.disconnect(peer_id)

    def refuse(self, peer_id: str) -> None:
        """As `deny`, but what there is goes on."""
        self._gate.denied_peers.add(peer_id)

    def welcomes(self, peer_id: str) -> bool:
        """Whether we connect with this peer at all."""
        return self._gate.allows_peer(peer_id)

    def allow(self, peer_id: str) -> None:
        """Take back `deny` and `refuse`."""
        self._gate.denied_peers.discard(peer_id)

    def holdings(self) -> list[tuple[str, int, float, float, int]]:
        """Of each connected peer: id, connections, since when, when last heard of (trio's clock), open streams."""
        found = []
        for peer, conns in self._swarm.get_connections_map().items():
            alive = [c.muxed_conn for c in conns if isinstance(c.muxed_conn, Connection) and not c.muxed_conn.is_closed]
            if alive:
                since = min(one.opened_at for one in alive)
                heard = max(one.last_received for one in alive)
                found.append((str(peer), len(alive), since, heard, sum(one.stream_count for one in alive)))
        return found

    def check_connections(self) -> None:
        """Time went on without us: have connections whose peer is gone end within seconds."""
        for conn in self._swarm.get_connections():
            if isinstance(conn.muxed_conn, Connection):
                conn.muxed_conn.check_now()

    def peers(self) -> dict[str, PeerInfo]:
        """All connected peers, by peer id."""
        found: dict[str, PeerInfo] = {}
        for peer, conns in self._swarm.get_connections_map().items():
            peer_id = str(peer)
            infos = tuple(_describe(c) for c in conns if isinstance(c, SwarmConn) and not c.is_closed)
            if infos:
                known = self._identities.get(peer_id, _NOBODY)
                since = self._since.get(peer_id, infos[0].opened_at)
                found[peer_id] = PeerInfo(peer_id, infos, known.protocols, known.agent, known.listen_addrs, since)
        return found

    def queue_state(self) -> QueueState:
        """What waits to be sent on the fullest connection. None is dropped: writers wait, or the connection ends."""
        connections = (c.muxed_conn for conns in self._swarm.get_connections_map().values() for c in conns)
        return fullest((c.queued for c in connections if isinstance(c, Connection)), QUEUE_LIMIT, 0, "bytes")

    @asynccontextmanager
    async def peer_events(self) -> AsyncIterator[trio.MemoryReceiveChannel[PeerEvent]]:
        """Events from now on; take `peers()` after entering for what was before.

        A reader that is `EVENT_QUEUE` events behind misses further ones, but not their outcome: they were in effect
        before it comes to the last one it gets, and `peers()` shows it.
        """
        send, receive = trio.open_memory_channel[PeerEvent](EVENT_QUEUE)
        self._feeds.add(send)
        try:
            with send, receive:
                yield receive
        finally:
            self._feeds.discard(send)

    async def ping(self, peer_id: str, *, timeout: float) -> float:
        """The round trip to a peer, in seconds. Raises DialError, StreamError."""
        with _dial_errors(peer_id), trio.fail_after(timeout):
            stream = await self.new_stream(peer_id, [PING], timeout=timeout)
            try:
                sent, start = os.urandom(_PING_BYTES), trio.current_time()
                await stream.write(sent)
                if await stream.read_exactly(_PING_BYTES) != sent:
                    raise StreamError(f"{peer_id} answers a ping with something else")
                return trio.current_time() - start
            finally:
                with trio.CancelScope(shield=True):
                    await stream.reset()

    # --- streams

    async def new_stream(self, peer_id: str, protocols: Sequence[str], *, timeout: float) -> HostStream:
        """A stream that speaks the first of `protocols` that the peer takes; dials if there is no connection.

        Raises DialError.
        """
        peer = _parse_peer_id(peer_id)
        with _dial_errors(peer_id), trio.fail_after(timeout):
            await self._dial(peer, timeout)
            conn = self._swarm.best_connection(peer)
            if conn is None:
                raise DialError(f"{peer_id}: the connection ended")
            return await self._open(conn, protocols)

    async def direct_stream(self, peer_id: str, protocols: Sequence[str], *, timeout: float) -> HostStream:
        """A stream on a connection that there is, and that no relay carries. Raises DialError."""
        conn = self._swarm.direct_connection(_parse_peer_id(peer_id))
        if conn is None:
            raise DialError(f"{peer_id}: no direct connection")
        with _dial_errors(peer_id), trio.fail_after(timeout):
            return await self._open(conn, protocols)

    async def relayed_stream(
        self, peer_id: str, protocols: Sequence[str], *, timeout: float, received: bool = False
    ) -> HostStream:
        """A stream on a relayed connection that there is; `received`: on one that the peer has dialled.

        Raises DialError.
        """
        conn = self._swarm.relayed_connection(_parse_peer_id(peer_id), received=received)
        if conn is None:
            raise DialError(f"{peer_id}: no relayed connection")
        with _dial_errors(peer_id), trio.fail_after(timeout):
            return await self._open(conn, protocols)

    async def _open(self, conn: SwarmConn, protocols: Sequence[str]) -> HostStream:
        connection = conn.muxed_conn
        assert isinstance(connection, Connection)  # noqa: S101 - our upgrader makes no other
        stream = await connection.open_stream()
        try:
            return HostStream(stream, await self.libp2p.negotiate(stream, list(protocols)))
        except BaseException:
            stream.abort("the protocol was not agreed on")
            raise

    def serve(self, protocol: str, handler: Handler) -> None:
        """Have `handler` called, in a task of its own, for each inbound stream that speaks `protocol`.

        When it returns, the stream is closed; when it raises, the stream is reset (and nothing else happens).
        """

        async def handle(net_stream: INetStream) -> None:
            stream = muxed(net_stream)
            await handler(HostStream(stream, protocol))
            await stream.release()

        self.libp2p.set_stream_handler(TProtocol(protocol), handle)
        self._tell_peers()

    def unserve(self, protocol: str) -> None:
        self.libp2p.remove_stream_handler(TProtocol(protocol))
        self._tell_peers()

    def _tell_peers(self) -> None:
        nursery = self._swarm.background_nursery
        if nursery is not None and self._swarm.connections:
            nursery.start_soon(self.libp2p.push_identity)

    # --- told by the parts below

    def on_connected(self, conn: INetConn) -> None:
        peer_id = str(conn.muxed_conn.peer_id)
        if isinstance(conn.muxed_conn, Connection) and not is_relayed(conn):
            conn.muxed_conn.punched = peer_id in self.punching
            if self._swarm.relayed_connection(conn.muxed_conn.peer_id) is not None:
                self._leave_relay(conn.muxed_conn.peer_id)
        if peer_id not in self._since:
            self._since[peer_id] = time.time()
            self._tell(PeerEvent("connected", peer_id))
        else:
            self._tell(PeerEvent("changed", peer_id))

    def _leave_relay(self, peer: ID) -> None:
        """There is a direct connection now: streams are opened on it, and those on relayed ones end soon."""

        async def leave() -> None:
            await trio.sleep(OVERLAP)
            if self._swarm.direct_connection(peer) is not None:
                for conn in self._swarm.get_connections(peer):
                    if is_relayed(conn):
                        await conn.close()

        if self._swarm.background_nursery is not None:
            self._swarm.background_nursery.start_soon(leave)

    def on_disconnected(self, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id
        if isinstance(conn.muxed_conn, Connection) and conn.muxed_conn.broke_rules:
            self.on_offence(str(peer), "malformed")
        if self._swarm.best_connection(peer) is None and self._since.pop(str(peer), None) is not None:
            self._identities.pop(str(peer), None)
            self.bandwidth.forget_peer(str(peer))
            self._tell(PeerEvent("disconnected", str(peer)))
        else:
            self._tell(PeerEvent("changed", str(peer)))

    def _on_identified(self, peer_id: str, identity: Identity) -> None:
        self._identities[peer_id] = identity
        peer = self.peers().get(peer_id)
        remotes = [c.remote.split("/") for c in peer.connections] if peer is not None else []
        local = any(len(r) > 2 and (is_loopback(r[2]) or r[2] in interface_ips()) for r in remotes)
        self.book.add(peer_id, identity.listen_addrs, "identify", trio.current_time(), local=local)
        self._tell(PeerEvent("identified", peer_id))

    def _on_dialled(self, peer_id: str, addr: str, worked: bool) -> None:
        (self.book.succeeded if worked else self.book.failed)(peer_id, addr, trio.current_time())

    def _on_stream(self, peer_id: str, protocol: str, stream: Stream) -> None:
        stream.count_on(self.bandwidth.meter(peer_id, protocol))

    def _tell(self, event: PeerEvent) -> None:
        for feed in self._feeds:
            try:
                feed.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                continue  # a slow reader catches up by peers(), see peer_events; one that left is removed by itself

    # --- running

    async def run_in(self, nursery: trio.Nursery, listen: Sequence[str]) -> None:
        await self._swarm.run_in(nursery)
        for text in listen:
            await self._swarm.listen_on(parse_listen(text))
        bound = [ip for text in self.bound_addrs() if (ip := text.split("/")[2])]
        self.book.loopback = bool(bound) and all(is_loopback(ip) for ip in bound)

    async def close(self) -> None:
        await self._swarm.close()


@asynccontextmanager
async def open_host(
    key_seed: bytes,
    listen: Sequence[str] = (),
    *,
    user_agent: str = "edgevpn",
    blocked_networks: Sequence[str] = (),
    allowed_networks: Sequence[str] = (),
    denied_peers: Iterable[str] = (),
    allowed_peers: Iterable[str] = (),
    max_connections: int = 400,
) -> AsyncIterator[Host]:
    """A running host; leaving the context closes its connections and listening sockets.

    `key_seed`: the 32 bytes of an Ed25519 private key. `listen`: multiaddrs; none means any free port on all addresses.
    `blocked_networks`: CIDR networks never connected with, in any direction (the VPN's own). `allowed_*`: if not empty,
    nothing else is connected with. Raises SetupError (a port in use, no such address), UsageError.
    """
    if len(key_seed) != 32:
        raise UsageError(f"the seed of an Ed25519 key has 32 bytes, not {len(key_seed)}")
    blocked = parse_networks(blocked_networks)
    gate = Gate(blocked, parse_networks(allowed_networks), set(denied_peers), set(allowed_peers))
    host = Host(key_seed, user_agent, gate, AddressBook(blocked), max_connections)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            await host.run_in(nursery, listen or default_listen())
            yield host
        except Exception as exc:  # noqa: BLE001 - raised again below, as it is instead of in the nursery's group
            failure = exc
        finally:
            with trio.move_on_after(5) as scope:
                scope.shield = True
                await host.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _parse_peer_id(text: str) -> ID:
    """Raises DialError: a peer id that is none cannot be dialled."""
    try:
        peer = ID.from_string(text)
        raw = peer.to_bytes()
    except Exception as exc:  # the decoders of base58 and CIDs raise many kinds
        raise DialError(f"{text[:80]}: not a peer id") from exc
    # the multihash of a public key: the key itself (Ed25519) or its SHA-256 (RSA)
    is_hash = (raw[:1] == b"\x00" and raw[1:2] == bytes([len(raw) - 2 & 0xFF])) or (
        raw[:2] == b"\x12\x20" and len(raw) == 34
    )
    if not is_hash or len(raw) > 44 or str(peer) != text:
        raise DialError(f"{text[:80]}: not a peer id")
    return peer


@contextmanager
def _dial_errors(peer_id: str) -> Iterator[None]:
    try:
        yield
    except trio.TooSlowError as exc:
        raise DialError(f"{peer_id}: timed out") from exc
    except (SwarmException, UntrustedDataError, BaseLibp2pError) as exc:
        raise DialError(f"{peer_id}: {exc}") from exc


def _describe(conn: SwarmConn) -> ConnectionInfo:
    connection = conn.muxed_conn
    assert isinstance(connection, Connection)  # noqa: S101 - our upgrader makes no other
    addrs = conn.get_transport_addresses()
    return ConnectionInfo(
        remote=str(addrs[0]) if addrs else "",
        direction="inbound" if conn.direction == Direction.INBOUND else "outbound",
        opened_at=conn._created_at,
        rtt=connection.rtt or None,
        relayed=is_relayed(conn),
    )


def is_relayed(conn: INetConn) -> bool:
    return conn.muxed_conn.get_connection_type() is ConnectionType.RELAYED


async def _answer_pings(stream: HostStream) -> None:
    while True:
        with trio.move_on_after(_PING_IDLE) as idle:
            data = await stream.read(_PING_BYTES)
            if not data:
                return
            await stream.write(data)
        if idle.cancelled_caught:
            return
