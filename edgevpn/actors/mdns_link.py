"""Multicast DNS on every link of the machine: the sockets and the clock around `edgevpn.proto.mdns.MdnsNode`.

One socket and one MdnsNode an interface, bound to the group's address so that it hears only that group, and only on
its interface (IP_MULTICAST_ALL off, ip(7)). IPv4 is used where an interface has it, IPv6 where it has nothing else.
Interfaces come and go: they are looked at again every RESCAN seconds. Only addresses of the interface that is asked
on are told on it.
"""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import trio

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.mdns import GROUP_V4, GROUP_V6, MAX_RECEIVE, PORT, FoundAddress, MdnsNode

RESCAN = 5.0
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_TTL = 255  # RFC 6762 section 11

Found = Callable[[tuple[FoundAddress, ...]], None]


@dataclass(frozen=True, slots=True)
class Link:
    """An interface that can multicast: index, name, address family to speak, and its addresses."""

    index: int
    name: str
    family: socket.AddressFamily
    addresses: frozenset[str]


def links(exclude: Iterable[str]) -> dict[str, Link]:
    """The links to speak on, by name: up, not loopback, not in `exclude`."""
    found: dict[str, Link] = {}
    skip = set(exclude)
    stats = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        if name in skip or name not in stats or not stats[name].isup:
            continue
        flags = stats[name].flags.split(",")
        if "loopback" in flags or "multicast" not in flags or "pointopoint" in flags:
            continue
        v4 = [a.address for a in addresses if a.family == socket.AF_INET]
        v6 = [a.address.partition("%")[0] for a in addresses if a.family == socket.AF_INET6]
        if not v4 and not v6:
            continue
        family = socket.AF_INET if v4 else socket.AF_INET6
        with suppress(OSError):  # gone since it was listed
            found[name] = Link(socket.if_nametoindex(name), name, family, frozenset(v4 + v6))
    return found


def addresses_on(link: Link, listen: Iterable[str]) -> tuple[str, ...]:
    """Those of the listening multiaddrs that are addresses of this link, without link-local ones (they need a zone)."""
    mine = []
    for multiaddr in listen:
        parts = multiaddr.split("/")
        if len(parts) > 2 and parts[2] in link.addresses and not ipaddress.ip_address(parts[2]).is_link_local:
            mine.append(multiaddr)
    return tuple(mine)


@dataclass
class Counted:
    """Datagrams, and their bytes without UDP's and IP's headers."""

    datagrams: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.datagrams += 1
        self.bytes += size


class MdnsLinks:
    """mDNS on all links: tells others where we listen, and `found` of what others tell."""

    def __init__(
        self, service: str, peer_id: str, exclude: Iterable[str], found: Found, bad: Callable[[], None]
    ) -> None:
        self._service = service
        self._peer_id = peer_id
        self._exclude = tuple(exclude)
        self._found = found
        self._bad = bad
        self._listen: tuple[str, ...] = ()
        self._wakers: set[Callable[[], None]] = set()
        self._nodes: set[MdnsNode] = set()
        self.speaking: dict[str, Link] = {}
        self.sent, self.received = Counted(), Counted()  # what else we hear of what we send counts, too

    def listening(self, multiaddrs: Iterable[str]) -> None:
        """We listen there now (multiaddrs without /p2p)."""
        self._listen = tuple(multiaddrs)
        for wake in self._wakers:
            wake()

    def ask_again(self) -> None:
        """Ask as at the start: the machine slept, perhaps."""
        for node in self._nodes:
            node.ask_again(trio.current_time())
        for wake in self._wakers:
            wake()

    def forget(self, peer_id: str) -> None:
        """It could not be reached, or is gone: let it answer again if it is there."""
        for node in self._nodes:
            node.forget(peer_id, trio.current_time())
        for wake in self._wakers:
            wake()

    async def run(self) -> None:
        scopes: dict[str, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                present = links(self._exclude)
                for name in [name for name, link in self.speaking.items() if present.get(name) != link]:
                    scopes.pop(name).cancel()
                    del self.speaking[name]
                for name, link in present.items():
                    if name not in self.speaking:
                        scopes[name] = trio.CancelScope()
                        self.speaking[name] = link
                        nursery.start_soon(self._speak, link, scopes[name])
                await trio.sleep(RESCAN)

    async def _speak(self, link: Link, scope: trio.CancelScope) -> None:
        with scope:
            try:
                sock = open_link(link)
            except OSError:
                return  # the interface changed under us; the next scan sees it
            group = (GROUP_V4, PORT) if link.family == socket.AF_INET else (GROUP_V6, PORT, 0, link.index)
            node = MdnsNode(self._service, self._peer_id, random.Random(), trio.current_time())  # noqa: S311
            heard = trio.Event()

            def wake() -> None:
                heard.set()

            async def receive() -> None:
                while True:
                    data = await sock.recv(MAX_RECEIVE + 1)
                    self.received.add(len(data))
                    try:
                        fresh = node.receive_untrusted(data, trio.current_time())
                    except UntrustedDataError:
                        self._bad()
                        continue
                    if fresh:
                        self._found(fresh)
                    wake()

            self._wakers.add(wake)
            self._nodes.add(node)
            with sock:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(receive)
                        while True:
                            heard = trio.Event()
                            node.announce(addresses_on(link, self._listen), trio.current_time())
                            for datagram in node.poll(trio.current_time()):
                                with suppress(OSError):  # no route for a moment: the next one will do
                                    await sock.sendto(datagram, group)
                                    self.sent.add(len(datagram))
                            with trio.move_on_at(node.next_wakeup()):
                                await heard.wait()
                finally:
                    self._wakers.discard(wake)
                    self._nodes.discard(node)
                    with trio.CancelScope(shield=True), trio.move_on_after(0.1), suppress(OSError):
                        for datagram in node.goodbye():
                            await sock.sendto(datagram, group)


def open_link(link: Link) -> trio.socket.SocketType:
    """A socket that hears and speaks mDNS on one link."""
    sock = socket.socket(link.family, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if link.family == socket.AF_INET:
            mreqn = struct.pack("=4s4si", socket.inet_aton(GROUP_V4), bytes(4), link.index)
            sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            sock.bind((GROUP_V4, PORT))
        else:
            mreq = socket.inet_pton(socket.AF_INET6, GROUP_V6) + struct.pack("=I", link.index)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, mreq)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link.index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _TTL)
            sock.bind((GROUP_V6, PORT, 0, link.index))
    except OSError:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)
