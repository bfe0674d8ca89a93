"""The node at a glance: what the supervisor knows of its actors' states, and the progress a person is told.

It follows the host's peers, the gossip members and the routes. A node is `starting` until all its actors are ready,
`joining` until another member is there, then `up`; `degraded` while an actor is given up. A service manager hears it
too (service_manager.py).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import trio

from edgevpn import __version__
from edgevpn.actors import log
from edgevpn.actors.client import Client, apply
from edgevpn.actors.service_manager import ServiceManager
from edgevpn.config import NodeConfig
from edgevpn.proto.messages import Body, ClockState, DhcpState, HostSelf, NodeStatus, Route

# When a person who waits is told so again, seconds after the start.
_PATIENCE = (5.0, 30.0, 120.0, 600.0)


_FOLLOWED = (
    ("host", "self"),
    ("host", "peers"),
    ("gossip", "members"),
    ("ledger", "routes"),
    ("ledger", "clock"),
)


class NodeView:
    """Follows the actors' states for `status` and for the progress lines."""

    def __init__(self, config: NodeConfig, run_dir: Path, peer_id: str, manager: ServiceManager) -> None:
        self._config = config
        self._run_dir = run_dir
        self._peer_id = peer_id
        self._manager = manager
        self._log = log.get("supervisor")
        self._not_ready = set(config.actors())
        self._given_up: dict[str, str] = {}  # actor -> why it does not run
        self._states: dict[str, dict[str, Body]] = {
            "self": {},
            "peers": {},
            "members": {},
            "routes": {},
            "dhcp": {},
            "clock": {},
        }
        self._changed = trio.Event()
        self.stopping = False

    def ready(self, name: str) -> None:
        self._not_ready.discard(name)
        self._given_up.pop(name, None)
        self._wake()

    def not_ready(self, name: str) -> None:
        self._not_ready.add(name)
        self._wake()

    def given_up(self, name: str, why: str) -> None:
        self._given_up[name] = why
        self._wake()

    @property
    def state(self) -> str:
        if self.stopping:
            return "stopping"
        if self._given_up:
            return "degraded"
        if self._not_ready:
            return "starting"
        return "up" if self._states["members"] and not self._waiting_for_address else "joining"

    @property
    def _waiting_for_address(self) -> str:
        dhcp = self._states["dhcp"].get("dhcp")
        return dhcp.waiting if isinstance(dhcp, DhcpState) else ""

    @property
    def _addresses(self) -> list[str]:
        if not self._config.dhcp:
            return list(self._config.addresses) if self._config.vpn else []
        dhcp = self._states["dhcp"].get("dhcp")
        return dhcp.addresses if isinstance(dhcp, DhcpState) else []

    @property
    def has_members(self) -> bool:
        return bool(self._states["members"])

    def waiting_for(self) -> str:
        """What the node waits for, and what a person can do; empty when it is up."""
        if self._given_up:
            return "a person: " + "; ".join(f"{name} {why}" for name, why in self._given_up.items())
        if self._not_ready:
            return "its actors: " + ", ".join(sorted(self._not_ready))
        if self._waiting_for_address:
            return self._waiting_for_address
        if self._states["members"]:
            return ""
        if self._states["peers"] and self._config.peergate:
            return (
                f"a node that the peer gate lets in: connected to {len(self._states['peers'])} peer(s), none of which "
                "has proved a key of the trust zone (`edgevpn peergater status` shows who has)"
            )
        if self._states["peers"]:
            return (
                f"a node of this network: connected to {len(self._states['peers'])} peer(s), none of which is on its "
                "gossip topic. Do all nodes have the same token, and clocks within a minute?"
            )
        ways = [
            name
            for name, on in (
                ("mDNS on this LAN", self._config.mdns),
                ("the DHT of the bootstrap peers", self._config.dht and bool(self._config.bootstrap_peers)),
                ("the static peer table", bool(self._config.static_peers)),
            )
            if on
        ]
        if not ways:
            return "a node of this network: there is no way to find one without --mdns and --discovery-bootstrap-peers"
        return (
            f"a node of this network, looked for by {' and '.join(ways)}. Does another one run with the same token, "
            "on the same LAN or with the same --discovery-bootstrap-peers?"
        )

    def status(self, uptime_s: float) -> NodeStatus:
        me = self._states["self"].get("host")
        clock = self._states["clock"].get("clock")
        return NodeStatus(
            peer_id=self._peer_id,
            state=self.state,
            interface=self._config.interface if self._config.vpn else "",
            address=self._addresses,
            listen=[f"{a}/p2p/{self._peer_id}" for a in me.listen] if isinstance(me, HostSelf) else [],
            peers=sorted(self._states["members"]),
            uptime_s=uptime_s,
            version=__version__,
            waiting_for=self.waiting_for(),
            clock_offset_s=clock.offset_s if isinstance(clock, ClockState) else 0.0,
            clock=clock.text if isinstance(clock, ClockState) else "",
        )

    async def follow(self) -> None:
        async with trio.open_nursery() as nursery:
            for actor, topic in (*_FOLLOWED, *((("ledger", "dhcp"),) if self._config.dhcp else ())):
                if actor in self._config.actors():
                    nursery.start_soon(self._follow_state, actor, topic)

    async def _follow_state(self, actor: str, topic: str) -> None:
        async with Client(self._run_dir, actor, caller="supervisor").watch(topic) as updates:
            async for update in updates:
                apply(self._states[topic], update)
                self._wake()

    def _wake(self) -> None:
        self._changed.set()

    async def tell_progress(self) -> None:
        """One line when something a person waits for happened, or did not for long."""
        began = time.monotonic()
        patience = iter(_PATIENCE)
        next_word = next(patience)
        told_up = told_ready = False
        known: set[str] = set()
        while True:
            self._changed = trio.Event()
            now = time.monotonic() - began
            members = self._states["members"]
            self._manager.tell(STATUS=f"{self.state}, {len(members)} peers")
            if not told_ready and not self._not_ready and self._states["self"]:
                told_ready = True
                self._manager.tell(READY="1")
                status = self.status(now)
                has = ", ".join(status.address) or "no address yet"
                where = f"{status.interface} has {has}; " if status.interface else ""
                self._log.info(f"{where}this node is {self._peer_id}, ready after {now:.1f} s", listen=status.listen)
            for peer in sorted(set(members) - known):
                self._log.info(f"joined by {peer}{self._addresses_of(peer)}")
            for peer in sorted(known - set(members)):
                self._log.info(f"{peer}{self._addresses_of(peer)} left")
            known = set(members)
            if members and not told_up and not self._waiting_for_address:
                told_up = True
                self._log.info(f"up after {now:.1f} s")
            if now >= next_word:
                next_word = next(patience, sys.maxsize)
                if self.state != "up":
                    self._log.warning(f"still waiting for {self.waiting_for()}")
            with trio.move_on_after(max(0.05, next_word - now)):
                await self._changed.wait()

    def _addresses_of(self, peer: str) -> str:
        mine = sorted(a for a, r in self._states["routes"].items() if isinstance(r, Route) and r.peer_id == peer)
        return f" ({', '.join(mine)})" if mine else ""
