"""Peer ids for memory hosts, and a peer that speaks raw bytes: what a Go node, or a hostile one, would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

import edgevpn.p2p  # noqa: F401  # before libp2p  # isort: skip
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from edgevpn.p2p.host_service import Inbound, PeerUp
from edgevpn.p2p.memory_host import MemoryHost, MemoryNetwork
from edgevpn.proto.protocols import KADEMLIA, MESHSUB

OFFERS = (*MESHSUB, KADEMLIA)


def seed(number: int) -> bytes:
    return bytes([number]) * 32


def peer_id_of(number: int) -> str:
    return ID.from_pubkey(create_new_key_pair(seed(number)).public_key).to_base58()


def add_hosts(network: MemoryNetwork, count: int, first: int = 1) -> list[MemoryHost]:
    return [network.add(peer_id_of(number), OFFERS) for number in range(first, first + count)]


async def connect_all(*hosts: MemoryHost) -> None:
    for position, host in enumerate(hosts):
        for other in hosts[:position]:
            await host.connect(other.peer_id, [other.address])


class PipeReader:
    """`read` as py-libp2p's readers want it, one byte at a time."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream

    async def read(self, n: int) -> bytes:
        return bytes(await self._stream.receive_some(n))

    async def frame(self) -> bytes:
        return await read_varint_prefixed_bytes_limited(self, 64 << 20)  # type: ignore[arg-type]


@dataclass
class RawPeer:
    """A host without pubsub: it collects the RPCs on the streams opened to it, and opens streams itself."""

    host: MemoryHost
    streams: list[list[rpc_pb2.RPC]] = field(default_factory=list)  # one list per stream, in the order they came

    async def open(self, to: MemoryHost, *rpcs: rpc_pb2.RPC) -> trio.abc.HalfCloseableStream:
        _, stream = await self.host.dial(to.peer_id, MESHSUB)
        for rpc in rpcs:
            await self.send(stream, rpc)
        return stream

    @staticmethod
    async def send(stream: trio.abc.HalfCloseableStream, rpc: rpc_pb2.RPC) -> None:
        body = rpc.SerializeToString()
        await stream.send_all(encode_varint_prefixed(body))

    async def collect(self, inbound: Inbound) -> None:
        rpcs: list[rpc_pb2.RPC] = []
        self.streams.append(rpcs)
        reader = PipeReader(inbound.stream)
        while True:
            try:
                rpcs.append(rpc_pb2.RPC.FromString(await reader.frame()))
            except Exception:  # noqa: BLE001  # the end, in whatever form
                return


@asynccontextmanager
async def raw_peer(host: MemoryHost) -> AsyncIterator[RawPeer]:
    peer = RawPeer(host)
    async with host.serve(MESHSUB) as inbound, trio.open_nursery() as nursery:

        async def take() -> None:
            async for arrived in inbound:
                nursery.start_soon(peer.collect, arrived)

        nursery.start_soon(take)
        yield peer
        nursery.cancel_scope.cancel()


def hello(*topics: str) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in topics])


class Follower:
    """Notes what a StandIn tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def peer_up(self, peer_id: ID, peer: PeerUp) -> None:
        self.events.append(("identified" if peer.protocols else "up", peer_id.to_base58()))

    def peer_down(self, peer_id: ID) -> None:
        self.events.append(("down", peer_id.to_base58()))
