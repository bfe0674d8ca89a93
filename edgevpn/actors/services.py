"""Services: what this node offers through tunnels, and what it listens for on behalf of others' services.

A connection to a listener looks up who offers the service now, so a service may move: while nobody answers, the
connection waits up to --timeout. With the Go program's nodes a stream leads to the one TCP service that a node has;
between ours it says which one it wants (edgevpn/proto/tunnel_wire.py).
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from edgevpn.actors.host_link import HostLink
from edgevpn.actors.ledger_view import LedgerView
from edgevpn.actors.shell import Shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.host_service import StreamRefusedError
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.endpoints import TCP, UDP, Endpoint, parse_endpoint
from edgevpn.proto.messages import TunnelState
from edgevpn.proto.protocols import SERVICE, TUNNEL
from edgevpn.proto.tunnel_wire import (
    ANSWER_HEAD,
    Answer,
    Kind,
    Open,
    Status,
    answer_length_untrusted,
    read_answer_untrusted,
    write_answer,
    write_open,
)
from edgevpn.proto.values import SERVICES
from edgevpn.tunnels.relay import read_exactly, relay, reset_on_close
from edgevpn.tunnels.udp_flows import FlowStats, UdpListener, serve_flow

Stream = trio.abc.HalfCloseableStream

ANSWER_TIME = 30.0  # seconds: longer than a provider tries to reach its target
CONNECT_TIME = 15.0
MAX_TUNNELS = 4096
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class TunnelRefusedError(EdgevpnError):
    """The other side answered, and would not."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.why or answer.status.name.lower().replace("_", " "))
        self.status = answer.status


@dataclass
class Offered:
    """A service of this node."""

    name: str
    target: Endpoint
    stats: FlowStats = field(default_factory=FlowStats)


@dataclass
class Listening:
    """A listener for a service of another node. `place` is where it really listens."""

    name: str
    kind: str
    place: str
    socket: socket.socket
    stats: FlowStats = field(default_factory=FlowStats)


