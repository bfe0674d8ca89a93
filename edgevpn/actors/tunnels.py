"""The tunnels actor: services, egress and the proxy.

Its streams are the host's, its listening sockets the supervisor's: both are there again at once when this actor was
started anew (connections made meanwhile wait in the sockets' backlog), only the tunnels that were open break. Who may
open tunnels to us is in the ledger's bucket `users`; what we offer is announced in `services` and `egress`, and
withdrawn when the node leaves.
"""

from __future__ import annotations

import socket
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.egress import Egress
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.ledger_view import Announcer, LedgerView, Ours, own_peer_id, user_of
from edgevpn.actors.linux_process import raise_descriptor_limit
from edgevpn.actors.proxy import Proxy
from edgevpn.actors.services import Listening, Services, say_and_end
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.host_service import Inbound
from edgevpn.proto.endpoints import parse_endpoint
from edgevpn.proto.messages import Body, Done, Leave, Tunnels, TunnelsRequest
from edgevpn.proto.protocols import EGRESS as EGRESS_PROTOCOL, SERVED_BY, SERVICE
from edgevpn.proto.queue_state import QueueState
from edgevpn.proto.tunnel_wire import OPEN_HEAD, Answer, Kind, Status, open_length_untrusted, read_open_untrusted
from edgevpn.proto.values import EGRESS, EGRESS_VALUE, SERVICES, USERS, Service, write_value
from edgevpn.tunnels.relay import read_exactly

OPEN_TIME = 10.0  # seconds for a peer to say what its stream is for
MAX_INBOUND = 4096


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        raise_descriptor_limit()
        listeners = {}
        for what, place in shell.config.listeners():
            listeners[what] = _adopt(await shell.grant_descriptor(what), place)
        actor = TunnelsActor(shell, nursery)
        shell.mailbox.on_request(TunnelsRequest, actor.describe)
        shell.mailbox.on_request(Leave, actor.leave, only=())
        nursery.start_soon(actor.view.follow)
        await shell.ready()
        await actor.run(listeners)


def _adopt(descriptor: int, place: str) -> tuple[socket.socket, str]:
    """The socket of a granted descriptor, and where it really listens."""
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    host, port = sock.getsockname()[:2]
    return sock, f"{parse_endpoint(place, listening=True).kind}://{f'[{host}]' if ':' in host else host}:{port}"


