"""What pubsub and the DHT need of the node's libp2p host, which runs in another process.

The contract between the stand-in host (stand_in.py) and whoever reaches the real one: messages and pipes to the host
actor in a node, memory_host.py in tests. Peer ids are base58 text, addresses are multiaddrs as text.

The host may go away and come back at any moment. Then every stream breaks and both iterators end; who uses them treats
all peers as gone and opens them again, which waits for the host. So a user of the host survives its restart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from edgevpn.errors import EdgevpnError


class StreamRefusedError(EdgevpnError):
    """The peer or the host would not: not connected, no address answered, protocol not spoken, host away."""


@dataclass(frozen=True)
class PeerUp:
    """A peer is connected.

    `protocols` and `agent` are empty until the peer is identified (libp2p identify); it is told again then, and each
    time identify brings something new. `addrs` are those the peer says it listens on, or the one it was dialled at.
    """

    peer_id: str
    addrs: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    agent: str = ""


@dataclass(frozen=True)
class PeerDown:
    """The last connection to a peer is gone."""

    peer_id: str


@dataclass(frozen=True)
class Inbound:
    """A stream a peer opened to us; who receives it owns it."""

    peer_id: str
    protocol: str
    stream: trio.abc.HalfCloseableStream


class HostService(Protocol):
    """The node's libp2p host.

    Of every stream: `send_eof` closes our direction only; `receive_some` gives b"" when the peer closed its direction;
    a stream that broke raises trio.BrokenResourceError; `aclose` ends both directions.
    """

    async def dial(self, peer_id: str, protocols: Sequence[str]) -> tuple[str, trio.abc.HalfCloseableStream]:
        """A new stream to a connected peer in the first of `protocols` it speaks, and which that is.

        Raises StreamRefusedError, within a bounded time (about 10 s).
        """
        ...

    async def connect(self, peer_id: str, addrs: Sequence[str]) -> None:
        """Connect to a peer at the first of `addrs` that answers; nothing to do when it is connected.

        Raises StreamRefusedError, within a bounded time (about 20 s).
        """
        ...

    def serve(self, protocols: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[Inbound]]:
        """Inbound streams of `protocols`, those first that the host held while nobody served them (up to 10 s).

        One server a protocol: a new one replaces the last. The iterator ends when the host goes away.
        """
        ...

    def watch_peers(self) -> AbstractAsyncContextManager[AsyncIterator[PeerUp | PeerDown]]:
        """The peers connected now, then the changes. The iterator ends when the host goes away."""
        ...

    async def listen_addrs(self) -> tuple[str, ...]:
        """The addresses peers can reach us at, without wildcards and without /p2p. Raises StreamRefusedError."""
        ...
