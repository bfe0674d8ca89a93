"""py-libp2p's KadDHT, mended: the server side, the routing table and what is stored.

Messages, iterative lookups and answers are py-libp2p's (the libp2p Kademlia spec). Changed:

- the routing table holds connected peers whose identify lists /ipfs/kad/1.0.0, and nobody else: clients are not asked,
  and a peer that is gone costs no lookup a timeout;
- what is stored is bounded: addresses of a peer, providers of a key (the oldest go), keys, signed records. Values are
  refused: this program needs none;
- a peer has few streams at a time, each for a minute, so that it can't take the server from the others;
- `announce` tells the peers we know at once, without a lookup first;
- `find` asks the network even when a record is held here, counts each provider once, leaves ourselves out, and does
  not wait long for slow peers once it has found somebody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import libp2p.kad_dht.kad_dht as kad_dht_module
import libp2p.kad_dht.peer_routing as peer_routing_module
import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.common import ALPHA, BUCKET_SIZE, QUERY_TIMEOUT
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.peer_routing import PeerRouting
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.routing_table import RoutingTable
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.network.exceptions import SwarmException
from libp2p.peer.envelope import Envelope
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.records.validator import NamespacedValidator
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import UntrustedDataError
from edgevpn.p2p.stand_in import StandIn, StandInStream, is_peer_id

PROTOCOL = TProtocol("/ipfs/kad/1.0.0")
MAX_MESSAGE = 256 * 1024  # bytes; answers with 40 peers and their records have a quarter of it
MAX_ADDRS = 16  # of one peer
MAX_ADDR = 256  # bytes
MAX_RECORDS = 1024
MAX_KEYS = 4096
MAX_PEERS_IN_ANSWER = 64

_SERVED_AT_ONCE = 64
_SERVED_PER_PEER = 4
_SERVE_TIMEOUT = 60.0  # s; a Go node opens a new stream when one has ended
_ANNOUNCE_RATE = 60  # records a peer may send in 10 s
_PEERS_PER_SUBNET = 10  # in one bucket: several nodes of a network may share a NAT
_FIND_TIMEOUT = 10.0  # s
_PATIENCE = 1.0  # s that `find` waits for more once it has found a provider


class DhtPeerStore(PeerStore):
    """Addresses of the peers we hear of: at most 1000 peers (py-libp2p's bound), 16 addresses each."""

    def peer_ids(self) -> list[ID]:
        """None: lookups start from the routing table, not from all that was ever heard of."""
        return []

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        super().add_addrs(peer_id, usable_untrusted(addrs), ttl)
        if (data := self.peer_data_map.get(peer_id)) is not None:
            del data.addrs[MAX_ADDRS:]

    def consume_peer_record(self, envelope: Envelope, ttl: int) -> bool:
        """An older record than the one we have is no offence (py-libp2p ends the conversation): it is left out."""
        super().consume_peer_record(envelope, ttl)
        while len(self.peer_record_map) > MAX_RECORDS:
            del self.peer_record_map[next(iter(self.peer_record_map))]
        return True


class DhtStandIn(StandIn):
    """A host that knows only the peers that serve the DHT."""

    def serves_dht(self, peer_id: ID) -> bool:
        peer = self.peers.get(peer_id)
        return peer is not None and PROTOCOL in peer.protocols

    def get_connected_peers(self) -> list[ID]:
        return [peer_id for peer_id in self.peers if self.serves_dht(peer_id)]


class ServerTable(RoutingTable):
    """Connected peers that serve the DHT. `changed` is set, and made anew, when one is added."""

    host: DhtStandIn  # type: ignore[assignment]

    def __init__(self, local_id: ID, host: DhtStandIn) -> None:
        super().__init__(local_id, host, max_peers_per_subnet=_PEERS_PER_SUBNET)  # type: ignore[arg-type]
        self.changed = trio.Event()

    async def add_peer(self, peer_obj: PeerInfo | ID, *, skip_server_mode_check: bool = False) -> bool:  # noqa: ARG002
        """py-libp2p also takes peers that only asked us something: Go clients do, and serve nothing."""
        peer = peer_obj if isinstance(peer_obj, PeerInfo) else PeerInfo(peer_obj, [])
        if not self.host.serves_dht(peer.peer_id):
            return False
        before = self.size()
        added = await super().add_peer(peer, skip_server_mode_check=True)
        if self.size() > before:
            self.changed.set()
            self.changed = trio.Event()
        return added

    def start_periodic_refresh(self, nursery: trio.Nursery) -> None:
        """Not needed: the host says when a peer is gone (py-libp2p pings, and drops who serves no ping)."""


class BoundedProviderStore(ProviderStore):
    """Who provides what, and how to say and ask it."""

    host: DhtStandIn  # type: ignore[assignment]

    def __init__(self, host: DhtStandIn, peer_routing: PeerRouting, table: ServerTable) -> None:
        super().__init__(host, peer_routing)  # type: ignore[arg-type]
        self._table = table

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        providers = self.providers.pop(key, {})
        if len(providers) >= BUCKET_SIZE and str(provider.peer_id) not in providers:
            del providers[min(providers, key=lambda peer: providers[peer].timestamp)]
        self.providers[key] = providers  # the newest key is last
        while len(self.providers) > MAX_KEYS:
            del self.providers[next(iter(self.providers))]
        super().add_provider(key, PeerInfo(provider.peer_id, usable_untrusted(provider.addrs)))

    async def announce(self, key: bytes, told: set[ID], peers: Sequence[ID] | None = None) -> set[ID]:
        """Tell `peers` (those of the table closest to `key`), except those `told`, that we provide it; who was told."""
        self.add_provider(key, PeerInfo(self.local_peer_id, self.host.get_addrs()))
        heard: set[ID] = set()

        async def tell(peer_id: ID) -> None:
            with trio.move_on_after(QUERY_TIMEOUT):
                if await self._send_add_provider(peer_id, key):
                    heard.add(peer_id)

        if peers is None:
            peers = self._table.find_local_closest_peers(key, BUCKET_SIZE)
        async with trio.open_nursery() as nursery:
            for peer_id in set(peers) - told - {self.local_peer_id}:
                nursery.start_soon(tell, peer_id)
        return heard

    async def find(self, key: bytes, count: int) -> list[PeerInfo]:
        """Up to `count` providers other than ourselves, those the network names first."""
        found: dict[ID, PeerInfo] = {}
        known = set(self._table.find_local_closest_peers(key, BUCKET_SIZE))
        asked: set[ID] = {self.local_peer_id}
        in_flight = 0
        answered = trio.Event()

        async def ask(peer_id: ID) -> None:
            nonlocal in_flight
            try:
                with trio.move_on_after(_FIND_TIMEOUT):
                    providers, closer = await self._ask(peer_id, key)
                    for provider in providers:
                        if provider.peer_id != self.local_peer_id:
                            found.setdefault(provider.peer_id, provider)
                    for peer in closer:
                        if peer.addrs and peer.peer_id not in self.host.peers:
                            self.host.get_peerstore().add_addrs(peer.peer_id, peer.addrs, 3600)
                        known.add(peer.peer_id)
            finally:
                in_flight -= 1
                answered.set()

        with trio.move_on_after(_FIND_TIMEOUT) as scope:
            async with trio.open_nursery() as nursery:
                while True:
                    answered = trio.Event()
                    closest = sort_peer_ids_by_distance(key, list(known))[:BUCKET_SIZE]
                    for peer_id in [peer_id for peer_id in closest if peer_id not in asked][: ALPHA - in_flight]:
                        asked.add(peer_id)
                        in_flight += 1
                        nursery.start_soon(ask, peer_id)
                    if in_flight == 0 or len(found) >= count:
                        nursery.cancel_scope.cancel()
                        break
                    if found:
                        scope.deadline = min(scope.deadline, trio.current_time() + _PATIENCE)
                    await answered.wait()
        for provider in self.get_providers(key):
            if provider.peer_id != self.local_peer_id:
                found.setdefault(provider.peer_id, provider)
        return list(found.values())[:count]

    async def _ask(self, peer_id: ID, key: bytes) -> tuple[list[PeerInfo], list[PeerInfo]]:
        """The providers of `key` a peer knows, and peers closer to it; nothing if it does not answer well."""
        request = Message(type=Message.MessageType.GET_PROVIDERS, key=key).SerializeToString()
        try:
            stream = await self.host.new_stream(peer_id, [PROTOCOL])
        except SwarmException:
            self._table.remove_peer(peer_id)
            return [], []
        try:
            await stream.write(encode_varint_prefixed(request))
            answer = await read_varint_prefixed_bytes_limited(stream, MAX_MESSAGE)  # type: ignore[arg-type]
            return decode_providers_untrusted(answer)
        except Exception:  # noqa: BLE001  # a stream that breaks, a wrong length, a wrong message: no answer
            return [], []
        finally:
            await stream.close()


def decode_providers_untrusted(data: bytes) -> tuple[list[PeerInfo], list[PeerInfo]]:
    """Of an answer to GET_PROVIDERS: the providers and the closer peers. Raises UntrustedDataError."""
    message = Message()
    try:
        message.ParseFromString(data)
    except Exception as exc:  # protobuf's DecodeError, of which there are two implementations
        raise UntrustedDataError("not a DHT message") from exc
    if message.type != Message.MessageType.GET_PROVIDERS:
        raise UntrustedDataError("not an answer to GET_PROVIDERS")
    return _peers_untrusted(message.providerPeers), _peers_untrusted(message.closerPeers)


def _peers_untrusted(peers: Sequence[Message.Peer]) -> list[PeerInfo]:
    read = []
    for peer in peers[:MAX_PEERS_IN_ANSWER]:
        addrs = [Multiaddr(addr) for addr in peer.addrs[:MAX_ADDRS] if addr]
        if is_peer_id(peer.id):
            read.append(PeerInfo(ID(peer.id), usable_untrusted(addrs)))
    return read


def usable_untrusted(addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Those that parse, which the library finds out only when they are used; at most 16."""
    usable = []
    for addr in addrs[: 2 * MAX_ADDRS]:
        with suppress(Exception):  # the library raises whatever its parsers raise
            if 0 < len(addr.to_bytes()) <= MAX_ADDR and Multiaddr(str(addr)) == addr:
                usable.append(addr)
    return usable[:MAX_ADDRS]


class DhtNode(KadDHT):
    """Runs as py-libp2p's service; a follower of its stand-in host."""

    def __init__(self, host: DhtStandIn, nursery: trio.Nursery, *, server: bool) -> None:
        # What they read at once, 4 MiB, takes many times that in memory if it consists of tiny parts.
        kad_dht_module.MAX_DHT_MESSAGE_SIZE = MAX_MESSAGE  # type: ignore[attr-defined]
        peer_routing_module.MAX_DHT_MESSAGE_SIZE = MAX_MESSAGE  # type: ignore[attr-defined]
        super().__init__(
            host,  # type: ignore[arg-type]
            DHTMode.SERVER if server else DHTMode.CLIENT,
            validator=NamespacedValidator({}, strict_validation=True),
            validator_changed=True,
            strict_validation=True,
        )
        self.table = ServerTable(host.get_id(), host)
        self.routing_table = self.table
        self.peer_routing = PeerRouting(host, self.table)  # type: ignore[arg-type]
        self.store = BoundedProviderStore(host, self.peer_routing, self.table)
        self.provider_store = self.store
        self._provider_rate_max = _ANNOUNCE_RATE
        self._inbound_limiter.total_tokens = _SERVED_AT_ONCE
        self._served: Counter[ID] = Counter()
        self._nursery = nursery

    def peer_up(self, peer_id: ID, peer: object) -> None:  # noqa: ARG002
        self._nursery.start_soon(self.table.add_peer, PeerInfo(peer_id, self.host.get_peerstore().addrs(peer_id)))

    def peer_down(self, peer_id: ID) -> None:
        self.table.remove_peer(peer_id)

    async def handle_stream(self, stream: StandInStream) -> None:  # type: ignore[override]
        peer_id = stream.muxed_conn.peer_id
        if self._served[peer_id] >= _SERVED_PER_PEER:
            await stream.reset()
            return
        self._served[peer_id] += 1
        try:
            with trio.move_on_after(_SERVE_TIMEOUT):
                await super().handle_stream(stream)  # type: ignore[arg-type]
        finally:
            self._served[peer_id] -= 1
            if not self._served[peer_id]:
                del self._served[peer_id]