class Services:
    """Both halves, for one node."""

    def __init__(self, shell: Shell, link: HostLink, view: LedgerView, peer_id: str) -> None:
        self._shell = shell
        self._link = link
        self._view = view
        self._me = peer_id
        self._patience = shell.config.timeout
        self.offered = [Offered(name, parse_endpoint(place)) for name, place in shell.config.services]
        self.listening: list[Listening] = []

    def states(self) -> list[TunnelState]:
        offered = [_state("service", one.name, str(one.target), one.stats) for one in self.offered]
        return offered + [_state("connect", one.name, one.place, one.stats) for one in self.listening]

    @property
    def open(self) -> int:
        return sum(one.stats.flows for one in self.offered) + sum(one.stats.flows for one in self.listening)

    # --- offered

    async def serve_plain(self, peer: str, stream: Stream) -> None:
        """A stream of a Go node, which can't say what it wants."""
        tcp = [one for one in self.offered if one.target.kind == TCP]
        if len(tcp) != 1:
            self._shell.warn("plain_service_streams_refused", peer=peer, tcp_services=len(tcp))
            return
        if not await self._view.admits(peer):
            self._shell.warn("strangers_refused", peer=peer)
            return
        await self._serve_tcp(tcp[0], stream, None)

    async def serve(self, wish: Open, stream: Stream) -> None:
        """A stream of a node of ours, which was admitted."""
        kind = TCP if wish.kind is Kind.TCP_SERVICE else UDP
        offered = next((one for one in self.offered if one.name == wish.name and one.target.kind == kind), None)
        if offered is None:
            await say_and_end(stream, Answer(Status.NOT_HERE, f"no {kind.upper()} service of that name here"))
        elif self.open >= MAX_TUNNELS:
            await say_and_end(stream, Answer(Status.BUSY, f"{MAX_TUNNELS} tunnels are open"))
        elif kind == TCP:
            await self._serve_tcp(offered, stream, Answer(Status.OK))
        else:
            await self._serve_udp(offered, stream)

    async def _serve_tcp(self, offered: Offered, stream: Stream, answer: Answer | None) -> None:
        """`answer` is said once the target is reached; None: to a Go node nothing is said."""
        stats = offered.stats
        try:
            with trio.fail_after(CONNECT_TIME):
                target = await trio.open_tcp_stream(offered.target.host, offered.target.port)
        except (OSError, trio.TooSlowError) as exc:
            stats.failed += 1
            stats.note = f"{offered.target} does not answer: {exc}"
            self._shell.warn("service_targets_not_reached", service=offered.name, target=str(offered.target))
            if answer is not None:
                await say_and_end(stream, Answer(Status.UNREACHABLE, "the service does not answer"))
            return
        stats.note = ""
        stats.served += 1
        stats.flows += 1
        try:
            if answer is not None:
                await stream.send_all(write_answer(answer))
            await relay(target, stream, self._link.ended_cleanly)
        finally:
            stats.flows -= 1
            await trio.aclose_forcefully(target)

    async def _serve_udp(self, offered: Offered, stream: Stream) -> None:
        try:
            found = await trio.socket.getaddrinfo(offered.target.host, offered.target.port, type=socket.SOCK_DGRAM)
            family, kind, proto, _, address = found[0]
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, proto)
            try:
                sock.connect(address)
            except BaseException:
                sock.close()
                raise
        except OSError as exc:
            offered.stats.failed += 1
            offered.stats.note = f"{offered.target} can't be reached: {exc}"
            await say_and_end(stream, Answer(Status.UNREACHABLE, "the service can't be reached"))
            return
        with sock:
            await stream.send_all(write_answer(Answer(Status.OK)))
            await serve_flow(stream, sock, offered.stats)

    # --- listened for

    async def listen(self, one: Listening) -> None:
        """Serve a listener for as long as the node lives."""
        self.listening.append(one)
        if one.kind == UDP:

            async def open_flow() -> Stream:
                return (await self.open_service(one.name, UDP))[0]

            await UdpListener(one.socket, open_flow, one.stats).run()
            return
        await accept_all(one.socket, lambda tcp: self._connect(one, tcp), lambda: self.open < MAX_TUNNELS)

    async def _connect(self, one: Listening, tcp: trio.SocketStream) -> None:
        stats = one.stats
        stats.flows += 1
        try:
            try:
                stream, plain = await self.open_service(one.name, TCP)
            except EdgevpnError as exc:
                stats.failed += 1
                stats.note = str(exc)
                self._shell.warn("service_connections_failed", service=one.name, reason=str(exc))
                reset_on_close(tcp)
                return
            stats.served += 1
            stats.note = ""
            await relay(tcp, stream, self._link.ended_cleanly, half_close=not plain)
        finally:
            stats.flows -= 1
            await trio.aclose_forcefully(tcp)

    async def open_service(self, name: str, kind: str) -> tuple[Stream, bool]:
        """A stream to whoever offers the service now, and whether it is a Go node's. Raises EdgevpnError."""
        deadline = trio.current_time() + self._patience
        pauses = BackOff(0.05, 2.0, random.Random())  # noqa: S311
        reason: EdgevpnError = StreamRefusedError(f"nobody in the network offers {name!r}")
        while True:
            provider = self._view.provider(SERVICES, name)
            if provider == self._me:
                raise StreamRefusedError(f"this node itself offers {name!r}: connect to it directly")
            if provider:
                try:
                    return await self._open_at(provider, name, kind)
                except TunnelRefusedError as exc:
                    if exc.status in (Status.UNREACHABLE, Status.FORBIDDEN):
                        raise
                    reason = exc
                except EdgevpnError as exc:
                    reason = exc
            rest = deadline - trio.current_time()
            if rest <= 0:
                raise reason
            await self._view.changed(min(rest, pauses.next()))

    async def _open_at(self, provider: str, name: str, kind: str) -> tuple[Stream, bool]:
        protocol, stream = await self._link.dial(provider, (TUNNEL, SERVICE) if kind == TCP else (TUNNEL,))
        if protocol == SERVICE:
            return stream, True
        await ask_for(stream, Open(Kind.TCP_SERVICE if kind == TCP else Kind.UDP_SERVICE, name))
        return stream, False


def _state(what: str, name: str, place: str, stats: FlowStats) -> TunnelState:
    return TunnelState(what, name, place, stats.flows, stats.served, stats.failed, stats.note)


async def ask_for(stream: Stream, wish: Open) -> None:
    """Say on a new stream of a node of ours what it is for. Raises TunnelRefusedError, StreamRefusedError."""
    try:
        with trio.fail_after(ANSWER_TIME):
            await stream.send_all(write_open(wish))
            head = await read_exactly(stream, ANSWER_HEAD)
            answer = read_answer_untrusted(head + await read_exactly(stream, answer_length_untrusted(head)))
        if answer.status is not Status.OK:
            raise TunnelRefusedError(answer)
    except (UntrustedDataError, trio.TooSlowError, *_BROKEN) as exc:
        await trio.aclose_forcefully(stream)
        raise StreamRefusedError(f"the other side did not answer: {exc}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def say_and_end(stream: Stream, answer: Answer) -> None:
    """A refusal that arrives: the stream is closed when its reader has closed it, or after a while."""
    try:
        await stream.send_all(write_answer(answer))
        await stream.send_eof()
        with trio.move_on_after(5):
            while await stream.receive_some(4096):
                pass
    except _BROKEN:
        pass


async def accept_all(
    sock: socket.socket, serve: Callable[[trio.SocketStream], Awaitable[None]], room: Callable[[], bool]
) -> None:
    """Serve each connection in a task of its own; without `room` a new one is reset at once."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with listener, trio.open_nursery() as nursery:
        while True:
            try:
                tcp = await listener.accept()
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                await trio.sleep(0.1)  # descriptors come back as tunnels end
                continue
            if not room():
                reset_on_close(tcp)
                await trio.aclose_forcefully(tcp)
                continue
            nursery.start_soon(serve, tcp)
