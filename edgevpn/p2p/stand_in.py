"""A host for py-libp2p's Pubsub and KadDHT whose connections live in another process.

`StandIn` has the part of py-libp2p's IHost that those two use, on a `HostService`. It follows the host for ever: which
peers are connected, which streams they open. When the host goes away all peers are down and all streams broken; when
it is back, the protocols are served and the peers watched again, and everything starts from the peers connected then.

A handler of inbound streams may fail in any way: that ends its stream and is counted, nothing else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Protocol

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair, PrivateKey, PublicKey
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError
from edgevpn.p2p.host_service import HostService, Inbound, PeerDown, PeerUp, StreamRefusedError

_READ = 65536
_RETRY_FIRST, _RETRY_MOST = 0.02, 1.0  # s between tries to reach a host that went away
_LINGER = 10.0  # s we wait, after we closed our direction, for the peer to close its own
_MAX_LINGERING = 64
_MAX_STREAMS_PER_PEER = 32
_MAX_STREAMS = 1024
_MAX_ADDRS = 16  # of one peer
_ADDRS_TTL = 3600  # s the addresses of a peer that is gone are kept; the number of peers is bounded by the PeerStore
_DIAL_TIMEOUT = 3.0  # s for a peer we are not connected to: often it is gone

_log = logging.getLogger(__name__)
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel, EdgevpnError, OSError)


def parse_multiaddrs_untrusted(texts: Sequence[str]) -> list[Multiaddr]:
    """The first 16 addresses that parse; the others are left out."""
    addrs = []
    for text in filter(None, texts[:_MAX_ADDRS]):
        with suppress(Exception):  # the library raises whatever its parsers raise
            addrs.append(Multiaddr(text))
    return addrs


def is_peer_id(data: bytes) -> bool:
    """Whether it is a multihash as peer ids are: of a key that is in it (0x00), or a SHA-256 of one (0x12 0x20)."""
    if len(data) == 34 and data[:2] == b"\x12\x20":
        return True
    return 2 < len(data) <= 66 and data[:2] == bytes([0, len(data) - 2])


class _MuxedConn:
    """The two facts about a connection that are asked for."""

    def __init__(self, peer_id: ID) -> None:
        self.peer_id = peer_id
        self.is_closed = False


class _Conn:
    def __init__(self, peer_id: ID) -> None:
        self.muxed_conn = _MuxedConn(peer_id)


class StandInStream:
    """A stream as py-libp2p's INetStream, over a byte pipe; reading is buffered, since it asks for single bytes."""

    metric_send_channel = None  # asked for before every message

    def __init__(self, host: StandIn, pipe: trio.abc.HalfCloseableStream, peer_id: ID, protocol: str) -> None:
        self.muxed_conn = _MuxedConn(peer_id)
        self.closed = False
        self._host = host
        self._pipe = pipe
        self._protocol = TProtocol(protocol)
        self._buffer = b""
        self._position = 0
        self._writing = trio.Lock()  # py-libp2p writes from several tasks

    def get_protocol(self) -> TProtocol:
        return self._protocol

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte, at most `n`. Raises StreamEOF or StreamReset."""
        if self._position == len(self._buffer):
            try:
                self._buffer = bytes(await self._pipe.receive_some(_READ))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise StreamReset("the stream broke") from exc
            self._position = 0
            if not self._buffer:
                raise StreamEOF("the peer closed the stream")
        start = self._position
        self._position = len(self._buffer) if n is None or n < 0 else min(start + n, len(self._buffer))
        return self._buffer[start : self._position]

    async def write(self, data: bytes) -> None:
        """Raises StreamReset."""
        try:
            async with self._writing:
                await self._pipe.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise StreamReset("the stream broke") from exc

    async def close(self) -> None:
        """Close our direction. The peer's is read to its end in the background, and then the stream is gone."""
        if self.closed:
            return
        self.closed = True
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(1):
                async with self._writing:
                    await self._pipe.send_eof()
                self._host.linger(self)
                return
        await self.reset()

    async def reset(self) -> None:
        """End both directions now."""
        self.closed = True
        await trio.aclose_forcefully(self._pipe)

    async def drain(self) -> None:
        """Discard what the peer still sends, until its end."""
        with suppress(StreamEOF, StreamReset):
            while True:
                await self.read()


