"""The host actor's relays: places for us at others, places for others here, and direct connections out of relayed ones.

What is wanted is decided in p2p/auto_relay.py, who may have what in p2p/relay_table.py; the protocols are in
p2p/relay_client.py, p2p/relay_service.py and p2p/hole_punch.py. Here is what connects them with the node: the host's
events, the ledger, which tells who is a member (the keys of the bucket `healthcheck`, as in the Go program, read again
each --relay-service-acl-refresh while there are reservations, and when somebody unknown asks), and the clock.

It serves as a relay while this node is not behind a NAT itself. Nothing is kept: after a crash the connections come
back, and with them the reservations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.shell import Shell
from edgevpn.actors.trust_link import TrustLink
from edgevpn.config import parse_peer_list
from edgevpn.errors import EdgevpnError
from edgevpn.p2p.auto_relay import AutoRelay, Reach, judge, observed_ips, outside
from edgevpn.p2p.circuit import HOP
from edgevpn.p2p.hole_punch import HolePunch
from edgevpn.p2p.host import Host
from edgevpn.p2p.peer_values import PeerEvent
from edgevpn.p2p.relay_client import RelayClient
from edgevpn.p2p.relay_service import RelayService
from edgevpn.p2p.relay_table import Limits, RelayTable
from edgevpn.proto import protocols
from edgevpn.proto.messages import LedgerReply, LedgerRequest
from edgevpn.proto.values import HEALTHCHECK

SETTLE = 0.05  # seconds after an event
AGAIN = 1.0  # between two questions to the ledger on behalf of strangers
MAX_AROUND = 2  # relays that are asked for a peer without an address that works
MAX_PUNCHING = 64
MAX_ANNOUNCED = 4  # addresses through relays


class _Members:
    """Who may use our relay: the ledger's members, as far as they are trusted."""

    def __init__(self, trust: TrustLink, *, network_only: bool) -> None:
        self._trust = trust
        self._network_only = network_only
        self.known: frozenset[str] = frozenset()

    def __contains__(self, peer: object) -> bool:
        if not isinstance(peer, str) or not self._trust.allows(peer):
            return False
        return not self._network_only or peer in self.known


