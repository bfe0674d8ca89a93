"""The host actor as seen by the other actors: `edgevpn.p2p.host_service.HostService` over its mailbox.

Dialled and inbound streams are pipes: the bytes pass through the host process. When the host goes away the iterators
end; the one who uses them opens them again and starts from a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import trio

from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError
from edgevpn.p2p.host_service import (
    Inbound as Inbound,
    PeerDown,
    PeerUp,
    StreamRefusedError as StreamRefusedError,
)
from edgevpn.proto import messages
from edgevpn.proto.messages import (
    Change,
    Dial,
    Dialed,
    Done,
    Event,
    HostSelf,
    PeerState,
    Snapshot,
    StreamEnd,
    StreamEndRequest,
    Take,
)

_INBOUND_AT_ONCE = 64  # streams being taken; more wait in the feed, bounded there


class HostLink:
    """Reaches the host actor through `client`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def dial(self, peer_id: str, protocols: Sequence[str]) -> tuple[str, trio.abc.HalfCloseableStream]:
        """A new stream. Raises StreamRefusedError."""
        try:
            dialed, stream = await self._client.open_pipe(Dial(peer_id, list(protocols)), Dialed)
        except (ActorUnavailableError, RefusedError) as exc:
            raise StreamRefusedError(str(exc)) from exc
        stream.number = dialed.number
        return dialed.protocol, stream

    async def ended_cleanly(self, stream: object) -> bool:
        """Whether the peer ended what it sent on `stream`, which has just read as at its end; False if it broke."""
        try:
            answer = await self._client.call(StreamEndRequest(getattr(stream, "number", 0)), StreamEnd, timeout=2)
        except (ActorUnavailableError, RefusedError):
            return False  # the host went away, and the stream with it
        return answer.clean

    async def connect(self, peer_id: str, addrs: Sequence[str], *, source: str = "gossip") -> None:
        """Raises StreamRefusedError when no address answers."""
        try:
            await self._client.call(messages.Connect(peer_id, list(addrs), source), Done, timeout=20)
        except (ActorUnavailableError, RefusedError) as exc:
            raise StreamRefusedError(str(exc)) from exc

    async def listen_addrs(self) -> tuple[str, ...]:
        async with self._client.watch("self") as updates:
            async for update in updates:
                if isinstance(update, Snapshot) and isinstance(value := update.items.get("host"), HostSelf):
                    return tuple(value.listen)
        return ()

    @asynccontextmanager
    async def serve(self, protocols: Sequence[str]) -> AsyncIterator[trio.MemoryReceiveChannel[Inbound]]:
        """Inbound streams of these protocols, until the host goes away (EndOfChannel)."""
        send, receive = trio.open_memory_channel[Inbound](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_all, list(protocols), send)
            try:
                yield receive
            finally:
                nursery.cancel_scope.cancel()

    async def _take_all(self, protocols: list[str], send: trio.MemorySendChannel[Inbound]) -> None:
        limit = trio.CapacityLimiter(_INBOUND_AT_ONCE)

        async def take(event: messages.Inbound) -> None:
            async with limit:
                try:
                    _, stream = await self._client.open_pipe(Take(event.number), Done)
                except (ActorUnavailableError, RefusedError):
                    return  # it waited too long, or its connection is gone
                stream.number = event.number
                try:
                    await send.send(Inbound(event.peer_id, event.protocol, stream))
                except BaseException:
                    await trio.aclose_forcefully(stream)
                    raise

        async with send, trio.open_nursery() as nursery, self._client.watch("inbound", *protocols, once=True) as events:
            async for event in events:
                if isinstance(event, Event) and isinstance(event.body, messages.Inbound):
                    nursery.start_soon(take, event.body)

    @asynccontextmanager
    async def watch_peers(self) -> AsyncIterator[trio.MemoryReceiveChannel[PeerUp | PeerDown]]:
        """Connected peers first, changes after, until the host goes away (EndOfChannel)."""
        send, receive = trio.open_memory_channel[PeerUp | PeerDown](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_peers, send)
            try:
                yield receive
            finally:
                nursery.cancel_scope.cancel()

    async def _tell_peers(self, send: trio.MemorySendChannel[PeerUp | PeerDown]) -> None:
        since: dict[str, float] = {}
        with suppress(trio.BrokenResourceError):  # the reader left
            async with send, self._client.watch("peers", once=True) as updates:
                async for update in updates:
                    if isinstance(update, Snapshot):
                        put, gone = update.items, list[str]()
                    elif isinstance(update, Change):
                        put, gone = update.put, update.gone
                    else:
                        continue
                    for peer_id in gone:
                        since.pop(peer_id, None)
                        await send.send(PeerDown(peer_id))
                    for peer_id, value in put.items():
                        if isinstance(value, PeerState):
                            if since.setdefault(peer_id, value.since) != value.since:
                                since[peer_id] = value.since  # gone and back between two updates
                                await send.send(PeerDown(peer_id))
                            await send.send(
                                PeerUp(
                                    peer_id, tuple(value.listen or value.remotes), tuple(value.protocols), value.agent
                                )
                            )
