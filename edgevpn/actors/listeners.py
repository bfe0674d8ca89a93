"""Sockets that listen, made by the supervisor: it may bind ports below 1024, and they outlive the actor that serves.

While that actor is away the kernel keeps what comes: datagrams up to the receive buffer, connections up to the backlog.
An address may be bound before the machine has it (IP_FREEBIND, ip(7)). On a socket that is bound to all addresses
each datagram tells which one it came to (IP_PKTINFO), so that the reply can come from there.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from edgevpn.config import parse_dns_address
from edgevpn.errors import SetupError

IP_PKTINFO: Final = 8
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_BACKLOG: Final = 128
_RECEIVE_BUFFER: Final = 1 << 20


def open_dns(address: str) -> dict[str, socket.socket]:
    """The sockets for "IP:PORT" or ":PORT" (all addresses), as "dns-udp4", "dns-tcp6" and so on. Raises SetupError."""
    host, port = parse_dns_address(address, any_host=True)
    families = [socket.AF_INET, socket.AF_INET6]
    if host:
        families = families[:1] if ipaddress.ip_address(host).version == 4 else families[1:]
    sockets: dict[str, socket.socket] = {}
    try:
        for family in families:
            version = 6 if family == socket.AF_INET6 else 4
            for transport, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
                try:
                    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                except OSError:
                    if host or not sockets:
                        raise
                    break  # a kernel without IPv6
                sockets[f"dns-{transport}{version}"] = sock
                _bind(sock, host, port)
    except OSError as exc:
        for sock in sockets.values():
            sock.close()
        raise SetupError(
            f"can't serve DNS at {address} ({exc.strerror}): is another DNS server there? choose another --dns"
        ) from exc
    return sockets


def _bind(sock: socket.socket, host: str, port: int) -> None:
    is_tcp = sock.type & socket.SOCK_STREAM == socket.SOCK_STREAM
    if is_tcp:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if not host and not is_tcp:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if not host and not is_tcp:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind((host, port))
    if is_tcp:
        sock.listen(_BACKLOG)
