"""Listening sockets that the supervisor opens for its actors: it may bind low ports, and they outlive an actor."""

from __future__ import annotations

import errno
import socket

from edgevpn.errors import SetupError
from edgevpn.proto.endpoints import UDP, parse_endpoint

_BACKLOG = 1024  # connections that wait while the actor is being started again


def open_listener(place: str) -> socket.socket:
    """Listen at an endpoint; an empty host means all addresses, of both IP versions. Raises SetupError."""
    endpoint = parse_endpoint(place, listening=True)
    kind = socket.SOCK_DGRAM if endpoint.kind == UDP else socket.SOCK_STREAM
    try:
        if endpoint.host:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=kind, flags=socket.AI_PASSIVE)
            return _bind(found[0][0], kind, found[0][4])
        if socket.has_dualstack_ipv6():
            try:
                return _bind(socket.AF_INET6, kind, ("::", endpoint.port, 0, 0))
            except OSError as exc:
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
        return _bind(socket.AF_INET, kind, ("0.0.0.0", endpoint.port))  # noqa: S104 - that is what was asked for
    except OSError as exc:
        todo = {
            errno.EADDRINUSE: "stop the other program or choose another port",
            errno.EACCES: "run as root or choose a port from 1024 on",
            errno.EADDRNOTAVAIL: "this machine has no such address",
        }.get(exc.errno or 0, "choose another address")
        raise SetupError(f"can't listen on {endpoint} ({exc.strerror}): {todo}") from exc


def _bind(family: int, kind: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
