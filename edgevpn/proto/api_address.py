"""Where the HTTP API is served: the text of `--api-listen`, read and checked. Pure.

`ADDRESS:PORT`, `[IPV6]:PORT`, `localhost:PORT`, `:PORT` (every address, as the Go program has it) or `unix:///PATH`.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from edgevpn.errors import UsageError

UNIX = "unix://"
_MAX_SOCKET_PATH = 107  # sun_path is 108 bytes with its NUL


class ApiAddress(NamedTuple):
    """`path` of a Unix socket, or an IP address and a TCP port (0: any free one)."""

    path: str
    ip: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return bool(self.path) or ipaddress.ip_address(self.ip).is_loopback

    @property
    def is_wildcard(self) -> bool:
        return not self.path and ipaddress.ip_address(self.ip).is_unspecified

    def text(self, port: int | None = None) -> str:
        """As it is written in a URL's authority; `port`: the one that was really got."""
        if self.path:
            return UNIX + self.path
        return f"[{self.ip}]:{port or self.port}" if ":" in self.ip else f"{self.ip}:{port or self.port}"

    def url(self, port: int | None = None) -> str:
        """How a browser on this machine gets there; "" for a Unix socket."""
        if self.path:
            return ""
        here = self._replace(ip="127.0.0.1") if self.is_wildcard else self
        return f"http://{here.text(port)}"


def parse_api_address(text: str) -> ApiAddress:
    """Raises UsageError."""
    given = text.strip()
    if given.startswith(UNIX):
        path = given.removeprefix(UNIX)
        if not path.startswith("/"):
            raise UsageError(f"{given!r} has no absolute path: write it like unix:///run/edgevpn-api.sock")
        if len(path.encode()) > _MAX_SOCKET_PATH:
            raise UsageError(f"{given!r} is too long a path for a Unix socket: choose a shorter one")
        return ApiAddress(path, "", 0)
    host, colon, port = given.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"{given!r} has no port: write it like 127.0.0.1:8080 or unix:///PATH")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    names = {"": "::", "localhost": "127.0.0.1"}
    try:
        ip = ipaddress.ip_address(names.get(host.lower(), host))
    except ValueError:
        raise UsageError(f"{given!r} has no IP address: write it like 127.0.0.1:8080 or unix:///PATH") from None
    return ApiAddress("", str(ip), int(port))
