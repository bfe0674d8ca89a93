"""The node as the API shows it: follows the actors' states, samples rates, and asks the rest when it is asked.

Sections of the hub are made anew when a state they are made from changes (within 50 ms), so nothing is polled for
them, except while somebody watches: samples once a second, node and actors twice. Unwatched, a sample is taken every
5 s, so that who comes finds the last minutes. Everything kept is bounded: HISTORY samples, SHOWN_* of the ledger.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import trio

from edgevpn import __version__
from edgevpn.actors.client import ActorUnavailableError, RefusedError, apply
from edgevpn.actors.shell import Shell
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import (
    Actors,
    ActorsRequest,
    ActorStatus,
    Announce,
    BlockReply,
    BlockRequest,
    Body,
    BucketMark,
    Done,
    Gate,
    LedgerEntry,
    LedgerReply,
    LedgerRequest,
    Member,
    NodeStatus,
    Paths,
    PathsRequest,
    PathState,
    PeerState,
    PingPeer,
    Pong,
    QueueStatus,
    Route,
    SetPeergate,
    Snapshot,
    StatusRequest,
    Traffic,
    TrafficRequest,
    Vitals,
    VitalsRequest,
    Withdraw,
)
from edgevpn.proto.peer_rows import peer_rows
from edgevpn.proto.protocols import EDGEVPN_PACKETS, PACKET_STREAM
from edgevpn.web.hub import Hub
from edgevpn.web.source import DATAGRAMS, NO_RATES, Facts, Metered, Rates

WATCHED_PERIOD, UNWATCHED_PERIOD = 1.0, 5.0  # seconds between samples
PING_PERIOD = 5.0  # seconds between round trips on connections that have no datagrams, while watched
HISTORY = 300  # samples
SAMPLED_PEERS = 256
PINGED_PEERS = 32
SHOWN_BUCKETS = 100
SHOWN_ENTRIES = 1000  # of each bucket
SHOWN_VALUE = 4096  # characters
STEADY = 2  # seconds by which a time that was told before may be off
LONGEST_REST = 5.0  # seconds between two looks into a ledger that is slow to tell
SETTLE = 0.05  # seconds in which changes are taken together
_ASK = 5.0  # seconds for an actor's answer
_STATES = ("peers", "members", "routes", "buckets", "trusted")
_NOTHING = Traffic([0, 0], {}, {})


class ApiSource:
    """See edgevpn.web.source.Source."""

    def __init__(self, shell: Shell, peer_id: str) -> None:
        self._shell = shell
        self._has_tun = shell.config.vpn
        self.facts = Facts(
            peer_id, __version__, platform.node(), shell.config.ownership, shell.config.max_heartbeat_age
        )
        self.hub = Hub(self._history_now)
        self._states: dict[str, dict[str, Body]] = {name: {} for name in _STATES}
        self._peers_changed = trio.Event()
        self._buckets_changed = trio.Event()
        self._dirty: dict[str, None] = {}
        self._samples: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._paths: dict[str, PathState] = {}
        self._traffic = _NOTHING
        self._rates: tuple[Rates, dict[str, Rates], dict[str, Rates]] = (NO_RATES, {}, {})
        self._measured_at = 0.0  # 0: no rates can be told yet
        self._measuring = trio.Lock()
        self._rtts: dict[str, float] = {}
        self._beginnings: dict[str, int] = {}  # of the node and of each actor

    # --- what is followed

    @property
    def peers(self) -> dict[str, PeerState]:
        return {peer: state for peer, state in self._states["peers"].items() if isinstance(state, PeerState)}

    @property
    def members(self) -> list[str]:
        return [peer for peer, state in self._states["members"].items() if isinstance(state, Member)]

    @property
    def routes(self) -> dict[str, Route]:
        return {address: route for address, route in self._states["routes"].items() if isinstance(route, Route)}

    async def run(self) -> None:
        """Follow until cancelled."""
        async with trio.open_nursery() as nursery:
            followed = [("host", "peers"), ("gossip", "members"), ("ledger", "routes")]
            followed += [("trust", "trusted")] if self._shell.config.peerguard else []
            for actor, topic in followed:
                nursery.start_soon(self._follow, actor, topic)
            nursery.start_soon(self._follow_buckets)
            nursery.start_soon(self._show_peers)
            nursery.start_soon(self._show_buckets)
            nursery.start_soon(self._sample)
            nursery.start_soon(self._show_node)
            nursery.start_soon(self._ping)

    async def _follow(self, actor: str, topic: str) -> None:
        async with self._shell.client(actor).watch(topic) as updates:
            async for update in updates:
                apply(self._states[topic], update)
                self._peers_changed.set()

    async def _follow_buckets(self) -> None:
        marks = self._states["buckets"]
        async with self._shell.client("ledger").watch("buckets") as updates:
            async for update in updates:
                before = dict(marks)
                apply(marks, update)
                if isinstance(update, Snapshot):  # another ledger actor counts anew
                    changed = before.keys() | marks.keys()
                else:
                    changed = {name for name in before.keys() | marks.keys() if before.get(name) != marks.get(name)}
                self._dirty |= dict.fromkeys(sorted(changed))
                self._buckets_changed.set()

    # --- sections

    async def _show_peers(self) -> None:
        while True:
            await self._peers_changed.wait()
            await trio.sleep(SETTLE)
            self._peers_changed = trio.Event()
            self._put_peers()

    def _put_peers(self) -> None:
        self.hub.put("peers", peer_rows(self.peers, set(self.members), self.routes, self._paths))

    async def _show_buckets(self) -> None:
        """Each changed bucket anew; a ledger that takes long to tell is asked more seldom."""
        while True:
            await self._buckets_changed.wait()
            await trio.sleep(SETTLE)
            self._buckets_changed = trio.Event()
            began = trio.current_time()
            dirty, self._dirty = self._dirty, {}
            for name in dirty:
                try:
                    await self._show_bucket(name)
                except EdgevpnError:
                    self._dirty[name] = None  # the ledger is away, or slow: it is asked again
                    self._buckets_changed.set()
            await trio.sleep(min(2 * (trio.current_time() - began), LONGEST_REST))

    async def _show_bucket(self, name: str) -> None:
        section = f"ledger/{name}"
        shown = sum(one.startswith("ledger/") for one in self.hub.sections)
        mark = self._states["buckets"].get(name)
        if not isinstance(mark, BucketMark) or not mark.entries:
            if section in self.hub.sections:
                self.hub.put(section, {"bucket": name, "entries": [], "more": 0})
            return
        if section not in self.hub.sections and shown >= SHOWN_BUCKETS:
            return
        found = [entry for entry in await self.entries(name) if not entry.deleted]
        rows = [
            {
                "key": entry.key,
                "value": entry.value[:SHOWN_VALUE],
                "owner": entry.owner,
                "version": str(entry.version),  # over 2^53: no number in a browser
                "updated": entry.updated_at,
            }
            for entry in found[:SHOWN_ENTRIES]
        ]
        self.hub.put(section, {"bucket": name, "entries": rows, "more": len(found) - len(rows)})

    async def _show_node(self) -> None:
        """Node and actors: at the start, and twice a second while somebody watches."""
        while True:
            with trio.move_on_after(_ASK):
                try:
                    self._put_node(await self.status())
                    self._put_actors(await self.actors())
                except EdgevpnError:
                    pass  # the supervisor is busy: next time
            if self.hub.watched:
                await trio.sleep(WATCHED_PERIOD / 2)
            else:
                await self.hub.came.wait()

    def _put_node(self, status: NodeStatus) -> None:
        facts = self.facts
        self.hub.put(
            "node",
            {
                "peer_id": status.peer_id,
                "hostname": facts.hostname,
                "version": status.version,
                "state": status.state,
                "waiting_for": status.waiting_for,
                "interface": status.interface,
                "address": status.address,
                "listen": status.listen,
                "ownership": facts.ownership,
                "longest_silence": facts.longest_silence,
                "started": self._began("node", status.uptime_s),
            },
        )

    def _put_actors(self, actors: Sequence[ActorStatus]) -> None:
        rows = [
            {
                "name": one.name,
                "pid": one.pid,
                "state": one.state,
                "restarts": one.restarts,
                "since": self._began(f"actor {one.name}", one.uptime_s) if one.uptime_s else 0,
                "memory": round((one.pss_bytes or one.rss_bytes) / 1e5) * 100_000,
                "last_exit": one.last_exit,
            }
            for one in actors
        ]
        self.hub.put("actors", rows)

    def _began(self, what: str, uptime_s: float) -> int:
        """Unix time of a beginning; the same each time, so that a section does not change by the clock alone."""
        began = round(time.time() - uptime_s)
        if abs(began - self._beginnings.get(what, 0)) > STEADY:
            self._beginnings[what] = began
        return self._beginnings[what]

    # --- samples

    async def _sample(self) -> None:
        while True:
            try:
                async with self._measuring:
                    await self._measure()
            except EdgevpnError:
                self._measured_at = 0.0  # host or tun is away, or new: rates begin anew
            if self.hub.watched:
                await trio.sleep(WATCHED_PERIOD)
            else:
                with trio.move_on_after(UNWATCHED_PERIOD):
                    await self.hub.came.wait()

    async def _measure(self) -> None:
        traffic = await self._shell.client("host").call(TrafficRequest(), Traffic, timeout=_ASK)
        paths = {path.peer_id: path for path in await self.paths()}
        now = trio.current_time()
        traffic = with_datagrams(traffic, paths)
        took = now - self._measured_at if self._measured_at else 0.0
        self._rates = rates_between(self._traffic, traffic, took)
        rows = {
            peer: [
                _milliseconds(path.rtt_s if path else 0.0) or _milliseconds(self._rtts.get(peer, 0.0)),
                *_path_rates(self._paths.get(peer), path, took),
            ]
            for peer in list(self._states["peers"])[:SAMPLED_PEERS]
            for path in (paths.get(peer),)
        }
        kinds_changed = {peer: _kind(path) for peer, path in paths.items()} != {
            peer: _kind(path) for peer, path in self._paths.items()
        }
        self._traffic, self._paths, self._measured_at = traffic, paths, now
        sample = {"t": round(time.time(), 1), "total": [round(rate) for rate in self._rates[0]], "peers": rows}
        self._samples.append(sample)
        self.hub.sample(sample)
        if kinds_changed:
            self._put_peers()

    async def _measure_anew(self) -> None:
        """A sample, unless there is a fresh one."""
        async with self._measuring:
            if trio.current_time() - self._measured_at > WATCHED_PERIOD / 2:
                await self._measure()

    def _history_now(self) -> list[dict[str, Any]]:
        return list(self._samples)

    async def _ping(self) -> None:
        """Round trips to members whose packets don't go as datagrams, which measure themselves."""
        while True:
            if self.hub.watched:
                async with trio.open_nursery() as nursery:
                    for peer in self.members[:PINGED_PEERS]:
                        path = self._paths.get(peer)
                        if path is None or not path.rtt_s:
                            nursery.start_soon(self._ping_one, peer)
                self._rtts = {peer: rtt for peer, rtt in self._rtts.items() if peer in self._states["members"]}
            await trio.sleep(PING_PERIOD)

    async def _ping_one(self, peer: str) -> None:
        try:
            pong = await self._shell.client("host").call(PingPeer(peer, 3.0), Pong, timeout=4.0)
            self._rtts[peer] = pong.rtt_s
        except EdgevpnError:
            self._rtts.pop(peer, None)

    # --- what is asked

    async def entries(self, bucket: str = "") -> list[LedgerEntry]:
        return (await self._shell.client("ledger").call(LedgerRequest(bucket), LedgerReply, timeout=_ASK)).entries

    async def block(self) -> bytes:
        return (await self._shell.client("ledger").call(BlockRequest(), BlockReply, timeout=_ASK)).json

    async def announce(self, bucket: str, key: str, value: str) -> None:
        await self._shell.client("ledger").call(Announce(bucket, key, value), Done, timeout=_ASK)

    async def withdraw(self, bucket: str, key: str) -> bool:
        try:
            await self._shell.client("ledger").call(Withdraw(bucket, key), Done, timeout=_ASK)
        except RefusedError as exc:
            if exc.kind == "unknown":
                return False
            raise
        return True

    async def peergate(self) -> bool | None:
        if not self._shell.config.peerguard:
            return None
        gate = self._states["trusted"].get("gate")
        if not isinstance(gate, Gate):
            raise ActorUnavailableError("the trust actor has not said yet how the gate is: try again")
        return gate.enabled

    async def set_peergate(self, on: bool) -> None:
        await self._shell.client("trust").call(SetPeergate(on), Done, timeout=_ASK)
        gate = self._states["trusted"].get("gate")
        if isinstance(gate, Gate):  # its own word of it may come a moment later
            self._states["trusted"]["gate"] = msgspec.structs.replace(gate, enabled=on)

    async def status(self) -> NodeStatus:
        return await self._shell.client("supervisor").call(StatusRequest(), NodeStatus, timeout=_ASK)

    async def actors(self) -> list[ActorStatus]:
        return (await self._shell.client("supervisor").call(ActorsRequest(), Actors, timeout=_ASK)).actors

    async def queues(self) -> dict[str, list[QueueStatus]]:
        found: dict[str, list[QueueStatus]] = {}

        async def ask(name: str) -> None:
            try:
                found[name] = (await self._shell.client(name).call(VitalsRequest(), Vitals, timeout=1.0)).queues
            except EdgevpnError:
                return  # away: its state tells

        async with trio.open_nursery() as nursery:
            for name in ("supervisor", *self._shell.config.actors()):
                if name != "api":
                    nursery.start_soon(ask, name)
        return found

    async def paths(self) -> list[PathState]:
        if not self._has_tun:
            return []
        return (await self._shell.client("tun").call(PathsRequest(), Paths, timeout=_ASK)).paths

    async def freshen(self) -> None:
        await self._measure_anew()
        self._put_node(await self.status())
        self._put_actors(await self.actors())

    async def metered(self) -> Metered:
        await self._measure_anew()
        return Metered(self._traffic, *self._rates)


