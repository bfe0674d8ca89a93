"""Peer exchange on the ledger's links: tells members where the others are, has the host connect with whom we hear of.

Who is told what is decided in ledger/introductions.py. A peer counts as a member once a frame of it could be opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.shell import Shell
from edgevpn.ledger.introductions import FEW, Introductions, Named, where_it_is
from edgevpn.proto.ledger_frames import Frame, Peers
from edgevpn.proto.messages import Body, Connect, Done, PeerState
from edgevpn.proto.queue_state import QueueState
from edgevpn.proto.relayed import only_relayed

QUEUE = 256
AT_ONCE = 8


class LedgerIntroductions:
    """`peers`: a copy of the host's state; `send` queues a frame for a link."""

    def __init__(self, shell: Shell, me: str, peers: Mapping[str, Body], send: Callable[[str, Frame], None]) -> None:
        self._shell = shell
        self._me = me
        self._peers = peers
        self._say = send
        self._rules = Introductions(random.Random())  # noqa: S311
        self._linked: set[str] = set()
        self._members: set[str] = set()
        self._told: set[str] = set()
        self._circuits: dict[str, list[str]] = {}  # of linked peers, as they were told last
        self._send, self._receive = trio.open_memory_channel[Connect](QUEUE)
        shell.queues["introductions"] = lambda: QueueState(
            self._send.statistics().current_buffer_used, QUEUE, shell.counters.get("introductions_dropped", 0)
        )

    def link_up(self, peer: str) -> None:
        self._linked.add(peer)
        self._introduce(peer)

    def link_down(self, peer: str) -> None:
        for peers in (self._linked, self._members, self._told):
            peers.discard(peer)
        self._circuits.pop(peer, None)

    def is_member(self, peer: str) -> None:
        """A frame of the peer could be opened."""
        if peer not in self._members and peer in self._peers:
            self._members.add(peer)
            self._introduce(peer)

    def peers_changed(self) -> None:
        """The host's state has: who is reached through other relays now? Who is not connected with it must know."""
        for peer in self._told:
            state = self._peers.get(peer)
            circuits = only_relayed(state.listen) if isinstance(state, PeerState) else []
            if circuits == self._circuits.get(peer, []):
                continue
            self._circuits[peer] = circuits
            if circuits:
                where = {other: self._where(other) for other in self._linked & self._members}
                self._tell(self._rules.on_move(peer, where))

    def _introduce(self, peer: str) -> None:
        if peer in self._told or peer not in self._linked or peer not in self._members:
            return
        self._told.add(peer)
        where = {other: self._where(other) for other in self._linked & self._members}
        self._circuits[peer] = only_relayed(where.get(peer, ()))
        self._tell(self._rules.on_link(peer, where))

    def _tell(self, words: Iterable[tuple[str, list[Named]]]) -> None:
        for other, named in words:
            self._shell.count("introductions_told", len(named))
            self._say(other, Peers([(name, list(addrs)) for name, addrs in named]))

    def _where(self, peer: str) -> list[str]:
        state = self._peers.get(peer)
        if not isinstance(state, PeerState):
            return []
        return where_it_is(state.remotes, state.listen, dialled=state.direction == "outbound")

    def heard(self, peer: str, frame: Peers) -> None:
        """Queue those that we are not connected with; in a large network we know enough."""
        if len(self._linked) >= FEW:
            return
        for name, addrs in self._rules.heard(peer, frame.peers, [*self._peers, self._me], trio.current_time()):
            try:
                self._send.send_nowait(Connect(name, list(addrs), "gossip"))
            except trio.WouldBlock:
                self._shell.count("introductions_dropped")

    async def run(self) -> None:
        async def connect() -> None:
            async for request in self._receive:
                if request.peer_id in self._peers:
                    continue
                try:
                    await self._shell.client("host").call(request, Done, timeout=20)
                except (ActorUnavailableError, RefusedError):
                    self._shell.count("introductions_in_vain")
                else:
                    self._shell.count("introductions_followed")

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(connect)
