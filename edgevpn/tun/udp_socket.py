"""The UDP sockets of the datagram path: made by the supervisor, so that they outlive the tun actor, which uses them.

One for IPv4, one for IPv6, on the same port where that is free. They join what they receive (UDP_GRO), never fragment
(IP_MTU_DISCOVER), and have room for bursts, since UDP knows no back-pressure. That room is in bytes; how long something
lay there, `waited` tells. See udp(7), ip(7), ipv6(7), socket(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from contextlib import suppress
from typing import Final

from edgevpn.errors import SetupError

UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PROBE = 10, 23, 3  # PROBE: don't fragment, and don't ask the path MTU cache
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SIOCGSTAMP, _TIMEVAL = 0x8906, struct.Struct("@ll")
_NO_WAIT = 10.0  # seconds: the clock was set
_SEND_BUFFER, _RECEIVE_BUFFER = 8 << 20, 16 << 20


def open_udp(port: int = 0) -> dict[int, socket.socket]:
    """The sockets by family; the kernel may have only one. `port` 0: a free one. Raises SetupError."""
    sockets: dict[int, socket.socket] = {}
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - peers are anywhere
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            continue  # a kernel without that family
        try:
            _prepare(sock, family)
            try:
                sock.bind((address, port))
            except OSError:
                if not sockets or not port:
                    raise
                sock.bind((address, 0))
        except OSError as exc:
            sock.close()
            if family == socket.AF_INET6:
                continue  # IPv6 is switched off
            raise SetupError(f"can't open UDP port {port}: {exc.strerror}; choose another --datagram-port") from exc
        port = port or sock.getsockname()[1]
        sockets[family] = sock
    if not sockets:
        raise SetupError("this machine has neither IPv4 nor IPv6: use --path stream")
    return sockets


def _prepare(sock: socket.socket, family: int) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PROBE)
    with suppress(OSError):  # Linux before 5.0: one datagram a call
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    for forced, plain, size in (
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER),
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)  # up to net.core.wmem_max, rmem_max


def waited(sock: socket.socket) -> float:
    """Seconds from the arrival of what was read last from the socket until now; 0.0 where the kernel does not tell.

    The first call makes it take the times.
    """
    try:
        seconds, micros = _TIMEVAL.unpack(fcntl.ioctl(sock, _SIOCGSTAMP, bytes(_TIMEVAL.size)))
    except OSError:
        return 0.0
    age = time.time() - seconds - micros / 1e6
    return age if 0 < age < _NO_WAIT else 0.0