# --- arithmetic


def with_datagrams(traffic: Traffic, paths: Mapping[str, PathState]) -> Traffic:
    """The host's bytes, and those that went as datagrams: the tun actor counts both, the host only streams."""
    carriers = [traffic.by_protocol.get(name, [0, 0]) for name in (EDGEVPN_PACKETS, PACKET_STREAM)]
    streams = [sum(counted[way] for counted in carriers) for way in (0, 1)]
    packets = [sum(p.received_bytes for p in paths.values()), sum(p.sent_bytes for p in paths.values())]
    datagrams = [max(0, packets[way] - streams[way]) for way in (0, 1)]
    by_peer = dict(traffic.by_peer)
    for peer, path in paths.items():
        if path.kind == "datagram":
            received, sent = by_peer.get(peer, [0, 0])
            by_peer[peer] = [received + path.received_bytes, sent + path.sent_bytes]
    by_protocol = traffic.by_protocol | ({DATAGRAMS: datagrams} if any(datagrams) else {})
    total = [traffic.total[way] + datagrams[way] for way in (0, 1)]
    return Traffic(total, by_protocol, by_peer)


def rates_between(before: Traffic, now: Traffic, seconds: float) -> tuple[Rates, dict[str, Rates], dict[str, Rates]]:
    """Of all, by protocol, by peer. Zero when there is no earlier look, or a counter began anew."""

    def rate(earlier: Sequence[int] | None, later: Sequence[int]) -> Rates:
        if not earlier or seconds <= 0:
            return NO_RATES
        return Rates(*(max(0.0, (b - a) / seconds) for a, b in zip(earlier, later, strict=True)))

    return (
        rate(before.total, now.total),
        {name: rate(before.by_protocol.get(name), counted) for name, counted in now.by_protocol.items()},
        {name: rate(before.by_peer.get(name), counted) for name, counted in now.by_peer.items()},
    )


def _path_rates(before: PathState | None, now: PathState | None, seconds: float) -> list[int]:
    """[received, sent] bytes a second."""
    if before is None or now is None or seconds <= 0:
        return [0, 0]
    received = (now.received_bytes - before.received_bytes) / seconds
    return [max(0, round(received)), max(0, round((now.sent_bytes - before.sent_bytes) / seconds))]


def _milliseconds(seconds: float) -> float | None:
    return round(seconds * 1000, 2) if seconds else None


def _kind(path: PathState) -> tuple[str, str, str]:
    return path.kind, path.address, path.why
