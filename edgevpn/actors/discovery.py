"""The discovery actor: finds other nodes of the network and has the host connect to them.

Three ways, each on its own: mDNS on every link; the DHT of the bootstrap peers, at the rendezvous of this window and
the last; and the bootstrap peers and relays that were given, which are kept connected. What is found is a hint: a peer
ID and addresses, tried by the host, proven by noise. Rounds in the DHT come quickly after a start, a rotation or a new
DHT peer, and then ever more seldom, up to --discovery-interval.

Dies: no new peers meanwhile; starts from nothing.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import ActorUnavailableError, RefusedError, apply
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.mdns_link import MdnsLinks
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.errors import EdgevpnError
from edgevpn.p2p.dht import Dht, open_dht
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.clock_jump import Jump
from edgevpn.proto.mdns import FoundAddress
from edgevpn.proto.messages import Body, Connect, Done, HostSelf, NetworkFacts, Window
from edgevpn.proto.queue_state import QueueState

MAX_TRYING = 64  # peers being dialled at once; more are dropped: they will be found again
_TRIES = 3
_FIRST_ROUND = 0.5
_GIVEN_MOST = 60.0


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        actor = DiscoveryActor(shell, nursery)
        shell.when_clock_jumps.append(actor.clock_jumped)
        await shell.ready()
        await actor.run()


class DiscoveryActor:
    """Finds peers and passes them to the host."""

    def __init__(self, shell: Shell, nursery: trio.Nursery) -> None:
        self._shell = shell
        self._nursery = nursery
        self._chance = random.Random()  # noqa: S311
        self._windows: dict[str, Body] = {}
        self._self: dict[str, Body] = {}
        self._peers: dict[str, Body] = {}
        self._trying: set[str] = set()
        self._windows_known = trio.Event()
        self._host_known = trio.Event()
        self._look_again = trio.Event()
        self._begin_again = trio.Event()  # with short pauses
        self._mdns: MdnsLinks | None = None
        shell.queues["trying"] = self._trying_state
        shell.gauges |= {"trying": lambda: len(self._trying)}
        shell.namespace["discovery"] = self

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, "sealer", "windows", self._windows)
            nursery.start_soon(self._follow, "host", "self", self._self)
            nursery.start_soon(self._follow, "host", "peers", self._peers)
            await self._windows_known.wait()
            if self._shell.config.mdns:
                nursery.start_soon(self._run_mdns)
            if self._shell.config.dht:
                nursery.start_soon(self._run_dht)
            config = self._shell.config
            for multiaddr in dict.fromkeys((*config.bootstrap_peers, *config.static_relays)):
                nursery.start_soon(self._keep_connected, multiaddr)

    async def _follow(self, actor: str, topic: str, items: dict[str, Body]) -> None:
        async with self._shell.client(actor).watch(topic) as updates:
            async for update in updates:
                before = set(items)
                apply(items, update)
                if topic == "peers" and self._mdns is not None:
                    for peer_id in before - items.keys():
                        self._mdns.forget(peer_id)
                if topic == "windows":
                    self._windows_known.set()
                if "host" in self._self:
                    self._host_known.set()
                if topic == "windows" or set(items) != before:
                    self._look_again.set()
                if topic == "self" and self._mdns is not None and isinstance(me := items.get("host"), HostSelf):
                    self._mdns.listening(me.listen)

    def clock_jumped(self, _: Jump) -> None:
        """Who was there may be gone, and others may be there: look as after a start."""
        self._begin_again.set()
        self._begin_again = trio.Event()
        if self._mdns is not None:
            self._mdns.ask_again()

    # --- mDNS

    async def _run_mdns(self) -> None:
        facts = self._windows.get("network")
        if not isinstance(facts, NetworkFacts):
            return
        await self._host_known.wait()
        me = self._self["host"]
        if not isinstance(me, HostSelf):
            return
        exclude = [self._shell.config.interface] if self._shell.config.vpn else []
        self._mdns = MdnsLinks(facts.mdns, me.peer_id, exclude, self._found_by_mdns, self._bad_datagram)
        self._mdns.listening(me.listen)
        mdns = self._mdns
        self._shell.gauges |= {
            "mdns_datagrams_sent": lambda: mdns.sent.datagrams,
            "mdns_bytes_sent": lambda: mdns.sent.bytes,
            "mdns_datagrams_received": lambda: mdns.received.datagrams,
            "mdns_bytes_received": lambda: mdns.received.bytes,
        }
        await self._mdns.run()

    def _bad_datagram(self) -> None:
        self._shell.warn("mdns_datagrams_refused")

    def _found_by_mdns(self, found: tuple[FoundAddress, ...]) -> None:
        addresses: dict[str, list[str]] = defaultdict(list)
        for one in found:
            addresses[one.peer_id].append(one.multiaddr)
        for peer_id, multiaddrs in addresses.items():
            self._shell.count("found_by_mdns")
            self._try(peer_id, multiaddrs, "mdns")

    # --- peers that were given

    async def _keep_connected(self, multiaddr: str) -> None:
        """Stay connected to a bootstrap peer or relay (multiaddr/p2p/ID)."""
        address, _, peer_id = multiaddr.rpartition("/p2p/")
        pause = BackOff(0.25, _GIVEN_MOST, self._chance)
        while True:
            if peer_id in self._peers:
                pause.reset()
                await trio.sleep(1)
                continue
            if not await self._connect(peer_id, [address], "bootstrap"):
                self._shell.warn("given_peer_unreachable", peer=peer_id)
            with trio.move_on_after(pause.next()) as waited:
                await self._begin_again.wait()
            if not waited.cancelled_caught:
                pause.reset()

    # --- DHT

    async def _run_dht(self) -> None:
        seed = await self._shell.grant("identity")
        link = HostLink(self._shell.client("host"))
        async with open_dht(link, seed, self._shell.config.bootstrap_peers) as dht:
            self._shell.gauges["dht_routing_table"] = lambda: dht.routing_table_size
            self._shell.namespace["dht"] = dht
            pause = BackOff(_FIRST_ROUND, self._shell.config.discovery_interval, self._chance)
            size = 0
            keys: list[bytes] = []
            while True:
                self._look_again = trio.Event()
                now_keys = self._rendezvous_keys()
                if now_keys != keys or dht.routing_table_size > size:
                    pause.reset()
                keys, size = now_keys, dht.routing_table_size
                if not size:
                    await dht.wait_for_peers()
                    continue
                await self._round(dht, keys)
                await self._until_next_round(pause)

    async def _until_next_round(self, pause: BackOff) -> None:
        async def begin_again() -> None:
            await self._begin_again.wait()
            pause.reset()
            nursery.cancel_scope.cancel()

        with trio.move_on_after(pause.next()):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(begin_again)
                await self._look_again.wait()
                nursery.cancel_scope.cancel()

    def _rendezvous_keys(self) -> list[bytes]:
        """Of this window and the last, newest first."""
        windows = (self._windows.get("current"), self._windows.get("previous"))
        return list(dict.fromkeys(w.rendezvous_key for w in windows if isinstance(w, Window)))

    async def _round(self, dht: Dht, keys: list[bytes]) -> None:
        """Say that we are there, and ask who else is."""

        async def one(key: bytes) -> None:
            try:
                await dht.provide(key)
                self._shell.count("dht_provides")
                found = await dht.find_providers(key, 20)
            except EdgevpnError as exc:
                self._shell.warn("dht_round_failed", reason=str(exc))
                return
            for peer_id, addrs in found:
                self._shell.count("found_by_dht")
                self._try(peer_id, list(addrs), "dht")

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(one, key)

    # --- what was found

    def _trying_state(self) -> QueueState:
        return QueueState(len(self._trying), MAX_TRYING, self._shell.counters.get("found_but_too_many", 0))

    def _try(self, peer_id: str, addrs: list[str], source: str) -> None:
        me = self._self.get("host")
        if peer_id in self._peers or peer_id in self._trying or (isinstance(me, HostSelf) and me.peer_id == peer_id):
            return
        if len(self._trying) >= MAX_TRYING:
            self._shell.count("found_but_too_many")
            return
        self._trying.add(peer_id)
        self._nursery.start_soon(self._try_connect, peer_id, addrs, source)

    async def _try_connect(self, peer_id: str, addrs: list[str], source: str) -> None:
        pause = BackOff(0.3, 5.0, self._chance)
        try:
            for _ in range(_TRIES):
                if await self._connect(peer_id, addrs, source):
                    return
                await trio.sleep(pause.next())
                if peer_id in self._peers:
                    return
            if self._mdns is not None:
                self._mdns.forget(peer_id)
        finally:
            self._trying.discard(peer_id)

    async def _connect(self, peer_id: str, addrs: list[str], source: str) -> bool:
        began = time.monotonic()
        try:
            await self._shell.client("host").call(Connect(peer_id, addrs, source), Done, timeout=20)
        except (ActorUnavailableError, RefusedError) as exc:
            self._shell.count("connects_failed")
            self._shell.log.debug("can't connect", peer=peer_id, found_by=source, reason=str(exc))
            return False
        self._shell.log.debug("connected", peer=peer_id, found_by=source, ms=round((time.monotonic() - began) * 1000))
        return True
