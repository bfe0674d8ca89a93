"""py-libp2p's swarm, mended: connections in and out, which no remote peer can take down.

`MendedSwarm` keeps the stock `Swarm` as the thing that libp2p's other parts know (its connections, notifees, peer
store) and replaces what happens to a connection, each point because of a fault of release 0.8.1:

- inbound: a slot is given back when its connection ends (stock: at the end of the process). Handshakes are counted
  apart from connections, `MAX_HANDSHAKES_PER_IP` for one address and `MAX_HANDSHAKES` in all, and bounded by
  `UPGRADE_TIMEOUT`; over the limit the oldest one of the busiest address goes: half-open ones keep nobody out.
- outbound: all addresses are tried, staggered as in RFC 8305, each with a timeout, relays last (stock: the first TCP
  address alone, without a timeout, and never through a relay). A failure does not ban the peer for a minute.
- no single address gets more than half of all connections, however many peer ids it makes up.
- two connections to one peer, as from simultaneous dials, are both kept; over `MAX_PER_PEER` the one with the fewest
  streams goes.
- any exception on the way of one connection ends that connection alone.
- nothing dials by itself: the stock auto-connector and pruner do not run.
- connections are refused by network and by peer (`Gate`).
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import KeyPair
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.exceptions import HandshakeFailure
from libp2p.transport.exceptions import MuxerUpgradeFailure, OpenConnectionError, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import SetupError, UntrustedDataError
from edgevpn.p2p import multistream
from edgevpn.p2p.address_book import DialAddr, IPNetwork, network_of, parse_addr_untrusted
from edgevpn.p2p.noise import NoiseTransport
from edgevpn.p2p.resolve import resolve
from edgevpn.p2p.tcp import TcpTransport, multiaddr_text
from edgevpn.p2p.yamux import Connection

log = logging.getLogger(__name__)

# libp2p logs what remote peers do wrong as errors, with tracebacks: anybody could fill our log. We log it ourselves.
logging.getLogger("libp2p").setLevel(logging.CRITICAL)

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"
UPGRADE_TIMEOUT = 5.0
DIAL_TIMEOUT = 8.0
STAGGER = 0.25
MAX_HANDSHAKES = 256
MAX_HANDSHAKES_PER_IP = 16
MAX_PER_PEER = 4
ANOTHER = "another peer answered"
MAX_DIALS = 8  # addresses of one peer being tried at once


@dataclass
class Gate:
    """Whom we connect with. Empty allow lists allow all; a peer or network on a deny list is never allowed."""

    denied_networks: tuple[IPNetwork, ...] = ()
    allowed_networks: tuple[IPNetwork, ...] = ()
    denied_peers: set[str] = field(default_factory=set)
    allowed_peers: set[str] = field(default_factory=set)

    def allows_ip(self, text: str) -> bool:
        ip = ipaddress.ip_address(text)
        if network_of(ip, self.denied_networks) is not None:
            return False
        return not self.allowed_networks or network_of(ip, self.allowed_networks) is not None

    def allows_peer(self, peer_id: str) -> bool:
        return peer_id not in self.denied_peers and (not self.allowed_peers or peer_id in self.allowed_peers)


class Handshakes:
    """Inbound connections that have not authenticated yet, by IP address. Over a limit the oldest makes room."""

    def __init__(self) -> None:
        self._running: dict[str, dict[trio.CancelScope, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._running.values()))

    @contextmanager
    def admit(self, ip: str, timeout: float) -> Iterator[None]:
        """Run a handshake; it is cancelled after `timeout` seconds, or when its place is needed."""
        if len(self._running.get(ip, ())) >= MAX_HANDSHAKES_PER_IP:
            self._end_oldest(ip)
        elif len(self) >= MAX_HANDSHAKES:
            self._end_oldest(max(self._running, key=lambda other: len(self._running[other])))
        with trio.move_on_after(timeout) as scope:
            self._running.setdefault(ip, {})[scope] = None
            try:
                yield
            finally:
                self._leave(ip, scope)

    def _end_oldest(self, ip: str) -> None:
        scope = next(iter(self._running[ip]))
        scope.cancel()
        self._leave(ip, scope)

    def _leave(self, ip: str, scope: trio.CancelScope) -> None:
        running = self._running.get(ip, {})
        running.pop(scope, None)
        if not running:
            self._running.pop(ip, None)


class Upgrader(TransportUpgrader):
    """Secures and multiplexes a connection: noise and our yamux, nothing else is offered."""

    def __init__(self, key_pair: KeyPair) -> None:
        super().__init__({}, {})
        self._noise = NoiseTransport(key_pair)

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        """Raises SecurityUpgradeFailure, whatever the peer sends."""
        try:
            if not is_initiator:
                await multistream.negotiate_inbound(raw_conn, (NOISE,), (NOISE,))
                return await self._noise.secure_inbound(raw_conn)
            if peer_id is None:
                raise SecurityUpgradeFailure("no peer to expect")
            await multistream.negotiate_outbound(raw_conn, (NOISE,))
            secured = await self._noise.secure_outbound(raw_conn, peer_id)
        except (UntrustedDataError, HandshakeFailure, BaseLibp2pError) as exc:
            raise SecurityUpgradeFailure(str(exc)) from exc
        if secured.get_remote_peer() != peer_id:
            raise SecurityUpgradeFailure(f"{ANOTHER}: {secured.get_remote_peer()}")
        return secured

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Raises MuxerUpgradeFailure, whatever the peer sends."""
        try:
            if conn.is_initiator:
                await multistream.negotiate_outbound(conn, (YAMUX,))
            else:
                await multistream.negotiate_inbound(conn, (YAMUX,), (YAMUX,))
        except (UntrustedDataError, BaseLibp2pError) as exc:
            raise MuxerUpgradeFailure(str(exc)) from exc
        return Connection(conn, peer_id)


