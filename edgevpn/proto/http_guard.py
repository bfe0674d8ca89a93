"""Who may speak with the HTTP API: Host, Origin and credentials of one request, judged before anything else. Pure.

Three things are asked of every request, in this order:

1. Host names us. A page whose name was made to point at 127.0.0.1 (DNS rebinding) sends its own name: only IP
   addresses that we listen on, `localhost`, and names that were allowed are taken. Over a Unix socket there is no name.
2. Origin, where a browser sends it, is our own: scheme and the very authority of Host (RFC 6454); so is
   Sec-Fetch-Site (Fetch Metadata). Pages of others can't even send what they couldn't read the answer of.
3. Credentials: `Authorization: Bearer TOKEN` (RFC 6750), compared in constant time, or the kernel's word that the
   other end of a Unix socket is root or the node's user.

Only the dashboard's own files are given without the third: they hold nothing, and ask for the token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edgevpn.proto.api_address import ApiAddress

Headers = Sequence[tuple[bytes, bytes]]  # names in lower case, as ASGI has them


@dataclass(frozen=True)
class Rules:
    """`token` b"": no credentials are asked for. `hosts`: names and addresses, lower case; `any_ip`: any literal."""

    token: bytes = field(repr=False)
    hosts: frozenset[str]
    any_ip: bool = False
    is_unix: bool = False


class Refusal(NamedTuple):
    """What the client is told."""

    status: int
    message: str


WRONG_HOST = Refusal(403, "this is not a host name of the API: use its address, or allow the name with --api-host")
FOREIGN_ORIGIN = Refusal(403, "pages of other origins may not use the API")
NO_CREDENTIALS = Refusal(401, "give the token as `Authorization: Bearer TOKEN`: `edgevpn api-url` tells it")
WRONG_CREDENTIALS = Refusal(401, "that is not the token of this run of the node: `edgevpn api-url` tells it")


def rules_for(address: ApiAddress, token: bytes, names: Sequence[str]) -> Rules:
    """`names`: what --api-host allows besides."""
    if address.path:
        return Rules(token, frozenset(), is_unix=True)
    hosts = {name.lower() for name in names}
    if address.is_local or address.is_wildcard:
        hosts |= {"localhost", "127.0.0.1", "::1"}
    return Rules(token, frozenset(hosts | {address.ip}), any_ip=address.is_wildcard)


def judge(headers: Headers, rules: Rules, *, public: bool, known_peer: bool) -> Refusal | None:
    """None: it may go on. `public`: a file of the dashboard's; `known_peer`: the kernel vouches for the other end."""
    hosts = _all(headers, b"host")
    if not rules.is_unix and (len(hosts) != 1 or not _is_ours(hosts[0], rules)):
        return WRONG_HOST
    host = hosts[0].lower() if hosts else ""
    for origin in _all(headers, b"origin"):
        if not host or origin.lower() not in (f"http://{host}", f"https://{host}"):
            return FOREIGN_ORIGIN
    if public:
        return None
    for site in _all(headers, b"sec-fetch-site"):
        if site.lower() not in ("same-origin", "none"):
            return FOREIGN_ORIGIN
    if known_peer or not rules.token:
        return None
    given = [value for name, value in headers if name == b"authorization"]
    if len(given) != 1:
        return NO_CREDENTIALS
    scheme, _, token = given[0].strip().partition(b" ")
    if scheme.lower() != b"bearer":
        return NO_CREDENTIALS
    return None if hmac.compare_digest(token.strip(), rules.token) else WRONG_CREDENTIALS


def _all(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _is_ours(authority: str, rules: Rules) -> bool:
    name = _name_untrusted(authority)
    if not name:
        return False
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name in rules.hosts
    return rules.any_ip or str(ip) in rules.hosts


def _name_untrusted(authority: str) -> str:
    """The host of "host", "host:port" or "[ipv6]:port", lower case; "" when it is none of these."""
    if authority.startswith("["):
        name, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return ""
        port = port[1:]
    else:
        name, _, port = authority.partition(":")
    return name.lower() if not port or (port.isascii() and port.isdigit()) else ""
