"""py-libp2p's host, mended: streams in and out, and identify.

`MendedHost` stays a `BasicHost`, so that libp2p's relay and hole punching run on it, and replaces:

- the way of an inbound stream: an exception of a handler, or garbage instead of a negotiation, ends that stream alone
  (stock: the process). At most `MAX_HANDLERS` run for one connection; the negotiation has `NEGOTIATION_TIMEOUT`;
- the negotiation of an outbound stream: one round trip less (multistream.py), and its failure is an exception, not
  a log entry at error level;
- identify: what a peer claims to listen on does not replace the address that worked (the address book decides), and
  wildcards and loopback are not announced. Every new connection is identified once, by the node's own agent name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p import identify, multistream
from edgevpn.p2p.swarm_mends import MendedSwarm
from edgevpn.p2p.yamux import Connection
from edgevpn.p2p.yamux_stream import Stream
from edgevpn.proto.relayed import is_relayed

log = logging.getLogger(__name__)

NEGOTIATION_TIMEOUT = 10.0
IDENTIFY_TIMEOUT = 10.0
MAX_HANDLERS = 1024


class MendedHost(BasicHost):
    """See the module's text. `on_identified` is told what each connection's peer said of itself."""

    def __init__(
        self,
        swarm: MendedSwarm,
        agent: str,
        announced: Callable[[list[Multiaddr]], list[Multiaddr]],
        listening: Callable[[], tuple[str, ...]],
        on_identified: Callable[[str, identify.Identity], None],
        on_stream: Callable[[str, str, Stream], None],
    ) -> None:
        self._swarm = swarm
        self._agent = agent
        self._listening = listening
        self._on_identified = on_identified
        self._on_stream = on_stream
        super().__init__(swarm, addrs_factory=announced)
        self.set_stream_handler(TProtocol(identify.IDENTIFY), self._answer_identify)
        self.set_stream_handler(TProtocol(identify.IDENTIFY_PUSH), self._take_push)

    # --- streams

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Serve one inbound stream until its handler is done. Never raises.

        The stream is not closed afterwards: the handler of a relayed connection returns and the connection lives on.
        """
        stream = muxed(net_stream)
        conn = getattr(net_stream, "swarm_conn", None)
        handlers = self.multiselect.handlers
        try:
            if conn is not None and len(conn.get_streams()) > MAX_HANDLERS:
                raise UntrustedDataError("too many streams of one connection")
            with trio.fail_after(NEGOTIATION_TIMEOUT):
                names = [str(name) for name in handlers if name]
                protocol = TProtocol(await multistream.negotiate_inbound(stream, names, names))
            net_stream.set_protocol(protocol)
            handler = handlers.get(protocol)
            if handler is None:
                raise UntrustedDataError("the protocol is no longer served")
            self._on_stream(str(stream.muxed_conn.peer_id), protocol, stream)
            await handler(net_stream)
        except Exception as exc:  # noqa: BLE001 - whatever a handler raises, it must end this stream alone
            log.debug("stream from %s: %r", stream.muxed_conn.peer_id, exc)
            stream.abort("the stream failed")

    async def new_stream(self, peer_id: ID, protocol_ids: Any) -> INetStream:
        """For libp2p's own parts. Raises StreamFailure."""
        try:
            net_stream = await self._swarm.new_stream(peer_id)
        except BaseLibp2pError as exc:
            raise StreamFailure(f"no stream to {peer_id}: {exc}") from exc
        stream = muxed(net_stream)
        try:
            net_stream.set_protocol(TProtocol(await self.negotiate(stream, [str(p) for p in protocol_ids])))
        except BaseException as exc:
            with trio.CancelScope(shield=True):
                await net_stream.reset()
            if isinstance(exc, (BaseLibp2pError, UntrustedDataError, trio.TooSlowError)):
                raise StreamFailure(f"no stream to {peer_id}: {exc}") from exc
            raise
        return net_stream

    async def negotiate(self, stream: Stream, protocols: list[str]) -> str:
        """Agree on one of `protocols`. Raises UntrustedDataError, MuxedStreamError, trio.TooSlowError."""
        with trio.fail_after(NEGOTIATION_TIMEOUT):
            protocol = await multistream.negotiate_outbound(stream, protocols)
        self._on_stream(str(stream.muxed_conn.peer_id), protocol, stream)
        return protocol

    async def connect(self, peer_info: PeerInfo) -> None:
        """For libp2p's own parts. Raises SwarmException."""
        self.peerstore.add_addrs(peer_info.peer_id, peer_info.addrs, 120)
        await self._swarm.dial_peer(peer_info.peer_id)

    # --- identify

    def served(self) -> list[str]:
        return [str(name) for name in self.multiselect.handlers if name]

    def _message(self, observed: str) -> bytes:
        key = self.get_public_key().serialize()
        return identify.build(key, self._agent, self.served(), self._listening(), observed)

    async def _answer_identify(self, net_stream: INetStream) -> None:
        conn = getattr(net_stream, "swarm_conn", None)
        seen = [str(addr) for addr in conn.get_transport_addresses()] if conn is not None else []
        with trio.fail_after(IDENTIFY_TIMEOUT):
            await net_stream.write(self._message(seen[0] if seen else ""))
        await muxed(net_stream).release()

    async def _take_push(self, net_stream: INetStream) -> None:
        stream = muxed(net_stream)
        with trio.fail_after(IDENTIFY_TIMEOUT):
            self._identified(stream.muxed_conn.peer_id, await _read_identity(stream))
        await stream.release()

    async def _on_notifee_connected(self, conn: INetConn) -> None:
        nursery = self._swarm.background_nursery
        if nursery is not None and isinstance(conn, SwarmConn):
            nursery.start_soon(self._identify, conn)

    async def _identify(self, conn: SwarmConn) -> None:
        """Ask the peer of a new connection who it is. Never raises."""
        try:
            identity = await self._ask(conn)
            if isinstance(conn.muxed_conn, Connection):
                conn.muxed_conn.observed = identity.observed
            self._identified(conn.muxed_conn.peer_id, identity)
            manager = self._observed_addr_manager
            if identity.observed and manager is not None and not is_relayed(identity.observed):
                manager.record_observation(conn, Multiaddr(identity.observed), self.get_transport_addrs())
        except Exception as exc:  # noqa: BLE001 - whatever a peer's answer raises in libp2p, it is about this peer alone
            log.debug("%s does not say who it is: %r", conn.muxed_conn.peer_id, exc)

    async def _ask(self, conn: SwarmConn) -> identify.Identity:
        connection = conn.muxed_conn
        assert isinstance(connection, Connection)  # noqa: S101 - our upgrader makes no other
        with trio.fail_after(IDENTIFY_TIMEOUT):
            stream = await connection.open_stream()
            try:
                await self.negotiate(stream, [identify.IDENTIFY])
                return await _read_identity(stream)
            finally:
                with trio.CancelScope(shield=True):
                    await stream.release()

    def _identified(self, peer_id: ID, identity: identify.Identity) -> None:
        if self._swarm.best_connection(peer_id) is None:
            return  # gone meanwhile: nothing must be kept for it
        self.peerstore.clear_protocol_data(peer_id)
        self.peerstore.add_protocols(peer_id, sorted(identity.protocols))
        self._on_identified(str(peer_id), identity)

    async def push_identity(self) -> None:
        """Tell all connected peers that understand it what we serve and where we listen now."""
        for peer_id in self.get_connected_peers():
            try:
                if not self.peerstore.supports_protocols(peer_id, [identify.IDENTIFY_PUSH]):
                    continue
                with trio.move_on_after(IDENTIFY_TIMEOUT):
                    stream = await self.new_stream(peer_id, [identify.IDENTIFY_PUSH])
                    await stream.write(self._message(""))
                    await stream.close()
            except BaseLibp2pError as exc:
                log.debug("telling %s who we are: %r", peer_id, exc)

    def _on_notifee_disconnected(self, conn: INetConn) -> None:
        super()._on_notifee_disconnected(conn)
        peer_id = conn.muxed_conn.peer_id
        if self._swarm.best_connection(peer_id) is None and self.peerstore.has_peer(peer_id):
            self.peerstore.clear_peerdata(peer_id)  # nothing grows with the peers that come and go


def muxed(net_stream: INetStream) -> Stream:
    """The yamux stream under a stream of libp2p's."""
    if isinstance(net_stream, NetStream) and isinstance(net_stream.muxed_stream, Stream):
        return net_stream.muxed_stream
    raise TypeError("a stream that did not come from our muxer")


async def _read_identity(stream: Stream) -> identify.Identity:
    """Raises UntrustedDataError, MuxedStreamError."""
    size, shift = 0, 0
    while True:
        byte = (await stream.read(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 128:
            break
        if shift > 14:
            raise UntrustedDataError("identify: too long")
    if size > identify.MAX_MESSAGE:
        raise UntrustedDataError("identify: too long")
    body = bytearray()
    while len(body) < size:
        body += await stream.read(size - len(body))
    return identify.parse_untrusted(bytes(body))
