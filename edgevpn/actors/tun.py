"""The tun actor: packets between the TUN device and the peers.

The device's descriptor comes from the supervisor, which holds it too: when this actor dies the interface, its
addresses and routes stay, and the next one goes on. Routes come from the ledger (or the static peer table) and are
kept as they were last seen while the ledger is away. Streams are dialled and taken through the host.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import apply
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.p2p.host_service import Inbound
from edgevpn.proto.messages import Body, Paths, PathsRequest, PathState, Route
from edgevpn.proto.packet_stream import TAKES_TCP, TAKES_UDP, Hello
from edgevpn.proto.protocols import EDGEVPN_PACKETS, PACKET_STREAM
from edgevpn.tun import device
from edgevpn.tun.packet_thread import PacketThread
from edgevpn.tun.pump import Pump
from edgevpn.tun.router import Router
from edgevpn.tun.stream_path import Stream, StreamPath

MAX_PATHS = 4096


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        descriptor = await shell.grant_descriptor("tun")
        os.set_blocking(descriptor, False)
        actor = TunActor(shell, nursery, descriptor)
        actor.thread.add(descriptor, actor.pump.on_readable)
        nursery.start_soon(actor.thread.run)
        nursery.start_soon(actor.follow_routes)
        nursery.start_soon(actor.serve_streams)
        await shell.ready()
        await trio.sleep_forever()


class TunActor:
    """Owns the pump, the router and the paths."""

    def __init__(self, shell: Shell, nursery: trio.Nursery, descriptor: int) -> None:
        self._shell = shell
        self._nursery = nursery
        self._link = HostLink(shell.client("host"))
        takes_tcp, takes_udp = device.enable_offloads(descriptor)
        flags = (TAKES_TCP if takes_tcp else 0) | (TAKES_UDP if takes_udp else 0)
        self._hello = Hello(flags, shell.config.mtu)
        self.thread = PacketThread()
        self._paths: dict[str, StreamPath] = {}
        self.pump = Pump(descriptor, self._paths, self._send_on_new_path, takes_udp=takes_udp)
        self._routes: dict[str, Body] = {}
        self._use_routes()
        shell.mailbox.on_request(PathsRequest, self._describe_paths)
        shell.gauges |= {name: self._counter(name) for name in self.pump.counters}
        shell.gauges["paths"] = lambda: len(self._paths)
        shell.gauges["queued_bytes"] = lambda: sum(path.queued_bytes for path in self._paths.values())
        shell.namespace |= {"tun": self, "pump": self.pump, "paths": self._paths}

    def _counter(self, name: str) -> Any:
        return lambda: self.pump.counters[name]

    # --- routes

    async def follow_routes(self) -> None:
        async with self._shell.client("ledger").watch("routes") as updates:
            async for update in updates:
                apply(self._routes, update)
                self._use_routes()

    def _use_routes(self) -> None:
        config = self._shell.config
        routes = {address: value.peer_id for address, value in self._routes.items() if isinstance(value, Route)}
        if config.static_peers:
            routes = dict(config.static_peers)
        self.pump.router = Router(routes, config.addresses, config.router)

    # --- paths

    def _send_on_new_path(self, peer: str, frames: list[bytes]) -> None:
        """In the packet thread: what is for a peer that has no path yet."""
        self.thread.in_trio(lambda: self._path_to(peer).send(frames))

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

            path = self._paths[peer] = StreamPath(dial, receive, self._hello, bad, self.thread)
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
        return Paths(
            [
                PathState(
                    peer_id=peer,
                    kind=path.kind,
                    sent_packets=path.stats.sent_packets,
                    sent_bytes=path.stats.sent_bytes,
                    received_packets=path.stats.received_packets,
                    received_bytes=path.stats.received_bytes,
                    dropped=path.stats.dropped,
                )
                for peer, path in self._paths.items()
            ]
        )
