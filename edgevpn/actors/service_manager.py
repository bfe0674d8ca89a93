"""What a service manager is told: readiness, state, and that we live (sd_notify(3), sd_watchdog_enabled(3)).

A datagram of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names ("@" stands for the abstract namespace).
Nothing is said without that variable, and a manager that does not listen costs nothing. With WATCHDOG_USEC the
manager ends us when we are silent for so long; we speak twice in that time, from the supervisor's loop, so that a
loop that hangs is silent. The variables are taken out of the environment: they are not for our children.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

import trio

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """The manager that `environ` tells of, if it does; its variables are removed from there."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        found = {name: environ.pop(name, "") for name in _VARIABLES}
        address = found["NOTIFY_SOCKET"]
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = 0.0  # 0: it does not watch
        if found["WATCHDOG_USEC"].isdigit() and found["WATCHDOG_PID"] in ("", str(os.getpid())):
            self.watchdog_s = int(found["WATCHDOG_USEC"]) / 1e6
        self._told: dict[str, str] = {}

    def tell(self, **facts: str) -> None:
        """Send what is new of `facts`, like READY="1"."""
        news = {name: value for name, value in facts.items() if self._told.get(name) != value}
        if self._address and news:
            self._told |= news
            self._send("\n".join(f"{name}={' '.join(value.split())}" for name, value in news.items()))

    async def keep_alive(self) -> None:
        """Say so twice in the manager's time, until cancelled."""
        while self._address and self.watchdog_s:
            self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / 2)

    def _send(self, text: str) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(text.encode(), self._address)