class Relays:
    """Of one host actor, which sets `when_announced`: called when our addresses through relays have changed."""

    def __init__(self, shell: Shell, host: Host, trust: TrustLink) -> None:
        config = shell.config
        self._shell = shell
        self._host = host
        self._static = [addr.rpartition("/p2p/")[2] for addr in config.static_relays]  # kept connected by discovery
        self._members = _Members(trust, network_only=config.relay_network_only)
        limits = Limits(
            max_data=config.relay_max_data,
            max_duration=config.relay_max_duration,
            max_circuits=config.relay_max_circuits,
            reservation_ttl=config.relay_reservation_ttl,
            buffer_size=config.relay_buffer_size,
        )
        self.table = RelayTable(limits, self._members)
        self.service = RelayService(host, self.table, shell.count, self._learn)
        # Through a relay nobody sees where a peer is: who lists networks takes no circuits.
        lists = parse_peer_list(config.blacklist), parse_peer_list(config.whitelist)
        self._circuits = not any(one.networks for one in lists)
        self.client = RelayClient(host, shell.count, allowed=self._circuits)
        self.auto = AutoRelay(config.autorelay_interval, random.Random())  # noqa: S311
        self.punch = HolePunch(host, shell.count) if config.holepunch else None
        self.reach = Reach.UNKNOWN
        self.when_announced: Callable[[], None] = lambda: None
        self._punching: dict[str, trio.CancelScope] = {}
        self._wake = trio.Event()
        self._learned = -AGAIN
        self._learning = trio.Lock()
        host.ways_around = self._ways_around
        shell.gauges |= {
            "relay_places": lambda: self.table.reservations,
            "relay_circuits_now": lambda: self.table.circuits,
            "relay_bytes": lambda: self.service.bytes_relayed,
            "reservations": lambda: len(self.client.held),
        }
        shell.namespace["relays"] = self

    @property
    def observed(self) -> list[str]:
        """The addresses that peers on the other side of a NAT see us under."""
        return observed_ips(self._host.sights(), self._host.own_ips())

    # --- told by the host actor

    def on_event(self, event: PeerEvent) -> None:
        if event.kind in ("disconnected", "changed") and not self._host.is_direct(event.peer_id):
            self.table.gone(event.peer_id)
        if event.kind == "disconnected":
            self._stop_punching(event.peer_id)
        self._wake.set()

    def hurry(self) -> None:
        """Our own addresses have changed: try again what was in vain."""
        for peer_id in list(self._punching):
            self._stop_punching(peer_id)
        self._wake.set()

    def _stop_punching(self, peer_id: str) -> None:
        scope = self._punching.pop(peer_id, None)
        if scope is not None:
            scope.cancel()

    def needs(self, peer_id: str) -> bool:
        """Whether a connection carries a reservation, ours or the peer's."""
        return peer_id in self.client.held or self.table.has_place(peer_id)

    def not_reached(self) -> None:
        """A member that others are connected with could not be reached."""
        self.auto.note_unreached(trio.current_time())
        self._wake.set()

    # --- tasks

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._shell.config.relay_service and self._shell.config.relay_network_only:
                nursery.start_soon(self._keep_learning)
            while True:
                self._wake = trio.Event()
                self._look(nursery)
                with trio.move_on_at(max(self.auto.next_wakeup(), trio.current_time() + SETTLE)):
                    await self._wake.wait()
                await trio.sleep(SETTLE)

    def _look(self, nursery: trio.Nursery) -> None:
        """Do what is due."""
        now, own = trio.current_time(), self._host.own_ips()
        sights = self._host.sights()
        reach = judge(sights, own)
        if reach is not Reach.UNKNOWN and reach is not self.reach:
            self._shell.log.info("where this node is", reach=reach.value, seen_at=observed_ips(sights, own))
            self.reach = reach
        self.service.serve(self._shell.config.relay_service and self.reach is not Reach.BEHIND_NAT)
        wanted = (
            self._circuits
            and self._shell.config.autorelay
            and (bool(self._static) or self.reach is Reach.BEHIND_NAT or self.auto.is_unreached(now))
        )
        candidates = self._candidates({one.peer_id for one in outside(sights, own)})
        for relay in self.auto.take_due(candidates, wanted=wanted, now=now):
            nursery.start_soon(self._reserve, relay)
        self._settle(wanted=wanted)
        if self.punch is not None:
            for peer_id, peer in self._host.peers().items():
                if peer_id in self._punching or len(self._punching) >= MAX_PUNCHING or self._host.is_direct(peer_id):
                    continue
                ways = {c.direction for c in peer.connections}
                if ways == {"inbound"} or (len(ways) == 2 and self._host.peer_id > peer_id):  # one of the two begins
                    scope = self._punching[peer_id] = trio.CancelScope()
                    nursery.start_soon(self._punch, peer_id, scope)

    def _candidates(self, beyond: set[str]) -> list[str]:
        """Relays to ask, the best first: those given, then members; behind a NAT none that is behind it with us."""
        given = [peer_id for peer_id in self._static if self._host.is_direct(peer_id)]
        if self._shell.config.autorelay_static_only:
            return given
        found = []
        for peer_id, peer in self._host.peers().items():
            direct = [c for c in peer.connections if not c.relayed and c.direction == "outbound"]
            if not direct or HOP not in peer.protocols or peer_id in given:
                continue
            if self.reach is Reach.BEHIND_NAT and peer_id not in beyond:
                continue
            found.append((protocols.OF_A_NETWORK.isdisjoint(peer.protocols), direct[0].rtt or 1.0, peer_id))
        return [*given, *(peer_id for _, _, peer_id in sorted(found))]

    async def _reserve(self, relay: str) -> None:
        try:
            held = await self.client.reserve(relay)
        except EdgevpnError as exc:
            self._shell.count("reservations_refused")
            self._shell.log.debug("no place at a relay", relay=relay, reason=str(exc))
            self.client.held.pop(relay, None)
            self.auto.refused(relay, trio.current_time())
        else:
            self._shell.count("reservations_made")
            self.auto.granted(relay, held.ttl, trio.current_time())
        self._wake.set()

    def _settle(self, *, wanted: bool) -> None:
        """Announce the places that there are now, and only while they are wanted: those that are not run out."""
        for relay in [relay for relay in self.client.held if relay not in self.auto.held]:
            if not self.auto.is_asking(relay):
                del self.client.held[relay]
        addrs = [addr for held in self.client.held.values() for addr in held.addrs] if wanted else []
        if self._host.announce_circuits(addrs[:MAX_ANNOUNCED]):
            self._shell.log.info("reached through relays", addresses=addrs)
            self.when_announced()

    async def _punch(self, peer_id: str, scope: trio.CancelScope) -> None:
        try:
            with scope:
                if self.punch is not None:
                    await self.punch.run_for(peer_id)
        finally:
            if self._punching.get(peer_id) is scope:
                del self._punching[peer_id]

    def _ways_around(self, peer_id: str) -> Iterable[str]:
        """Relays that may know the way to a peer: members that are connected."""
        if not self._circuits or not self._shell.config.autorelay:
            return []
        found = [
            other
            for other, peer in self._host.peers().items()
            if other != peer_id
            and HOP in peer.protocols
            and (other in self._static or not protocols.OF_A_NETWORK.isdisjoint(peer.protocols))
            and self.client.may_know(other, peer_id)
            and self._host.is_direct(other)
        ]
        return found[:MAX_AROUND]

    # --- who is a member

    async def _keep_learning(self) -> None:
        while True:
            await trio.sleep(self._shell.config.relay_acl_refresh)
            if self.table.reservations:
                await self._learn()

    async def _learn(self) -> None:
        """Read from the ledger who is a member; often asked for, it is done now and then."""
        if not self._shell.config.relay_network_only:
            return
        async with self._learning:
            if trio.current_time() - self._learned < AGAIN:
                return
            self._learned = trio.current_time()
            try:
                reply = await self._shell.client("ledger").call(LedgerRequest(HEALTHCHECK), LedgerReply, timeout=5)
            except (ActorUnavailableError, RefusedError):
                return  # as they were known last
            self._members.known = frozenset(entry.key for entry in reply.entries if not entry.deleted)
