"""Gossips on hosts in memory, and what they received."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from edgevpn.p2p.memory_host import MemoryHost
from edgevpn.p2p.pubsub import Gossip, Received, open_gossip
from tests.p2p.memory_nodes import seed

from libp2p.crypto.ed25519 import create_new_key_pair  # isort: skip  # after edgevpn.p2p
from libp2p.peer.id import ID  # isort: skip
from libp2p.pubsub.pb import rpc_pb2  # isort: skip


class Node:
    """A gossip on a host, and what it received."""

    def __init__(self, host: MemoryHost, gossip: Gossip) -> None:
        self.host = host
        self.gossip = gossip
        self.received: list[Received] = []

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.received]

    async def read(self) -> None:
        async for message in self.gossip:
            self.received.append(message)


@asynccontextmanager
async def open_node(host: MemoryHost, number: int, *topics: str, **options: object) -> AsyncIterator[Node]:
    async with open_gossip(host, seed(number), **options) as gossip, trio.open_nursery() as nursery:
        node = Node(host, gossip)
        nursery.start_soon(node.read)
        for topic in topics:
            await gossip.join(topic)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_nodes(*hosts: MemoryHost, topic: str = "t") -> AsyncIterator[list[Node]]:
    """Nodes 1, 2, ... on a topic."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_node(host, number, topic))
            for number, host in enumerate(hosts, start=1)
        ]


def signed(number: int, topic: str, data: bytes, seqno: int = 1) -> rpc_pb2.Message:
    keys = create_new_key_pair(seed(number))
    author = ID.from_pubkey(keys.public_key).to_bytes()
    message = rpc_pb2.Message(from_id=author, data=data, seqno=seqno.to_bytes(8, "big"), topicIDs=[topic])
    message.signature = keys.private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
    return message
