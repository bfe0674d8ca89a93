"""What the host actor does about its peers by itself: dials those it lost, refuses those that misbehave, gives up
connections when there are too many.

The rules are in p2p/redial.py, p2p/conduct.py and p2p/water_marks.py. Other actors tell of offences by Misbehaved.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import trio

from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.shell import Shell
from edgevpn.actors.topics import State
from edgevpn.errors import EdgevpnError
from edgevpn.p2p.conduct import POINTS, Conduct
from edgevpn.p2p.host import Host
from edgevpn.p2p.redial import Redial
from edgevpn.p2p.swarm_mends import ANOTHER
from edgevpn.p2p.water_marks import Held, whom_to_part_with
from edgevpn.proto import protocols
from edgevpn.proto.clock_jump import Jump
from edgevpn.proto.messages import Body, Done, Misbehaved, PeerState

MAX_REDIALS = 16  # at once, of lost peers
REDIAL_TIMEOUT = 5.0
INTRODUCED = 600.0  # s for which somebody is looked for that a member told us of
LOOK = 5.0  # s between two looks at how many connections there are, and at who may come back
_MAY_COMPLAIN = frozenset(("gossip", "ledger"))


class PeerCare:
    """`peers`: the host actor's state of that name."""

    def __init__(self, shell: Shell, host: Host, peers: State) -> None:
        self._shell = shell
        self._host = host
        self._peers = peers
        self._redial = Redial(random.Random())  # noqa: S311
        self._redial_changed = trio.Event()
        self._conduct = Conduct()
        self._parting: list[str] = []
        self._to_part = trio.Event()
        self._unwanted: set[str] = set()  # we close their connections
        named = (*shell.config.bootstrap_peers, *shell.config.static_relays)
        self._named = {addr.rpartition("/p2p/")[2] for addr in named}
        self.is_needed: Callable[[str], bool] = lambda _peer: False  # as a relay, or by one behind it
        host.on_offence = self._offence
        shell.mailbox.on_request(Misbehaved, self._misbehaved, only=_MAY_COMPLAIN)
        shell.when_clock_jumps.append(self.clock_jumped)
        shell.gauges |= {"peers_missed": lambda: len(self._redial), "peers_on_record": lambda: len(self._conduct)}
        shell.namespace["care"] = self

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._redial_lost, nursery)
            nursery.start_soon(self._part_with_offenders)
            while True:
                await trio.sleep(LOOK)
                self._let_back()
                await self._keep_to_the_marks()

    def changed(self, before: Mapping[str, Body]) -> None:
        """The state "peers" was `before`: who of the network is missed from now on, and who is back?"""
        now = trio.current_time()
        for peer_id in self._peers.items.keys() - before.keys():
            self._unwanted.discard(peer_id)
            self._redial.found(peer_id, now)
        for peer_id in before.keys() - self._peers.items.keys():
            state = before[peer_id]
            wanted = peer_id not in self._unwanted
            self._unwanted.discard(peer_id)
            if wanted and isinstance(state, PeerState) and _is_of_the_network(state):
                self._redial.lost(peer_id, now)
        self._redial_changed.set()

    def clock_jumped(self, _: Jump) -> None:
        """The machine slept, perhaps: who is still connected, and who can be had again?"""
        self._host.check_connections()
        self.hurry()

    def hurry(self) -> None:
        """Something changed: whoever is missed may be in reach again."""
        self._redial.hurry(trio.current_time())
        self._redial_changed.set()

    def missed(self, peer_id: str) -> None:
        """A member told us of it, and it can't be reached: look for it for a while, as for one that was lost."""
        if peer_id not in self._peers.items:
            self._redial.lost(peer_id, trio.current_time(), keep=INTRODUCED)
            self._redial_changed.set()

    async def part_with(self, peer_id: str) -> None:
        """Close its connections; it is not missed."""
        if peer_id in self._peers.items:
            self._unwanted.add(peer_id)
        self._redial.forget(peer_id)
        await self._host.disconnect(peer_id)

    # --- who was lost

    async def _redial_lost(self, nursery: trio.Nursery) -> None:
        limit = trio.CapacityLimiter(MAX_REDIALS)

        async def dial(peer_id: str) -> None:
            async with limit:
                if peer_id in self._peers.items:
                    return
                try:
                    await self._host.connect(peer_id, (), timeout=REDIAL_TIMEOUT)
                except EdgevpnError as exc:
                    self._shell.count("redials_failed")
                    if ANOTHER in str(exc):  # it came back under a new key, or its address is another's now
                        self._redial.forget(peer_id)
                else:
                    self._shell.count("redials")

        while True:
            self._redial_changed = trio.Event()
            for peer_id in self._redial.take_due(trio.current_time()):
                nursery.start_soon(dial, peer_id)
            with trio.move_on_at(max(self._redial.next_wakeup(), trio.current_time() + 0.05)):
                await self._redial_changed.wait()

    # --- who misbehaves

    async def _misbehaved(self, request: Misbehaved) -> Body:
        if request.offence not in POINTS:
            raise RequestError("unknown", f"{request.offence} is no offence that is known here")
        self._offence(request.peer_id, request.offence)
        return Done()

    def _offence(self, peer_id: str, offence: str) -> None:
        self._shell.count(f"offences_{offence}")
        seconds = self._conduct.note(peer_id, offence, trio.current_time())
        if seconds is not None:
            self._shell.warn("misbehaving_peers_refused", peer=peer_id, offence=offence, seconds=seconds)
            self._host.refuse(peer_id)
            self._parting.append(peer_id)
            self._to_part.set()

    async def _part_with_offenders(self) -> None:
        while True:
            self._to_part = trio.Event()
            while self._parting:
                peer_id = self._parting.pop()
                await self.part_with(peer_id)
                self._host.book.forget(peer_id)
            await self._to_part.wait()

    def _let_back(self) -> None:
        for peer_id in self._conduct.expire(trio.current_time()):
            self._host.allow(peer_id)

    # --- how many there are

    async def _keep_to_the_marks(self) -> None:
        config = self._shell.config
        if not config.connection_high_water:
            return
        held = [
            Held(
                peer_id,
                connections,
                since,
                last_heard,
                streams,
                isinstance(state := self._peers.items.get(peer_id), PeerState) and _is_of_the_network(state),
                peer_id in self._named or self.is_needed(peer_id),
            )
            for peer_id, connections, since, last_heard, streams in self._host.holdings()
        ]
        now = trio.current_time()
        for peer_id in whom_to_part_with(held, config.connection_high_water, config.connection_low_water, now):
            self._shell.count("connections_trimmed")
            await self.part_with(peer_id)


def _is_of_the_network(state: PeerState) -> bool:
    return not protocols.OF_A_NETWORK.isdisjoint(state.protocols)
