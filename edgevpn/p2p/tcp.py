"""The TCP transport: listening on ports of our own alone, and dialling.

py-libp2p listens with SO_REUSEPORT, so that a second daemon binds the same port without a word and the kernel deals the
connections out between them; and it loses the remote address of every IPv6 connection. Here a port in use is a
`SetupError`. (SO_REUSEPORT is set after the bind: hole punching must be able to dial from the listening port.)
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from weakref import WeakSet

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import SetupError, UsageError
from edgevpn.fast_stream import FastStream

_BACKLOG = 256


_open: WeakSet[TcpStream] = WeakSet()


def stranded() -> list[TcpStream]:
    """Open connections whose own address this machine has no more: nothing comes or goes on them."""
    gone = {ip for ip in {stream.local for stream in _open} if ip and not _is_ours(ip)}
    return [stream for stream in _open if stream.local in gone]


def _is_ours(ip: str) -> bool:
    """Whether the kernel lets us have the address; of one that says nothing without its link, yes."""
    if ipaddress.ip_address(ip).is_link_local:
        return True
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((ip, 0))
        except OSError as exc:
            return exc.errno != errno.EADDRNOTAVAIL
    return True


class TcpStream(ReadWriteCloser):
    """A TCP connection as libp2p's layers above want it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = FastStream(stream)
        try:
            self._remote: tuple[str, int] | None = _host_port(stream.socket.getpeername())
            self._local = _host_port(stream.socket.getsockname())[0]
        except OSError:
            self._remote, self._local = None, ""  # it is gone already
        _open.add(self)

    async def read(self, n: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(n))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc.__cause__ or exc) or "closed here", transport="tcp") from exc

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc.__cause__ or exc) or "closed here", transport="tcp") from exc

    def write_now(self, data: bytes) -> int:
        """How many bytes the socket took without waiting."""
        try:
            return self._stream.write_now(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ConnectionClosedError(str(exc.__cause__ or exc) or "closed here", transport="tcp") from exc

    async def close(self) -> None:
        _open.discard(self)
        await self._stream.aclose()

    @property
    def local(self) -> str:
        """Our own IP address on it."""
        return self._local

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._remote


def _host_port(name: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int]:
    """An address of the socket module as (ip, port), an IPv4 address in IPv6 form as what it is."""
    ip = ipaddress.ip_address(name[0].partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return str(ip), name[1]


def multiaddr_text(ip: str, port: int) -> str:
    return f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/tcp/{port}"


def ip_and_port(addr: Multiaddr) -> tuple[str, int]:
    """Of `/ip4|ip6/IP/tcp/PORT`. Raises OpenConnectionError for any other."""
    parts = str(addr).split("/")
    if len(parts) < 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise OpenConnectionError(f"not a TCP address: {addr}")
    return parts[2], int(parts[4])


async def bind_listener(ip: str, port: int) -> trio.SocketListener:
    """Listen on `ip`:`port` (0: any free port). Raises SetupError naming the port if it is taken."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        bound = trio.socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise SetupError(f"cannot listen on {ip}: {exc.strerror}") from exc
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier run may linger
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await bound.bind((ip, port))
        bound.listen(_BACKLOG)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as exc:
        bound.close()
        if exc.errno == errno.EADDRINUSE:
            raise SetupError(f"port {port} is in use on {ip}; stop the other program or choose another port") from exc
        raise SetupError(f"cannot listen on {ip} port {port}: {exc.strerror}") from exc
    except BaseException:
        bound.close()
        raise
    return trio.SocketListener(bound)


class TcpListener(IListener):
    """One listening socket, served in the nursery it is given."""

    def __init__(self, handler: Callable[[ReadWriteCloser], Awaitable[None]]) -> None:
        self._handler = handler
        self._listener: trio.SocketListener | None = None
        self._accepting = trio.CancelScope()
        self._addrs: tuple[Multiaddr, ...] = ()
        self.background_nursery: trio.Nursery | None = None  # set by the swarm before `listen`

    async def listen(self, maddr: Multiaddr) -> None:
        """Raises SetupError, UsageError."""
        try:
            ip, port = ip_and_port(maddr)
        except (OpenConnectionError, ValueError) as exc:
            raise UsageError(f"cannot listen on {maddr}: not of the form /ip4/IP/tcp/PORT or /ip6/IP/tcp/PORT") from exc
        if self.background_nursery is None:
            raise RuntimeError("the swarm does not run")
        self._listener = await bind_listener(ip, port)
        self._addrs = (Multiaddr(multiaddr_text(*_host_port(self._listener.socket.getsockname()))),)
        self.background_nursery.start_soon(self._serve, self._listener, self.background_nursery)

    async def _serve(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        with self._accepting:
            await trio.serve_listeners(self._serve_one, [listener], handler_nursery=nursery)

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        await self._handler(TcpStream(stream))

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return self._addrs

    async def close(self) -> None:
        """Stop accepting; connections that were accepted live on."""
        self._accepting.cancel()
        if self._listener is not None:
            await self._listener.aclose()


class TcpTransport(ITransport):
    """Dials `/ip4|ip6/IP/tcp/PORT`; names are resolved before."""

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Raises OpenConnectionError."""
        return await self._dial(maddr, None)

    async def dial_with_source(self, maddr: Multiaddr, source: tuple[str, int]) -> RawConnection:
        """Dial from our own address and port `source`, for hole punching. Raises OpenConnectionError."""
        return await self._dial(maddr, source)

    async def _dial(self, maddr: Multiaddr, source: tuple[str, int] | None) -> RawConnection:
        ip, port = ip_and_port(maddr)
        connecting = trio.socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            if source is not None:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                await connecting.bind(source)
            await connecting.connect((ip, port))
        except OSError as exc:
            connecting.close()
            raise OpenConnectionError(os.strerror(exc.errno) if exc.errno else str(exc)) from exc
        except BaseException:
            connecting.close()
            raise
        return RawConnection(TcpStream(trio.SocketStream(connecting)), True)

    def create_listener(self, handler_function: Callable[[ReadWriteCloser], Awaitable[None]]) -> TcpListener:
        return TcpListener(handler_function)

    def can_dial(self, maddr: Multiaddr) -> bool:
        names = [protocol.name for protocol in maddr.protocols()]
        return names[:2] in (["ip4", "tcp"], ["ip6", "tcp"]) and names[2:] in ([], ["p2p"])

    def can_listen(self, maddr: Multiaddr) -> bool:
        return self.can_dial(maddr)

    def protocols(self) -> list[str]:
        return ["tcp"]
