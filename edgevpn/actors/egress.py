"""Egress: this node connects to the Internet for other members of the network.

A name is resolved here and each of its addresses judged (edgevpn/proto/reachable.py); the connection goes to a judged
address itself, so a name that resolves to something else the next time gains nothing. HTTP requests come on the Go
program's protocol, one a stream; TCP connections (CONNECT, SOCKS) on ours.
"""

from __future__ import annotations

import socket
import ssl

import h11
import trio

from edgevpn.actors.host_link import HostLink
from edgevpn.actors.services import CONNECT_TIME, MAX_TUNNELS, say_and_end
from edgevpn.actors.shell import Shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto.messages import TunnelState
from edgevpn.proto.reachable import why_not_reachable
from edgevpn.proto.tunnel_wire import Answer, Open, Status, write_answer
from edgevpn.tunnels.http_relay import HttpSide, exchange, request_to_pass, target_untrusted
from edgevpn.tunnels.relay import relay
from edgevpn.tunnels.udp_flows import FlowStats

Stream = trio.abc.HalfCloseableStream

MAX_ADDRESSES = 8  # of a name that are tried
REQUEST_TIME = 30.0  # seconds for the head of a request
_TLS_PORT = 443  # the Go program speaks TLS to it when it is asked for http://HOST:443
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class ForbiddenError(EdgevpnError):
    """The egress does not connect to such addresses."""


class UnreachableError(EdgevpnError):
    """The target does not answer."""


class Egress:
    """Serves one node's egress."""

    def __init__(self, shell: Shell, link: HostLink) -> None:
        self._shell = shell
        self._link = link
        self._own = shell.config.addresses if shell.config.vpn else ()
        self._allowed = shell.config.egress_allow
        self.stats = FlowStats()

    def state(self) -> TunnelState:
        stats = self.stats
        return TunnelState("egress", "", ", ".join(self._allowed), stats.flows, stats.served, stats.failed, stats.note)

    async def serve(self, wish: Open, stream: Stream) -> None:
        """A TCP connection for an admitted node of ours."""
        if self.stats.flows >= MAX_TUNNELS:
            await say_and_end(stream, Answer(Status.BUSY, f"{MAX_TUNNELS} connections are open"))
            return
        self.stats.flows += 1
        try:
            target = await self.connect(wish.name, wish.port)
        except EdgevpnError as exc:
            self.stats.failed += 1
            status = Status.FORBIDDEN if isinstance(exc, ForbiddenError) else Status.UNREACHABLE
            await say_and_end(stream, Answer(status, str(exc)))
        else:
            self.stats.served += 1
            async with target:
                await stream.send_all(write_answer(Answer(Status.OK)))
                await relay(target, stream, self._link.ended_cleanly)
        finally:
            self.stats.flows -= 1

    async def serve_http(self, stream: Stream) -> None:
        """One request of an admitted node, Go or ours, and its response."""
        asking = HttpSide(stream, h11.SERVER)
        self.stats.flows += 1
        try:
            with trio.fail_after(REQUEST_TIME):
                request = await asking.read_request_untrusted()
            if request is None:
                return
            host, port, path = target_untrusted(request)
            async with await self._connect_for_http(host, port) as target:
                answering = HttpSide(target, h11.CLIENT)
                await exchange(asking, request_to_pass(request, host, port, path), answering)
            self.stats.served += 1
            await end_in_order(stream)
        except (EdgevpnError, trio.TooSlowError, *_BROKEN) as exc:
            self.stats.failed += 1
            await self._refuse(asking, exc)
        finally:
            self.stats.flows -= 1

    async def _refuse(self, asking: HttpSide, reason: Exception) -> None:
        status = {ForbiddenError: 403, UnreachableError: 502, UntrustedDataError: 400, trio.TooSlowError: 408}
        try:
            await asking.refuse(status.get(type(reason), 502), str(reason) or "the exchange broke")
            await end_in_order(asking.stream)
        except (UntrustedDataError, *_BROKEN):
            return  # it had begun, or its reader left: the stream is reset

    async def _connect_for_http(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        target = await self.connect(host, port)
        if port != _TLS_PORT:
            return target
        context = ssl.create_default_context()
        secured = trio.SSLStream(target, context, server_hostname=host, https_compatible=True)
        try:
            with trio.fail_after(CONNECT_TIME):
                await secured.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            await trio.aclose_forcefully(secured)
            raise UnreachableError(f"{host}: no TLS: {exc.__cause__ or exc}") from exc
        return secured  # type: ignore[return-value]  # send_eof is not used

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """A connection to the first allowed address of `host` that answers. Raises ForbiddenError, UnreachableError."""
        try:
            with trio.fail_after(CONNECT_TIME):
                found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, trio.TooSlowError) as exc:
            raise UnreachableError(f"{host} has no address: {exc}") from exc
        reason = ""
        failure: Exception | None = None
        with trio.move_on_after(CONNECT_TIME):
            for family, _, _, _, address in found[:MAX_ADDRESSES]:
                reason_here = self._why_not(family, str(address[0]), port)
                if reason_here:
                    reason = reason_here
                    continue
                try:
                    return await _connect_to(family, address)
                except OSError as exc:
                    failure = exc
            if failure is None:
                self._shell.count("egress_targets_forbidden")
                raise ForbiddenError(f"{host} is {reason or 'nowhere'}: this egress does not connect to it")
        raise UnreachableError(f"{host} does not answer on port {port}: {failure or 'timed out'}")

    def _why_not(self, family: int, address: str, port: int) -> str:
        reason = why_not_reachable(address, self._own, self._allowed)
        if not reason and _is_ours(family, address, port):
            # Allowed networks hold for this machine's own addresses too: whoever names them wants it so.
            return "" if why_not_reachable(address, (f"{address}",), self._allowed) == "" else "this machine itself"
        return reason


def _is_ours(family: int, address: str, port: int) -> bool:
    """Whether the kernel would reach `address` without leaving the machine: it is then its own source address."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
            return str(probe.getsockname()[0]) == address
        except OSError:
            return False  # no way there: connecting tells


async def _connect_to(family: int, address: tuple[str, int] | tuple[str, int, int, int]) -> trio.SocketStream:
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def end_in_order(stream: Stream) -> None:
    """Say that all was said, and leave when the reader has: what is on its way arrives."""
    await stream.send_eof()
    with trio.move_on_after(5):
        while await stream.receive_some(4096):
            pass