class MendedSwarm(Swarm):
    """See the module's text. Used within `running()`."""

    def __init__(self, key_pair: KeyPair, gate: Gate, max_connections: int) -> None:
        peer_id = ID.from_pubkey(key_pair.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, key_pair)
        self.gate = gate
        self.max_connections = max_connections
        self.handshakes = Handshakes()
        # Dials an address through a relay; set by whoever runs the relay client.
        self.dial_circuit: Callable[[Multiaddr], Awaitable[INetConn]] | None = None
        # Told (peer, address, whether it worked) of each address that was tried.
        self.on_dialled: Callable[[str, str, bool], None] = lambda _peer, _addr, _worked: None
        self._tcp = TcpTransport()
        self._being_tried: dict[ID, set[str]] = {}  # addresses, while their peer is being dialled
        config = ConnectionConfig(
            max_connections=max_connections,
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            max_connections_per_peer=MAX_PER_PEER,
            inbound_upgrade_timeout=UPGRADE_TIMEOUT,
            outbound_upgrade_timeout=UPGRADE_TIMEOUT,
        )
        super().__init__(peer_id, peerstore, Upgrader(key_pair), [self._tcp], connection_config=config)

    # --- running

    async def run_in(self, nursery: trio.Nursery) -> None:
        """Connections and listeners live in `nursery` from now on."""
        self.background_nursery = nursery
        self.event_background_nursery_created.set()

    async def listen_on(self, addr: Multiaddr) -> None:
        """Listen on one address. Raises SetupError (port in use, ...), UsageError."""

        async def handle(stream: ReadWriteCloser) -> None:
            await self._handle_inbound_connection(stream, addr)

        listener = self._tcp.create_listener(handle)
        listener.background_nursery = self.background_nursery
        await listener.listen(addr)
        self.listeners[str(addr)] = listener

    async def close(self) -> None:
        """Close all listeners and connections, in bounded time."""
        self._closing = True
        for listener in self.listeners.values():
            await listener.close()
        self.listeners.clear()
        async with trio.open_nursery() as nursery:
            for conn in self.get_connections():
                nursery.start_soon(conn.close)

    def _schedule_auto_connect(self) -> None:
        """Nothing dials by itself."""

    # --- inbound

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Serve one accepted connection until it ends. Never raises; the listener closes the socket afterwards."""
        remote = read_write_closer.get_remote_address()
        if remote is None or not self.gate.allows_ip(remote[0]) or self.is_full or self._is_greedy(remote[0]):
            return
        muxed: IMuxedConn | None = None
        try:
            with self.handshakes.admit(remote[0], UPGRADE_TIMEOUT):
                muxed = await self.upgrade_inbound_raw_conn(RawConnection(read_write_closer, False), maddr)
        except Exception as exc:  # noqa: BLE001 - whatever a stranger's bytes raise, it ends this connection alone
            log.debug("inbound connection from %s refused: %r", remote[0], exc)
        if isinstance(muxed, Connection):
            await muxed.event_closed.wait()

    async def serve_relayed(self, raw: IRawConnection, relay: str) -> None:
        """Serve a connection that came through a relay until it ends. Never raises."""
        muxed: IMuxedConn | None = None
        try:
            if not self.is_full:
                with self.handshakes.admit(f"relay {relay}", UPGRADE_TIMEOUT):
                    muxed = await self.upgrade_inbound_raw_conn(raw, raw.get_transport_addresses()[0])
        except Exception as exc:  # noqa: BLE001 - whatever a stranger's bytes raise, it ends this connection alone
            log.debug("inbound connection through %s refused: %r", relay, exc)
        if isinstance(muxed, Connection):
            await muxed.event_closed.wait()

    def _is_greedy(self, ip: str) -> bool:
        """Whether `ip` holds half of all connections: identities cost nothing, addresses do."""
        held = sum(
            isinstance(conn.muxed_conn, Connection) and (conn.muxed_conn.get_remote_address() or ("", 0))[0] == ip
            for conn in self.get_connections()
        )
        return held >= max(1, self.max_connections // 2)

    @property
    def is_full(self) -> bool:
        return self.get_total_connections() >= self.max_connections

    # --- connections

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Register and run an authenticated connection. Raises SwarmException if it is refused or has ended."""
        peer_id = muxed_conn.peer_id
        refusal = self._refusal(peer_id)
        nursery = self.background_nursery
        if refusal or nursery is None:
            await muxed_conn.close()
            raise SwarmException(refusal or "the swarm does not run")
        conn = SwarmConn(muxed_conn, self, direction=direction)
        try:
            relayed = muxed_conn.get_connection_type() == ConnectionType.RELAYED
            conn.set_transport_info(
                muxed_conn.get_transport_addresses(), ConnectionType.RELAYED if relayed else ConnectionType.DIRECT
            )
            conn.set_negotiated_protocols(NOISE, YAMUX)
            nursery.start_soon(muxed_conn.start)
            await muxed_conn.event_started.wait()
            nursery.start_soon(conn.start)
            await conn.event_started.wait()
            if muxed_conn.is_closed or conn.is_closed or self._closing:
                raise SwarmException("the connection ended at once")
            conns = self.connections.setdefault(peer_id, [])
            conns.append(conn)
            if len(conns) > MAX_PER_PEER:
                spare = min(conns[:-1], key=_dispensable)
                nursery.start_soon(spare.close)
            await self.notify_connected(conn)
        except BaseException:
            with trio.CancelScope(shield=True):
                await conn.close()
            raise
        return conn

    def _refusal(self, peer_id: ID) -> str:
        if self._closing:
            return "this node is stopping"
        if peer_id == self.self_id:
            return "this is our own peer id"
        if not self.gate.allows_peer(str(peer_id)):
            return "the peer is not allowed"
        if self.is_full:
            return f"all {self.max_connections} connections are in use"
        return ""

    def best_connection(self, peer_id: ID) -> SwarmConn | None:
        """The connection for a new stream: direct before relayed, then the one that was heard on last."""
        alive = [c for c in self.connections.get(peer_id, ()) if not c.is_closed and not c.muxed_conn.is_closed]

        def worth(conn: INetConn) -> tuple[bool, float]:
            return conn.get_connection_type() != ConnectionType.RELAYED, getattr(conn.muxed_conn, "last_received", 0.0)

        best = max(alive, key=worth, default=None)
        assert best is None or isinstance(best, SwarmConn)  # noqa: S101 - only add_conn fills the table
        return best

    def direct_connection(self, peer_id: ID) -> SwarmConn | None:
        """One that no relay carries."""
        best = self.best_connection(peer_id)
        return None if best is None or best.get_connection_type() == ConnectionType.RELAYED else best

    def relayed_connection(self, peer_id: ID, *, received: bool = False) -> SwarmConn | None:
        """The last one that a relay carries; `received`: of those that the peer has dialled."""
        alive = [c for c in self.connections.get(peer_id, ()) if not c.is_closed and not c.muxed_conn.is_closed]
        relayed = [c for c in alive if c.get_connection_type() == ConnectionType.RELAYED]
        if received:
            relayed = [c for c in relayed if not c.muxed_conn.is_initiator]
        found = relayed[-1] if relayed else None
        assert found is None or isinstance(found, SwarmConn)  # noqa: S101 - only add_conn fills the table
        return found

    async def new_stream(self, peer_id: ID) -> INetStream:
        """A stream without a protocol yet. Raises SwarmException, MuxedConnError, MuxedStreamError."""
        conn = self.best_connection(peer_id)
        if conn is None:
            await self.dial_peer(peer_id)
            conn = self.best_connection(peer_id)
        if conn is None:
            raise SwarmException(f"not connected to {peer_id}")
        return await conn.new_stream()

    # --- outbound

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """For libp2p's own parts, which put addresses in the peer store. Raises SwarmException."""
        alive = self.best_connection(peer_id)
        if alive is not None:
            return [alive]
        addrs: list[DialAddr] = []
        with suppress(BaseLibp2pError):  # the store does not know the peer
            for addr in self.peerstore.addrs(peer_id):
                with suppress(UntrustedDataError):
                    addrs.append(parse_addr_untrusted(str(addr), str(peer_id)))
        return [await self.dial(peer_id, addrs)]

    async def dial(self, peer_id: ID, addrs: Sequence[DialAddr], *, direct: bool = False) -> INetConn:
        """Connect over the first of `addrs` that works, or give the connection that comes up meanwhile.

        `direct`: one through a relay is none. Raises SwarmException with the reasons counted.
        """
        refusal = self._refusal(peer_id)
        if refusal:
            raise SwarmException(refusal)
        find = self.direct_connection if direct else self.best_connection
        while (ongoing := self._ongoing_dials.get(peer_id)) is not None:
            fresh = [addr for addr in addrs if addr.text not in self._being_tried.get(peer_id, ())]
            if fresh and find(peer_id) is None:  # heard of while others hang
                return await self._dial_staggered(peer_id, fresh, find)
            await ongoing.wait()
        alive = find(peer_id)
        if alive is not None:
            return alive
        done = self._ongoing_dials[peer_id] = trio.Event()
        try:
            return await self._dial_staggered(peer_id, addrs, find)
        finally:
            del self._ongoing_dials[peer_id]
            self._being_tried.pop(peer_id, None)
            done.set()

    async def _dial_staggered(
        self, peer_id: ID, addrs: Sequence[DialAddr], find: Callable[[ID], SwarmConn | None]
    ) -> INetConn:
        made: list[INetConn] = []
        reasons: Counter[str] = Counter()
        limit = trio.CapacityLimiter(MAX_DIALS)
        being_tried = self._being_tried.setdefault(peer_id, set())
        being_tried.update(addr.text for addr in addrs)

        async def attempt(addr: DialAddr, failed: trio.Event) -> None:
            async with limit:
                try:
                    made.append(await self._dial_one(peer_id, addr))
                    nursery.cancel_scope.cancel()
                except Exception as exc:  # noqa: BLE001 - whatever went wrong, it went wrong with this address
                    reasons[_reason(exc)] += 1
                    log.debug("dialling %s at %s failed: %r", peer_id, addr.text, exc)
                    self.on_dialled(str(peer_id), addr.text, False)
                    being_tried.discard(addr.text)
            failed.set()

        async with trio.open_nursery() as nursery:
            for addr in addrs:
                failed = trio.Event()
                nursery.start_soon(attempt, addr, failed)
                with trio.move_on_after(STAGGER):
                    await failed.wait()
        alive = made[0] if made else find(peer_id)
        if alive is None:
            raise SwarmException(", ".join(f"{r} ({n})" if n > 1 else r for r, n in reasons.items()) or "no address")
        return alive

    async def _dial_one(self, peer_id: ID, addr: DialAddr) -> INetConn:
        with trio.fail_after(DIAL_TIMEOUT):
            if addr.relay is not None:
                if self.dial_circuit is None:
                    raise OpenConnectionError("no relay client runs")
                conn = await self.dial_circuit(Multiaddr(f"{addr.text}/p2p/{peer_id}"))
            else:
                conn = await self._dial_direct(peer_id, addr)
        self.on_dialled(str(peer_id), addr.text, True)
        return conn

    async def _dial_direct(self, peer_id: ID, addr: DialAddr) -> INetConn:
        error: Exception = OpenConnectionError("the name has no address")
        for ip, port in await resolve(addr, str(peer_id)):
            if not self.gate.allows_ip(ip):
                error = OpenConnectionError("the address is not allowed")
                continue
            try:
                raw = await self._tcp.dial(Multiaddr(multiaddr_text(ip, port)))
            except OpenConnectionError as exc:
                error = exc
                continue
            try:
                return await self.upgrade_outbound_raw_conn(raw, peer_id)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await raw.close()
                raise
        raise error

    async def punch(self, peer_id: ID, addr: DialAddr, port: int, *, client: bool) -> None:
        """Dial one address from our own `port`; of the connection that comes of it we are the client, or the server.

        Raises SwarmException, OpenConnectionError, SecurityUpgradeFailure.
        """
        if addr.ip is None or not port or not self.gate.allows_ip(str(addr.ip)):
            raise OpenConnectionError("the address is not allowed")
        here = "::" if addr.ip.version == 6 else "0.0.0.0"  # noqa: S104 - the interface is the kernel's choice
        raw = await self._tcp.dial_with_source(Multiaddr(addr.text), (here, port))
        try:
            # Whoever waits for a connection sees it while it is still being made, and cancels us: not in the middle.
            with trio.fail_after(UPGRADE_TIMEOUT) as scope:
                scope.shield = True
                if client:
                    await self.upgrade_outbound_raw_conn(raw, peer_id)
                else:
                    await self.upgrade_inbound_raw_conn(RawConnection(raw.stream, False), Multiaddr(addr.text))
        except BaseException:
            with trio.CancelScope(shield=True):
                await raw.close()
            raise


def _dispensable(conn: INetConn) -> tuple[bool, int]:
    """Sorts what can be spared first: relayed ones, then those with few streams."""
    count = getattr(conn.muxed_conn, "stream_count", 0)
    return conn.get_connection_type() != ConnectionType.RELAYED, count


def _reason(exc: Exception) -> str:
    """The few words a user reads."""
    if isinstance(exc, trio.TooSlowError):
        return "timed out"
    if isinstance(exc, SwarmException) and isinstance(exc.__cause__, SecurityUpgradeFailure):
        return str(exc.__cause__)[:200]
    return (str(exc) or type(exc).__name__)[:200].lower()


def parse_networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Networks in CIDR form; an address with a prefix length stands for its network. Raises SetupError."""
    try:
        return tuple(ipaddress.ip_interface(text).network for text in texts)
    except ValueError as exc:
        raise SetupError(f"not a network: {exc}") from exc
