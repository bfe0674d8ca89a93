"""The proxy: a local port for HTTP (also CONNECT) and SOCKS 5, whose connections leave from egress nodes.

The first byte tells which it is. HTTP requests go as the Go program does it, each on a stream of its own to an egress
node chosen by chance. CONNECT and SOCKS need an egress node of ours: those of the Go program's are passed over.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import h11
import trio

from edgevpn.actors.host_link import HostLink
from edgevpn.actors.ledger_view import LedgerView
from edgevpn.actors.services import MAX_TUNNELS, TunnelRefusedError, accept_all, ask_for
from edgevpn.actors.shell import Shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.fast_stream import FastStream
from edgevpn.p2p.host_service import StreamRefusedError
from edgevpn.proto import socks5
from edgevpn.proto.messages import TunnelState
from edgevpn.proto.protocols import EGRESS as EGRESS_PROTOCOL, TUNNEL
from edgevpn.proto.tunnel_wire import Kind, Open, Status
from edgevpn.proto.values import EGRESS
from edgevpn.tunnels.http_relay import HttpSide, authority_untrusted, exchange, request_to_pass, target_untrusted
from edgevpn.tunnels.relay import read_exactly, relay
from edgevpn.tunnels.udp_flows import FlowStats

Stream = trio.abc.HalfCloseableStream

GREETING_TIME = 30.0  # seconds for a client to say what it wants
KEEP_ALIVE = 120.0  # seconds a client may stay between two requests
TRIES = 4  # egress nodes asked, one after the other
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class NoEgressError(EdgevpnError):
    """No egress node of the network would carry it."""


class Proxy:
    """Serves one listening socket."""

    def __init__(self, shell: Shell, link: HostLink, view: LedgerView, place: str) -> None:
        self._shell = shell
        self._link = link
        self._view = view
        self._place = place
        self._chance = random.Random()  # noqa: S311
        self.stats = FlowStats()

    def state(self) -> TunnelState:
        stats = self.stats
        return TunnelState("proxy", "", self._place, stats.flows, stats.served, stats.failed, stats.note)

    async def listen(self, sock: socket.socket) -> None:
        await accept_all(sock, self._serve, lambda: self.stats.flows < MAX_TUNNELS)

    async def _serve(self, tcp: trio.SocketStream) -> None:
        self.stats.flows += 1
        try:
            with trio.fail_after(GREETING_TIME):
                first = await tcp.receive_some(64 * 1024)
            if first[:1] == bytes((socks5.VERSION,)):
                await self._serve_socks(tcp, bytes(first))
            elif first:
                await self._serve_http(tcp, bytes(first))
        except (UntrustedDataError, trio.TooSlowError, *_BROKEN):
            self._shell.count("proxy_clients_left")  # left, or did not speak HTTP or SOCKS
        finally:
            self.stats.flows -= 1
            await trio.aclose_forcefully(tcp)

    # --- SOCKS

    async def _serve_socks(self, tcp: trio.SocketStream, data: bytes) -> None:
        near = FastStream(tcp, data)
        with trio.fail_after(GREETING_TIME):
            data = await _read_whole(near, socks5.greeting_length)
            if not socks5.read_greeting_untrusted(data):
                await near.send_all(socks5.NO_METHOD)
                return
            await near.send_all(socks5.NO_AUTHENTICATION)
            request = socks5.read_request_untrusted(await _read_whole(near, socks5.request_length_untrusted))
        if request.command != socks5.CONNECT or request.port == 0:
            await near.send_all(socks5.write_reply(socks5.Reply.NO_SUCH_COMMAND))
            return
        try:
            stream = await self._open_tunnel(request.host, request.port)
        except EdgevpnError as exc:
            self._failed(exc)
            await near.send_all(socks5.write_reply(_socks_reply(exc)))
            return
        await near.send_all(socks5.write_reply(socks5.Reply.DONE))
        self.stats.served += 1
        await relay(tcp, stream, self._link.ended_cleanly, first=near.take_early())

    # --- HTTP

    async def _serve_http(self, tcp: trio.SocketStream, first: bytes) -> None:
        asking = HttpSide(tcp, h11.SERVER)
        asking.h11.receive_data(first)
        while True:
            try:
                with trio.move_on_after(KEEP_ALIVE) as pause:
                    request = await asking.read_request_untrusted()
                if pause.cancelled_caught or request is None:
                    return
                if request.method == b"CONNECT":
                    await self._connect(tcp, asking, request)
                    return
                await self._pass_request(asking, request)
            except UntrustedDataError as exc:
                await asking.refuse(400, str(exc))
                return
            except EdgevpnError as exc:
                self._failed(exc)
                await asking.refuse(_http_status(exc), str(exc))
                return
            if asking.h11.our_state is not h11.DONE or asking.h11.their_state is not h11.DONE:
                return
            asking.h11.start_next_cycle()

    async def _connect(self, tcp: trio.SocketStream, asking: HttpSide, request: h11.Request) -> None:
        host, port = authority_untrusted(request.target.decode("latin-1"), 443)
        stream = await self._open_tunnel(host, port)
        try:
            await asking.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        early, _ = asking.h11.trailing_data
        self.stats.served += 1
        await relay(tcp, stream, self._link.ended_cleanly, first=early)

    async def _pass_request(self, asking: HttpSide, request: h11.Request) -> None:
        host, port, path = target_untrusted(request)
        stream = await self._dial((EGRESS_PROTOCOL,))
        try:
            answering = HttpSide(stream[1], h11.CLIENT)
            await exchange(asking, request_to_pass(request, host, port, path), answering)
            self.stats.served += 1
        except trio.BrokenResourceError as exc:
            if asking.h11.our_state is not h11.SEND_RESPONSE:
                raise
            raise NoEgressError("the egress node broke off") from exc
        finally:
            await trio.aclose_forcefully(stream[1])

    # --- egress nodes

    async def _candidates(self) -> list[str]:
        live = await self._view.live(self._shell.config.proxy_dead_interval)
        found = [peer for peer in self._view.keys(EGRESS) if peer in live]
        self._chance.shuffle(found)
        return found[:TRIES]

    async def _dial(self, protocols: tuple[str, ...]) -> tuple[str, Stream]:
        """A stream to an egress node. Raises NoEgressError."""
        candidates = await self._candidates()
        reason = "no live node of the network offers egress (--egress)"
        for peer in candidates:
            try:
                return await self._link.dial(peer, protocols)
            except StreamRefusedError as exc:
                reason = str(exc)
        raise NoEgressError(f"no egress: {reason}")

    async def _open_tunnel(self, host: str, port: int) -> Stream:
        """A TCP connection from an egress node of ours. Raises NoEgressError, TunnelRefusedError."""
        reason: EdgevpnError = NoEgressError("no live node of the network offers egress (--egress)")
        try:
            wish = Open(Kind.EGRESS, host, port)
            for peer in await self._candidates():
                try:
                    _, stream = await self._link.dial(peer, (TUNNEL,))
                    await ask_for(stream, wish)
                except TunnelRefusedError as exc:
                    reason = exc
                    if exc.status is Status.UNREACHABLE:
                        break  # it would not be nearer from elsewhere
                except StreamRefusedError as exc:
                    reason = NoEgressError(f"no egress node that does more than plain HTTP answers: {exc}")
                else:
                    return stream
        except ValueError as exc:
            raise UntrustedDataError(str(exc)) from exc
        raise reason

    def _failed(self, reason: EdgevpnError) -> None:
        self.stats.failed += 1
        self.stats.note = str(reason)
        self._shell.warn("proxy_requests_failed", reason=str(reason))


async def _read_whole(stream: FastStream, length: Callable[[bytes], int]) -> bytes:
    """A message whose length its beginning tells. Raises UntrustedDataError when the client leaves within it."""
    data = b""
    while len(data) < (whole := length(data)):
        data += await read_exactly(stream, whole - len(data))
    return data


def _socks_reply(reason: EdgevpnError) -> socks5.Reply:
    if isinstance(reason, TunnelRefusedError):
        if reason.status is Status.FORBIDDEN:
            return socks5.Reply.FORBIDDEN
        if reason.status is Status.UNREACHABLE:
            return socks5.Reply.HOST_UNREACHABLE
    return socks5.Reply.FAILED


def _http_status(reason: EdgevpnError) -> int:
    if isinstance(reason, TunnelRefusedError):
        return 403 if reason.status is Status.FORBIDDEN else 502
    return 503