Handler = Callable[[StandInStream], Awaitable[None]]


class PeerFollower(Protocol):
    """Is told of peers by a StandIn. Neither may raise or wait."""

    def peer_up(self, peer_id: ID, peer: PeerUp) -> None:
        """A peer is connected, or more is known of it."""

    def peer_down(self, peer_id: ID) -> None: ...


class _Network:
    """What is asked of IHost.get_network()."""

    def __init__(self, host: StandIn) -> None:
        self._host = host

    def register_notifee(self, notifee: object) -> None:
        """Not used: `StandIn.followers` are told of peers, at once and without waiting."""

    def get_connections(self, peer_id: ID | None = None) -> list[_Conn]:
        peers = self._host.peers if peer_id is None else [peer_id]
        return [_Conn(peer) for peer in peers if peer in self._host.peers]


class StandIn:
    """What Pubsub and KadDHT take for their host. Run `run` as a task, after the handlers are set."""

    def __init__(
        self,
        service: HostService,
        key_seed: bytes,
        *,
        peerstore: PeerStore | None = None,
        counters: Counter[str] | None = None,
    ) -> None:
        """`key_seed`: the 32 bytes of the node's Ed25519 key. `counters` are the caller's, to count in."""
        self.service = service
        self.peers: dict[ID, PeerUp] = {}
        self.followers: list[PeerFollower] = []
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.counters.update(inbound_refused=0, handlers_failed=0, host_lost=0)
        self._key_pair: KeyPair = create_new_key_pair(key_seed)
        self._id = ID.from_pubkey(self._key_pair.public_key)
        self._peerstore = peerstore if peerstore is not None else PeerStore()
        self._network = _Network(self)
        self._handlers: dict[str, Handler] = {}
        self._addrs: list[Multiaddr] = []
        self._streams: Counter[ID] = Counter()
        self._lingering = 0
        self._nursery: trio.Nursery | None = None

    # --- what py-libp2p asks

    def get_id(self) -> ID:
        return self._id

    def get_private_key(self) -> PrivateKey:
        return self._key_pair.private_key

    def get_public_key(self) -> PublicKey:
        return self._key_pair.public_key

    def get_network(self) -> _Network:
        return self._network

    def get_peerstore(self) -> PeerStore:
        return self._peerstore

    def get_addrs(self) -> list[Multiaddr]:
        """The host's listen addresses, as of the last `refresh_addrs`."""
        return list(self._addrs)

    def get_transport_addrs(self) -> list[Multiaddr]:
        return list(self._addrs)

    def get_connected_peers(self) -> list[ID]:
        return list(self.peers)

    def set_stream_handler(self, protocol: TProtocol, handler: Handler) -> None:
        self._handlers[str(protocol)] = handler

    def remove_stream_handler(self, protocol: TProtocol) -> None:
        self._handlers.pop(str(protocol), None)

    async def new_stream(self, peer_id: ID, protocols: Sequence[TProtocol]) -> StandInStream:
        """A stream to a peer, which is connected first if it is not. Raises SwarmException."""
        try:
            if not is_peer_id(peer_id.to_bytes()):
                raise StreamRefusedError("not a peer id")
            if peer_id not in self.peers:
                await self._connect_known(peer_id)
            protocol, pipe = await self.service.dial(peer_id.to_base58(), [str(protocol) for protocol in protocols])
        except (*_GONE, trio.TooSlowError) as exc:
            raise SwarmException(f"no stream to {peer_id}: {exc}") from exc
        return StandInStream(self, pipe, peer_id, protocol)

    async def connect(self, peer: PeerInfo) -> None:
        """Raises SwarmException."""
        try:
            await self.service.connect(peer.peer_id.to_base58(), [str(addr) for addr in peer.addrs])
        except _GONE as exc:
            raise SwarmException(f"can't connect to {peer.peer_id}: {exc}") from exc

    async def _connect_known(self, peer_id: ID) -> None:
        try:
            addrs = self._peerstore.addrs(peer_id)
        except KeyError:
            addrs = []
        if not addrs:
            raise StreamRefusedError("not connected, and no address is known")
        with trio.fail_after(_DIAL_TIMEOUT):
            await self.service.connect(peer_id.to_base58(), [str(addr) for addr in addrs])

    # --- following the host

    async def refresh_addrs(self) -> list[Multiaddr]:
        """Ask the host where it listens. Keeps what is known if the host is away."""
        with suppress(*_GONE):
            self._addrs = parse_multiaddrs_untrusted(await self.service.listen_addrs())
        return self.get_addrs()

    async def run(self) -> None:
        """Serve and watch, over as many lives of the host as it takes."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            pause = _RETRY_FIRST
            try:
                while True:
                    began = trio.current_time()
                    try:
                        await self._session()
                    except* _GONE as group:
                        _log.debug("the host can't be reached: %r", group.exceptions)
                    finally:
                        self._all_down()
                    self.counters["host_lost"] += 1
                    pause = _RETRY_FIRST if trio.current_time() - began > _RETRY_MOST else min(pause * 2, _RETRY_MOST)
                    await trio.sleep(pause)
            finally:
                self._nursery = None

    async def _session(self) -> None:
        """One life of the host: returns when an iterator ends, whatever it ended with."""
        async with AsyncExitStack() as stack:
            inbound = None
            if self._handlers:
                inbound = await stack.enter_async_context(self.service.serve(list(self._handlers)))
            changes = await stack.enter_async_context(self.service.watch_peers())
            nursery = await stack.enter_async_context(trio.open_nursery())
            if inbound is not None:
                nursery.start_soon(self._take_inbound, inbound, nursery)
            async for change in changes:
                self._peer_changed(change)
            nursery.cancel_scope.cancel()

    async def _take_inbound(self, inbound: AsyncIterator[Inbound], nursery: trio.Nursery) -> None:
        async for arrived in inbound:
            peer_id = ID.from_base58(arrived.peer_id)
            handler = self._handlers.get(arrived.protocol)
            if (
                handler is None
                or self._streams[peer_id] >= _MAX_STREAMS_PER_PEER
                or self._streams.total() >= _MAX_STREAMS
            ):
                self.counters["inbound_refused"] += 1
                await trio.aclose_forcefully(arrived.stream)
                continue
            stream = StandInStream(self, arrived.stream, peer_id, arrived.protocol)
            self._streams[peer_id] += 1
            nursery.start_soon(self._handle, handler, stream, peer_id)
        nursery.cancel_scope.cancel()

    async def _handle(self, handler: Handler, stream: StandInStream, peer_id: ID) -> None:
        try:
            await handler(stream)
        except Exception as exc:  # noqa: BLE001  # whatever a peer makes py-libp2p raise ends this stream only
            self.counters["handlers_failed"] += 1
            _log.debug("a stream of %s failed: %r", peer_id, exc)
            await stream.reset()
        finally:
            self._streams[peer_id] -= 1
            if not self._streams[peer_id]:
                del self._streams[peer_id]
            if not stream.closed:
                await stream.reset()

    def linger(self, stream: StandInStream) -> None:
        """Read `stream` to its end in the background; it is ours to close."""
        if self._nursery is not None:
            self._lingering += 1
            self._nursery.start_soon(self._linger, stream, _LINGER if self._lingering <= _MAX_LINGERING else 0.0)

    async def _linger(self, stream: StandInStream, seconds: float) -> None:
        try:
            with trio.move_on_after(seconds):
                await stream.drain()
        finally:
            self._lingering -= 1
            await stream.reset()

    # --- peers

    def _peer_changed(self, change: PeerUp | PeerDown) -> None:
        try:
            peer_id = ID.from_base58(change.peer_id)
        except ValueError:
            _log.warning("the host named a peer that is none: %r", change.peer_id)
            return
        if isinstance(change, PeerDown):
            self._peer_down(peer_id)
            return
        self.peers[peer_id] = change
        self._peerstore.clear_addrs(peer_id)
        self._peerstore.add_addrs(peer_id, parse_multiaddrs_untrusted(change.addrs), _ADDRS_TTL)
        self._peerstore.set_protocols(peer_id, list(change.protocols))
        for follower in self.followers:
            follower.peer_up(peer_id, change)

    def _peer_down(self, peer_id: ID) -> None:
        if self.peers.pop(peer_id, None) is not None:
            for follower in self.followers:
                follower.peer_down(peer_id)

    def _all_down(self) -> None:
        for peer_id in list(self.peers):
            self._peer_down(peer_id)
