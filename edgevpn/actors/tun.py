"""The tun actor: packets between the TUN device and the peers.

The device's descriptor comes from the supervisor, which holds it too: when this actor dies the interface, its
addresses and routes stay, and the next one goes on. Routes come from the ledger (or the static peer table) and are
kept as they were last seen while the ledger is away. Streams are dialled and taken through the host.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio

from edgevpn.actors import real_time
from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import RefusedError, apply
from edgevpn.actors.datagrams import Datagrams
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.actors.trust_link import TrustLink
from edgevpn.p2p.host_service import Inbound
from edgevpn.proto.datagram import Address
from edgevpn.proto.messages import Body, DhcpState, Paths, PathsRequest, PathState, Route
from edgevpn.proto.packet_stream import TAKES_TCP, TAKES_UDP, Hello
from edgevpn.proto.protocols import EDGEVPN_PACKETS, PACKET_STREAM
from edgevpn.proto.queue_state import QueueState, fullest
from edgevpn.tun import device
from edgevpn.tun.packet_thread import PacketThread
from edgevpn.tun.path import MAX_QUEUE
from edgevpn.tun.pump import Pump
from edgevpn.tun.router import Router
from edgevpn.tun.stream_path import Stream, StreamPath

MAX_PATHS = 4096


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        descriptor = await shell.grant_descriptor("tun")
        os.set_blocking(descriptor, False)
        sockets = [] if shell.config.path == "stream" else await _granted_sockets(shell)
        why_normal = "--packet-priority normal" if shell.config.packet_priority != "auto" else real_time.why_not()
        shell.gauges["real_time"] = lambda: int(not why_normal)
        if why_normal:
            shell.log.debug("packets are moved at normal priority", reason=why_normal)
        actor = TunActor(shell, nursery, descriptor, sockets)
        actor.thread.add(descriptor, actor.pump.on_readable)
        actor.thread.add_timer(actor.pump.on_timer)
        nursery.start_soon(actor.thread.run)
        nursery.start_soon(actor.follow_routes)
        nursery.start_soon(actor.trust.follow)
        if shell.config.dhcp:
            nursery.start_soon(actor.follow_addresses)
        nursery.start_soon(actor.serve_streams)
        if actor.datagrams is not None:
            nursery.start_soon(actor.datagrams.run)
        await shell.ready()
        await trio.sleep_forever()


async def _granted_sockets(shell: Shell) -> list[socket.socket]:
    """The UDP sockets that the supervisor holds."""
    sockets = []
    for what in ("udp4", "udp6"):
        try:
            sockets.append(socket.socket(fileno=await shell.grant_descriptor(what)))
        except RefusedError:
            continue  # the machine has not that family
    return sockets


class TunActor:
    """Owns the pump, the router and the paths."""

    def __init__(self, shell: Shell, nursery: trio.Nursery, descriptor: int, sockets: Sequence[socket.socket]) -> None:
        self._shell = shell
        self._nursery = nursery
        self._link = HostLink(shell.client("host"))
        takes_tcp, takes_udp = device.enable_offloads(descriptor)
        flags = (TAKES_TCP if takes_tcp else 0) | (TAKES_UDP if takes_udp else 0)
        self._hello = Hello(flags, shell.config.mtu)
        self._go_mtu = shell.config.go_mtu if shell.config.go_mtu < shell.config.mtu else 0
        self.thread = PacketThread()
        self._paths: dict[str, StreamPath] = {}
        self.datagrams: Datagrams | None = None
        if sockets:
            self.datagrams = Datagrams(
                shell,
                self._link,
                self.thread,
                {sock.family: sock for sock in sockets},
                self._hello,
                lambda: self.pump.router,
            )
        engine = self.datagrams.engine if self.datagrams else None
        self.pump = Pump(descriptor, self._paths, self._send_on_new_path, takes_udp=takes_udp, engine=engine)
        if engine is not None:
            engine.write, engine.on_small = self.pump.write_frame, self.pump.on_answer
        self._routes: dict[str, Body] = {}
        self._own: Sequence[str] = () if shell.config.dhcp else shell.config.addresses
        self.trust = TrustLink(shell)
        self.trust.when_changed(self._use_routes)
        self._use_routes()
        shell.mailbox.on_request(PathsRequest, self._describe_paths)
        shell.gauges |= {name: self._counter(name) for name in self.pump.counters}
        shell.gauges["dropped_waiting"] = lambda: self.pump.queue.dropped
        shell.gauges["marked_waiting"] = lambda: self.pump.queue.marked
        shell.gauges["paths"] = lambda: len(self._paths)
        shell.gauges["queued_bytes"] = lambda: sum(path.queued_bytes for path in self._paths.values())
        shell.queues["packets"] = self._packets_state
        shell.namespace |= {"tun": self, "pump": self.pump, "paths": self._paths}
        if engine is not None:
            for counters in (engine.counters, engine.opener.counters):
                shell.gauges |= {name: partial(counters.__getitem__, name) for name in counters}
            shell.namespace["datagrams"] = self.datagrams

    def _counter(self, name: str) -> Any:
        return lambda: self.pump.counters[name]

    def _packets_state(self) -> QueueState:
        """Of the paths' queues the fullest."""
        paths = self._paths.values()
        return fullest((p.queued_bytes for p in paths), MAX_QUEUE, sum(p.stats.dropped for p in paths), "bytes")

    # --- routes

    async def follow_routes(self) -> None:
        async with self._shell.client("ledger").watch("routes") as updates:
            async for update in updates:
                apply(self._routes, update)
                self._use_routes()

    async def follow_addresses(self) -> None:
        """With --dhcp: which addresses are ours."""
        found: dict[str, Body] = {}
        async with self._shell.client("ledger").watch("dhcp") as updates:
            async for update in updates:
                apply(found, update)
                dhcp = found.get("dhcp")
                if isinstance(dhcp, DhcpState) and dhcp.addresses:  # while the ledger is away: as last seen
                    self._own = dhcp.addresses
                    self._use_routes()

    def _use_routes(self) -> None:
        config = self._shell.config
        routes = {address: value.peer_id for address, value in self._routes.items() if isinstance(value, Route)}
        if config.static_peers:
            routes = dict(config.static_peers)
        if self.trust.closed:
            routes = {address: peer for address, peer in routes.items() if self.trust.allows(peer)}
        self.pump.router = Router(routes, self._own, config.router)
        if self.datagrams is not None:
            self.datagrams.routes_changed()

    # --- paths

    def _send_on_new_path(self, peer: str, frames: list[bytes]) -> None:
        """In the packet thread: what is for a peer that has no path yet."""
        self.thread.in_trio(lambda: self._send_first(peer, frames))

    def _send_first(self, peer: str, frames: list[bytes]) -> None:
        if self.datagrams is not None:
            self.datagrams.consider(peer, needed=True)
        if self._shell.config.path == "datagram":
            self._shell.count("dropped_no_datagram_path", len(frames))
        else:
            self._path_to(peer).send(frames)

    def _path_to(self, peer: str) -> StreamPath:
        path = self._paths.get(peer)
        if path is None:
            if len(self._paths) >= MAX_PATHS:
                self._paths.pop(next(iter(self._paths)))

            async def dial() -> tuple[str, Stream]:
                return await self._link.dial(peer, (PACKET_STREAM, EDGEVPN_PACKETS))

            def receive(frames: Sequence[bytes | memoryview]) -> tuple[int, int]:
                return self.pump.write_frames(peer, frames)

            def bad(reason: str) -> None:
                self._shell.warn("packet_streams_ended", peer=peer, reason=reason)

            path = self._paths[peer] = StreamPath(dial, receive, self._hello, bad, self.thread, self._go_mtu)
            self._nursery.start_soon(path.run)
        return path

    async def serve_streams(self) -> None:
        """Streams that peers dialled; a stranger's is ended at once, without a word."""
        while True:
            async with self._link.serve((PACKET_STREAM, EDGEVPN_PACKETS)) as streams:
                async for inbound in streams:
                    self._nursery.start_soon(self._serve_stream, inbound)
            await trio.sleep(0.01)  # the host went away

    async def _serve_stream(self, inbound: Inbound) -> None:
        if not self.pump.router.knows(inbound.peer_id):
            self._shell.count("streams_of_strangers_ended")
            await trio.aclose_forcefully(inbound.stream)
            return
        await self._path_to(inbound.peer_id).adopt(inbound.protocol, inbound.stream)

    async def _describe_paths(self, _: PathsRequest) -> Body:
        links = self.datagrams.engine.links if self.datagrams else {}
        counters = self.datagrams.engine.counters if self.datagrams else {}
        beside = [counters.get(f"beside_{way}_bytes", 0) for way in ("received", "sent")]
        return Paths([self._describe(peer) for peer in {**self._paths, **links}], beside)

    def _describe(self, peer: str) -> PathState:
        path = self._paths.get(peer)
        link = self.datagrams.engine.links.get(peer) if self.datagrams else None
        stats = [one.stats for one in (path, link) if one is not None]
        kind = path.kind if path else "none"
        if link is not None and link.is_live and link.address is not None:
            kind, address, why = "datagram", _endpoint(link.address), link.reason
            if link.moves:
                why += f" (moved {link.moves} times)" if link.moves > 1 else " (moved once)"
            if link.second is not None:
                second = link.second
                why += f"; second: {_endpoint(second.address)}, {1e3 * second.rtt:.1f} ms"
            if link.narrow:
                why += f"; no packets above {link.mtu} bytes pass, larger ones are cut"
        elif link is not None:
            address, why = "", f"no datagrams: {link.reason}"
        elif self._shell.config.path == "stream":
            address, why = "", "--path stream"
        else:
            address, why = "", "the peer does not offer datagrams"
        if path is not None and kind == "edgevpn-stream" and path.mtu:
            why += f"; a Go node: packets above {path.mtu} bytes are cut"
        return PathState(
            peer_id=peer,
            kind=kind,
            sent_packets=sum(one.sent_packets for one in stats),
            sent_bytes=sum(one.sent_bytes for one in stats),
            received_packets=sum(one.received_packets for one in stats),
            received_bytes=sum(one.received_bytes for one in stats),
            dropped=sum(one.dropped for one in stats),
            address=address,
            rtt_s=link.rtt if link else 0.0,
            why=why,
            repair=dict((link.repairs() if link else None) or {}),
        )


def _endpoint(address: Address) -> str:
    ip, port = address
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
