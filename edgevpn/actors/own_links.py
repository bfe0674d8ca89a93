"""Hears when this machine's addresses, interfaces or routes change: rtnetlink(7)'s multicast groups, no rights needed.

What changed is not read: who wants to know looks at what there is now. Many changes that come together are one.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import trio

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE
_AT_ONCE = 65536


async def changes(settle: float) -> AsyncIterator[None]:
    """Yields after each change, `settle` seconds later; what happens in between is in it.

    Where there is no netlink (another kernel, a sandbox) it never yields.
    """
    try:
        plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError:
        await trio.sleep_forever()
    with trio.socket.from_stdlib_socket(plain) as sock:
        await sock.bind((0, _GROUPS))
        while True:
            await _receive(sock)
            await trio.sleep(settle)
            with trio.move_on_after(0):
                while True:
                    await _receive(sock)
            yield


async def _receive(sock: trio.socket.SocketType) -> None:
    try:
        await sock.recv(_AT_ONCE)
    except OSError:
        return  # ENOBUFS: so much has changed that some of it was dropped (netlink(7)); that is a change as well
