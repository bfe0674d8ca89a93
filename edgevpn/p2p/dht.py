"""The DHT: say that we are there, and ask who else is.

`open_dht` runs py-libp2p's KadDHT (dht_node.py) on a stand-in host: as a server, also on private addresses, since Go
nodes serve none there. It keeps the bootstrap peers connected, and looks around when a new DHT peer is found.

Nothing here waits for a timer: as soon as a peer is connected and identified as a server, `wait_for_peers` returns and
`provide` and `find_providers` use it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service

from edgevpn.errors import EdgevpnError
from edgevpn.p2p.dht_node import DhtNode, DhtPeerStore, DhtStandIn
from edgevpn.p2p.host_service import HostService, PeerUp

_RETRY_FIRST, _RETRY_MOST = 0.25, 30.0  # s between tries to reach a bootstrap peer
_LOOK_AROUND = 5.0  # s at least between two lookups for new peers
_LOOK_TIMEOUT = 30.0


# It logs what peers do wrong, which is up to them. Said at import: to say it walks over all loggers, and would copy the
# page of each in an actor that was forked.
logging.getLogger("libp2p.kad_dht").setLevel(logging.CRITICAL)


class Dht:
    """What the rest of the program uses. Keys are multihashes: 0x12 0x20 and a SHA-256."""

    def __init__(self, host: DhtStandIn, node: DhtNode, nursery: trio.Nursery) -> None:
        self._host = host
        self._node = node
        self._nursery = nursery
        self._peers_changed = trio.Event()
        self._announcing: set[bytes] = set()

    @property
    def counters(self) -> Counter[str]:
        return self._host.counters

    @property
    def routing_table_size(self) -> int:
        """How many connected peers serve the DHT."""
        return self._node.table.size()

    async def wait_for_peers(self, more_than: int = 0) -> int:
        """Until there are more than so many; how many there are."""
        while self.routing_table_size <= more_than:
            await self._node.table.changed.wait()
        return self.routing_table_size

    async def provide(self, key: bytes) -> int:
        """Announce our listen addresses under `key`; how many peers were told: 0 while we know none, or listen nowhere.

        Peers closer to the key, which take a lookup to find, are told in the background. Records last 48 h at most,
        and less where there are many: announce again now and then.
        """
        _check_key(key)
        if not await self._host.refresh_addrs():
            return 0
        told = await self._node.store.announce(key, set())
        self.counters["records_sent"] += len(told)
        if told and key not in self._announcing:
            self._announcing.add(key)
            self._nursery.start_soon(self._announce_further, key, told)
        return len(told)

    async def _announce_further(self, key: bytes, told: set[ID]) -> None:
        try:
            with trio.move_on_after(_LOOK_TIMEOUT):
                closest = await self._node.peer_routing.find_closest_peers_network(key)
                self.counters["records_sent"] += len(await self._node.store.announce(key, told, closest))
        finally:
            self._announcing.discard(key)

    async def find_providers(self, key: bytes, limit: int = 20) -> list[tuple[str, tuple[str, ...]]]:
        """Up to `limit` others that announced themselves under `key`: peer id and addresses, from within 10 s."""
        _check_key(key)
        found = await self._node.store.find(key, limit)
        return [(peer.peer_id.to_base58(), tuple(str(addr) for addr in peer.addrs)) for peer in found]

    async def look_around(self) -> None:
        """Look for new peers whenever there is one more to ask."""
        while True:
            await self._node.table.changed.wait()
            with trio.move_on_after(_LOOK_TIMEOUT):
                await self._node.peer_routing.refresh_routing_table()
            await trio.sleep(_LOOK_AROUND)

    async def keep_connected(self, multiaddr: str) -> None:
        """To a bootstrap peer, multiaddr/p2p/ID."""
        address, _, peer_id = multiaddr.rpartition("/p2p/")
        pause = _RETRY_FIRST
        while True:
            if any(peer.peer_id == peer_id for peer in self._host.peers.values()):
                pause = _RETRY_FIRST
                await self._peers_changed.wait()
                continue
            try:
                await self._host.service.connect(peer_id, [address])
            except EdgevpnError:
                self.counters["bootstrap_refused"] += 1
            with trio.move_on_after(pause):
                await self._peers_changed.wait()
            pause = min(2 * pause, _RETRY_MOST)

    # --- told by the host

    def peer_up(self, peer_id: ID, peer: PeerUp) -> None:  # noqa: ARG002
        self._peers_changed.set()
        self._peers_changed = trio.Event()

    def peer_down(self, peer_id: ID) -> None:  # noqa: ARG002
        self._peers_changed.set()
        self._peers_changed = trio.Event()


def _check_key(key: bytes) -> None:
    if len(key) != 34 or key[:2] != b"\x12\x20":
        raise ValueError("a DHT key is 0x12 0x20 and a SHA-256")


@asynccontextmanager
async def open_dht(
    service: HostService, key_seed: bytes, bootstrap: Sequence[str] = (), *, server: bool = True
) -> AsyncIterator[Dht]:
    """Run the DHT on the host behind `service`; `bootstrap` are multiaddr/p2p/ID."""
    counters: Counter[str] = Counter(records_sent=0, bootstrap_refused=0)
    host = DhtStandIn(service, key_seed, peerstore=DhtPeerStore(), counters=counters)
    async with trio.open_nursery() as nursery:
        node = DhtNode(host, nursery, server=server)
        host.followers.append(node)
        dht = Dht(host, node, nursery)
        host.followers.append(dht)
        async with background_trio_service(node):
            nursery.start_soon(host.run)
            nursery.start_soon(dht.look_around)
            for multiaddr in bootstrap:
                nursery.start_soon(dht.keep_connected, multiaddr)
            yield dht
        nursery.cancel_scope.cancel()  # not in a `finally`: a cancelled exit would swallow the caller's exception