class TunnelsActor:
    """Puts services, egress and proxy on the host's streams and the ledger's buckets."""

    def __init__(self, shell: Shell, nursery: trio.Nursery) -> None:
        self._shell = shell
        self._nursery = nursery
        self._link = HostLink(shell.client("host"))
        self.view = LedgerView(shell.client("ledger"), (USERS, SERVICES, EGRESS))
        self._announcer = Announcer(shell.client("ledger"), self._refused)
        self._ours: dict[float, list[Ours]] = {}  # by the pause between two announcements
        self._services: Services | None = None
        self._egress: Egress | None = None
        self._proxy: Proxy | None = None
        self._inbound = 0
        self._lost = 0
        shell.gauges |= {"inbound_streams": lambda: self._inbound, "tunnels_open": self._open_tunnels}
        shell.queues["inbound streams"] = lambda: QueueState(self._inbound, MAX_INBOUND, self._lost)
        shell.namespace["tunnels"] = self

    async def run(self, listeners: dict[str, tuple[socket.socket, str]]) -> None:
        config = self._shell.config
        me = await own_peer_id(self._shell.client("host"))
        services = self._services = Services(self._shell, self._link, self.view, me)
        for number, (name, place) in enumerate(config.connects):
            sock, bound = listeners[f"listener:{number}"]
            one = Listening(name, parse_endpoint(place, listening=True).kind, bound, sock)
            self._nursery.start_soon(services.listen, one)
            self._shell.log.info(f"service {name} is at {bound}")
        if config.egress:
            self._egress = Egress(self._shell, self._link)
            self._ours.setdefault(config.egress_announce_interval, []).append(Ours(EGRESS, me, EGRESS_VALUE))
        if config.proxy_listen:
            sock, bound = listeners["listener:proxy"]
            self._proxy = Proxy(self._shell, self._link, self.view, bound)
            self._nursery.start_soon(self._proxy.listen, sock)
            self._shell.log.info(f"HTTP and SOCKS 5 proxy at {bound}")
            if not parse_endpoint(config.proxy_listen, listening=True).host:
                self._shell.log.warning(
                    "whoever reaches this port uses it: --listen 127.0.0.1:PORT keeps it to this machine"
                )
        self._announce(me)
        await self._serve_streams()

    def _announce(self, me: str) -> None:
        config = self._shell.config
        for name in dict.fromkeys(name for name, _ in config.services):
            entry = Ours(SERVICES, name, write_value(Service(me, name)))
            self._ours.setdefault(config.ledger_announce_interval, []).append(entry)
        if config.connects:
            self._ours.setdefault(config.ledger_announce_interval, []).append(user_of(me))
        elif config.proxy_listen:
            self._ours.setdefault(config.proxy_announce_interval, []).append(user_of(me))
        for interval, entries in self._ours.items():
            self._nursery.start_soon(self._announcer.keep, entries, interval)

    def _refused(self, entry: Ours, reason: str) -> None:
        self._shell.log.error(
            f"{entry.bucket} {entry.key!r} can't be announced: choose another name, or wait until its owner is gone",
            reason=reason,
        )

    def _open_tunnels(self) -> int:
        return sum(state.open for state in self._states())

    def _states(self) -> list[Any]:
        found = self._services.states() if self._services else []
        return found + [one.state() for one in (self._egress, self._proxy) if one is not None]

    async def describe(self, _: TunnelsRequest) -> Body:
        refused = {key: why for (bucket, key), why in self._announcer.refused.items() if bucket == SERVICES}
        return Tunnels([_with_note(state, refused) for state in self._states()])

    async def leave(self, _: Leave) -> Body:
        await self._announcer.withdraw([entry for entries in self._ours.values() for entry in entries])
        return Done()

    # --- streams of peers

    async def _serve_streams(self) -> None:
        while True:
            async with self._link.serve(SERVED_BY["tunnels"]) as streams:
                async for inbound in streams:
                    if self._inbound >= MAX_INBOUND:
                        self._lost += 1
                        await trio.aclose_forcefully(inbound.stream)
                    else:
                        self._nursery.start_soon(self._serve, inbound)
            await trio.sleep(0.01)  # the host went away

    async def _serve(self, inbound: Inbound) -> None:
        self._inbound += 1
        try:
            await self._serve_one(inbound)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self._shell.count("inbound_streams_broke")
        except UntrustedDataError as exc:
            self._shell.warn("streams_refused", peer=inbound.peer_id, reason=str(exc))
        except EdgevpnError as exc:
            self._shell.warn("streams_failed", peer=inbound.peer_id, reason=str(exc))
        finally:
            self._inbound -= 1
            await trio.aclose_forcefully(inbound.stream)

    async def _serve_one(self, inbound: Inbound) -> None:
        peer, stream = inbound.peer_id, inbound.stream
        services, egress = self._services, self._egress
        if inbound.protocol == SERVICE:
            if services is not None:
                await services.serve_plain(peer, stream)
            return
        if inbound.protocol == EGRESS_PROTOCOL:
            if egress is not None and await self._admits(peer):
                await egress.serve_http(stream)
            return
        with trio.fail_after(OPEN_TIME):
            head = await read_exactly(stream, OPEN_HEAD)
            wish = read_open_untrusted(head + await read_exactly(stream, open_length_untrusted(head)))
        if not await self._admits(peer):
            await say_and_end(stream, Answer(Status.STRANGER, "you are not in the bucket `users` of our ledger"))
        elif wish.kind is not Kind.EGRESS and services is not None:
            await services.serve(wish, stream)
        elif wish.kind is Kind.EGRESS and egress is not None:
            await egress.serve(wish, stream)
        else:
            await say_and_end(stream, Answer(Status.NOT_HERE, "this node offers no such thing"))

    async def _admits(self, peer: str) -> bool:
        admitted = await self.view.admits(peer)
        if not admitted:
            self._shell.warn("strangers_refused", peer=peer)
        return admitted


def _with_note(state: Any, refused: dict[str, str]) -> Any:
    from msgspec.structs import replace

    return replace(state, note=refused[state.name]) if state.what == "service" and state.name in refused else state
