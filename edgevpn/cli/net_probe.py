"""What `netcheck` and `doctor` find out of the network, without a node: each probe bounded in time."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import trio

from edgevpn.config import check_multiaddr
from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import stun

STUN_SERVERS = ("stun.l.google.com:19302", "stun.cloudflare.com:3478")
STUN_TIME = 3.0
CONNECT_TIME = 5.0
_RESEND = 0.5
_MULTISTREAM = b"\x13/multistream/1.0.0\n"


@dataclass
class Udp:
    """UDP of one address family: who answered (server -> how it sees us), the round trips, and what that means."""

    family: str
    local: str = ""  # the address that packets to the internet leave from; "": no route
    seen: dict[str, stun.Seen] = field(default_factory=dict)
    rtt_ms: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)

    @property
    def nat(self) -> str:
        if not self.local:
            return "no route"
        if not self.asked:
            return "unknown"
        return stun.nat_kind(local_addresses(), self.seen)


def local_addresses() -> dict[str, list[str]]:
    """Addresses of the machine, without loopback and link-local ones, and the interfaces that have them."""
    found: dict[str, list[str]] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            text = one.address.partition("%")[0]
            if one.family in (socket.AF_INET, socket.AF_INET6) and not text.startswith(("127.", "fe80:", "::1")):
                found.setdefault(text, []).append(name)
    return found


def source_address(family: int) -> str:
    """The address from which packets to the internet would leave; "" without a route. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))
            return str(sock.getsockname()[0])
        except OSError:
            return ""


async def udp(family: int, servers: Sequence[str]) -> Udp:
    """Ask STUN servers ("HOST:PORT") from one socket, for at most STUN_TIME seconds."""
    found = Udp("IPv6" if family == socket.AF_INET6 else "IPv4")
    try:
        found.local = source_address(family)
    except OSError:
        return found  # a kernel without that family
    if not found.local and not any(_is_local(server) for server in servers):
        return found
    targets: dict[bytes, tuple[str, tuple[object, ...]]] = {}
    for server in servers:
        host, port = split_host(server)
        try:
            with trio.fail_after(STUN_TIME):
                infos = await trio.socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)
        except (OSError, UnicodeError, trio.TooSlowError):
            found.unresolved.append(server)
            continue
        found.asked.append(server)
        targets[secrets.token_bytes(stun.TRANSACTION)] = (server, infos[0][4])
    if not targets:
        return found
    sent: dict[str, float] = {}
    found.local = found.local or str(next(iter(targets.values()))[1][0])
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock, trio.move_on_after(STUN_TIME) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask_again, sock, targets, found, sent, scope)
            await _hear(sock, targets, found, sent)
            nursery.cancel_scope.cancel()
    return found


async def _ask_again(
    sock: trio.socket.SocketType,
    targets: dict[bytes, tuple[str, tuple[object, ...]]],
    found: Udp,
    sent: dict[str, float],
    scope: trio.CancelScope,
) -> None:
    while True:
        for transaction, (server, address) in targets.items():
            if server not in found.seen:
                sent.setdefault(server, time.perf_counter())
                with suppress(OSError):
                    await sock.sendto(stun.write_request(transaction), address)
        await trio.sleep(_RESEND)
        if found.seen:
            scope.deadline = min(scope.deadline, trio.current_time() + 2 * _RESEND)  # the others are given up sooner


async def _hear(
    sock: trio.socket.SocketType,
    targets: dict[bytes, tuple[str, tuple[object, ...]]],
    found: Udp,
    sent: dict[str, float],
) -> None:
    while len(found.seen) < len(targets):
        try:
            data = await sock.recv(stun.MAX_ANSWER + 1)
            transaction, seen = stun.read_answer_untrusted(data, targets)
        except (OSError, UntrustedDataError):
            continue
        server = targets[transaction][0]
        if server not in found.seen:
            found.seen[server] = seen
            found.rtt_ms[server] = round((time.perf_counter() - sent[server]) * 1000, 2)


async def reach_bootstrap(multiaddr: str) -> str:
    """ "" when a libp2p node answers at a TCP multiaddr, else why not."""
    try:
        names = check_multiaddr(multiaddr)
    except UsageError as exc:
        return str(exc)
    parts = multiaddr.split("/")
    if names[:1] == ("dnsaddr",):
        return "a dnsaddr: the node looks it up itself, it is not tried here"
    if len(names) < 2 or names[1] != "tcp" or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        return "not TCP: it is not used"
    try:
        with trio.fail_after(CONNECT_TIME):
            stream = await trio.open_tcp_stream(parts[2], int(parts[4]))
            async with stream:
                await stream.send_all(_MULTISTREAM)
                heard = b""
                while len(heard) < len(_MULTISTREAM):
                    data = await stream.receive_some(64)
                    if not data:
                        return "it hung up: is a libp2p node there?"
                    heard += data
                return "" if heard.startswith(_MULTISTREAM) else "something else than a libp2p node answers"
    except trio.TooSlowError:
        return f"no answer within {CONNECT_TIME:g} s: is the address right, and TCP let through?"
    except (OSError, trio.BrokenResourceError) as exc:
        return f"can't connect: {exc.strerror or exc if isinstance(exc, OSError) else 'it hung up'}"


def split_host(text: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT" or "[IPV6]:PORT". Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{text!r} is no STUN server: write it like stun.example.org:3478")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_local(server: str) -> bool:
    return split_host(server)[0] in ("127.0.0.1", "::1", "localhost") or split_host(server)[0] in local_addresses()


def addressed(server: str) -> str:
    """A server's address as its seen form."""
    return f"[{server}]" if ":" in server else server
