"""The tun actor's part of the datagram path that waits: handshakes, the clock, and who is connected.

A handshake is made with each connected peer that has a route and knows the protocol: by the side with the lower peer ID
when they meet, by us with everybody when this actor starts (the keys went with the one before it), and by whoever sees
the keys grow old or the peer fall silent. Keys are used by edgevpn/tun/datagram_engine.py in the packet thread.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from edgevpn.actors.client import apply
from edgevpn.actors.host_link import HostLink
from edgevpn.actors.own_links import changes
from edgevpn.actors.shell import Shell
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.host_service import Inbound
from edgevpn.proto.datagram import SEVERAL, Address
from edgevpn.proto.datagram_handshake import (
    AES_256_GCM,
    ANSWER_HEAD,
    CHACHA20_POLY1305,
    MAX_CANDIDATES,
    OFFER_HEAD,
    Agreed,
    Offering,
    Terms,
    answer_untrusted,
    candidates_size_untrusted,
)
from edgevpn.proto.datagram_repair import CODES, REPAIRS
from edgevpn.proto.messages import Body, HostSelf, PeerState
from edgevpn.proto.packet_stream import Hello
from edgevpn.proto.protocols import DATAGRAM
from edgevpn.proto.relayed import without_relayed
from edgevpn.tun.datagram_engine import DatagramEngine
from edgevpn.tun.lone import shorten
from edgevpn.tun.packet_thread import PacketThread
from edgevpn.tun.router import Router
from edgevpn.tunnels.relay import read_exactly

TIMEOUT = 5.0
SETTLE = 0.05  # seconds after a change of this machine's addresses
_LOOKS, _LOOK_EACH = 5.0, 2.0  # so many at once, and one more in so many seconds
_AT_ONCE = 32
_MAPPINGS_EACH = 0.5  # seconds between two looks at where peers see us
_EAGER = 256  # links made without a packet


def preferred_ciphers() -> tuple[int, int]:
    """The bits we offer, and the one we choose. AES without the instructions for it is slow, and leaks by timing."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        flags = ""
    words = set(flags.split())
    if "aes" in words:
        return AES_256_GCM | CHACHA20_POLY1305, AES_256_GCM
    return CHACHA20_POLY1305, CHACHA20_POLY1305


class Datagrams:
    """Keeps the engine's links: makes sessions, ticks."""

    def __init__(
        self,
        shell: Shell,
        link: HostLink,
        thread: PacketThread,
        sockets: Mapping[int, socket.socket],
        hello: Hello,
        router: Callable[[], Router],
    ) -> None:
        self._shell = shell
        self._link = link
        self._thread = thread
        self._hello = hello
        self._router = router
        self._wake = trio.Event()
        repairs = shell.config.repair == "auto"
        self._flags = hello.flags | SEVERAL | (REPAIRS | CODES if repairs else 0)
        self.engine = DatagramEngine(sockets, shell.config.mtu, lambda: thread.in_trio(self._rouse), repairs=repairs)
        shorten(self.engine)
        self._ports = {family: sock.getsockname()[1] for family, sock in sockets.items()}
        self._families = sockets
        self._ciphers, self._prefer = preferred_ciphers()
        self._self: dict[str, Body] = {}
        self._peers: dict[str, Body] = {}
        self._limit = trio.CapacityLimiter(_AT_ONCE)
        self._answering: set[str] = set()
        self._forsaken: set[str] = set()
        self._told: set[Address] = set()
        self._asked_at = 0.0

    def _rouse(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        for family, sock in self._families.items():
            self._thread.add(sock.fileno(), partial(self.engine.on_readable, family))
        self._thread.add_timer(self.engine.repairs.on_timer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_self)
            nursery.start_soon(self._follow_peers)
            nursery.start_soon(self._follow_links)
            nursery.start_soon(self._serve, nursery)
            while True:
                self._wake = trio.Event()
                with self._thread.paused():
                    pause = self.engine.tick()
                self._tell_of_mappings()
                self._begin_handshakes(nursery)
                with trio.move_on_after(pause):
                    await self._wake.wait()

    # --- who is there

    async def _follow_self(self) -> None:
        told: set[str] = set()
        async with self._shell.client("host").watch("self") as updates:
            async for update in updates:
                apply(self._self, update)
                host = self._self.get("host")
                ours = set(without_relayed(host.listen)) if isinstance(host, HostSelf) else set()
                if not ours <= told:
                    self.renew()
                told = ours
                self._rouse()

    async def _follow_links(self) -> None:
        left, last = _LOOKS, time.monotonic()
        async for _ in changes(SETTLE):
            now = time.monotonic()
            left, last = min(_LOOKS, left + (now - last) / _LOOK_EACH), now
            if left < 1:  # a router's routes change all day
                await trio.sleep(_LOOK_EACH)
            left -= 1
            with self._thread.paused():
                self.engine.look()
            self._rouse()

    def _tell_of_mappings(self) -> None:
        """Who has no way to us is told at once where a NAT has put us, by new keys; others hear it with their next."""
        now = time.monotonic()
        if now - self._asked_at < _MAPPINGS_EACH:
            return
        self._asked_at = now
        candidates = set(self._candidates())
        if candidates <= self._told:
            return
        self._told = candidates
        for link in self.engine.links.values():
            if not link.is_live:
                link.renew(now)

    def renew(self) -> None:
        """Make new keys with everybody soon: that is also how peers learn of our addresses."""
        now = time.monotonic()
        with self._thread.paused():
            for link in self.engine.links.values():
                link.renew(now)
        self._rouse()

    async def _follow_peers(self) -> None:
        first = True
        async with self._shell.client("host").watch("peers") as updates:
            async for update in updates:
                apply(self._peers, update)
                if first:  # they may have keys of the actor before this one
                    self._forsaken = set(self._peers)
                    first = False
                self.routes_changed()

    @property
    def _peer_id(self) -> str:
        host = self._self.get("host")
        return host.peer_id if isinstance(host, HostSelf) else ""

    def consider(self, peer: str, *, needed: bool = False) -> None:
        """Make a link to a peer that may have one. `needed`: a packet waits."""
        if peer in self.engine.links or (len(self.engine.links) >= _EAGER and not needed):
            return
        state = self._peers.get(peer)
        if not isinstance(state, PeerState) or not self._router().knows(peer):
            return
        if DATAGRAM not in state.protocols:
            return  # not identified yet, or not one of ours
        now = time.monotonic()
        with self._thread.paused():
            link = self.engine.link(peer, now)
            if not needed and self._peer_id > peer and peer not in self._forsaken:
                link.leave_handshake_to_peer(now)
            self._forsaken.discard(peer)
        self._rouse()

    def routes_changed(self) -> None:
        """Routes, or who is connected."""
        for peer in list(self._peers):
            self.consider(peer)

    def _candidates(self) -> list[Address]:
        """Where datagrams may reach us: where peers see them come from (a NAT's port), the address that a NAT gives our
        connections, with our own port (many NATs keep it), and the host's addresses, but none that the VPN itself has.
        """
        host = self._self.get("host")
        if not isinstance(host, HostSelf):
            return []
        own = self._router().own
        local = [text for addr in without_relayed(host.listen) if (text := _ip_of(addr))]
        found: dict[Address, None] = dict.fromkeys(self._mapped(local))
        for text in (*host.observed, *local):
            ip = ipaddress.ip_address(text)
            port = self._ports.get(socket.AF_INET6 if ip.version == 6 else socket.AF_INET)
            if port and not (ip.is_link_local or ip.is_unspecified or ip.packed in own):
                found[str(ip), port] = None
        return list(found)[:MAX_CANDIDATES]

    def _mapped(self, local: list[str]) -> list[Address]:
        """Where peers see our datagrams come from, if that is none of our own addresses."""
        own = self._router().own
        seen = [address for address in self.engine.observed() if address[0] not in local]
        return [address for address in seen if ipaddress.ip_address(address[0]).packed not in own]

    def _observed(self, peer: str, port: int) -> list[Address]:
        """The peer's address as its connections show it, with its port for datagrams."""
        state = self._peers.get(peer)
        found: list[Address] = []
        for addr in without_relayed(state.remotes) if isinstance(state, PeerState) else ():
            if ip := _ip_of(addr):
                found.append((ip, port))
        return found

    # --- handshakes

    def _begin_handshakes(self, nursery: trio.Nursery) -> None:
        now = time.monotonic()
        if not self._peer_id:
            return
        for peer, link in list(self.engine.links.items()):
            if link.wants_handshake(now) and peer in self._peers:
                link.handshake_began(now)
                nursery.start_soon(self._offer, peer)

    async def _offer(self, peer: str) -> None:
        """Make a session with a peer. What fails is tried again after a pause."""
        reason = "the handshake took too long"
        async with self._limit:
            with trio.move_on_after(TIMEOUT):
                number = self.engine.new_number()
                terms = Terms(self._flags, self._ciphers, self._hello.mtu, number, tuple(self._candidates()))
                offering = Offering(terms, self._peer_id, peer)
                try:
                    _, stream = await self._link.dial(peer, (DATAGRAM,))
                    async with stream:
                        await stream.send_all(offering.message)
                        answer = await _read_message_untrusted(stream, ANSWER_HEAD)
                    agreed = offering.finish_untrusted(answer)
                except UntrustedDataError as exc:
                    self._shell.warn("datagram_handshakes_refused", peer=peer, reason=str(exc))
                    reason = str(exc)
                except (EdgevpnError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                    reason = f"no handshake: {exc or 'the stream ended'}"
                else:
                    self._shell.count("datagram_handshakes")
                    self._add(peer, agreed, number, initiated=True)
                    return
        if peer in self.engine.links:
            self.engine.links[peer].handshake_failed(time.monotonic(), reason)
            self._rouse()

    def _add(self, peer: str, agreed: Agreed, number: int, *, initiated: bool) -> None:
        with self._thread.paused():
            link = self.engine.link(peer, time.monotonic())
            for _, port in agreed.terms.candidates[:1]:
                link.add_candidates(self._observed(peer, port))
            self.engine.add_session(peer, agreed, number, initiated=initiated)
        self._rouse()

    async def _serve(self, nursery: trio.Nursery) -> None:
        while True:
            async with self._link.serve((DATAGRAM,)) as streams:
                async for inbound in streams:
                    nursery.start_soon(self._answer, inbound)
            await trio.sleep(0.01)  # the host went away

    async def _answer(self, inbound: Inbound) -> None:
        peer = inbound.peer_id
        if not self._router().knows(peer) or peer in self._answering or not self._peer_id:
            self._shell.count("datagram_handshakes_of_strangers")
            await trio.aclose_forcefully(inbound.stream)
            return
        self._answering.add(peer)
        try:
            async with self._limit:
                with trio.move_on_after(TIMEOUT):
                    async with inbound.stream as stream:
                        offer = await _read_message_untrusted(stream, OFFER_HEAD)
                        number = self.engine.new_number()
                        message, agreed = answer_untrusted(
                            offer,
                            self._flags,
                            self._hello.mtu,
                            number,
                            self._candidates(),
                            self._prefer,
                            peer,
                            self._peer_id,
                        )
                        self._add(peer, agreed, number, initiated=False)
                        await stream.send_all(message)
        except UntrustedDataError as exc:
            self._shell.warn("datagram_handshakes_refused", peer=peer, reason=str(exc))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._shell.count("datagram_handshakes_broken")
        finally:
            self._answering.discard(peer)


def _ip_of(multiaddr: str) -> str:
    """The IP address that it begins with; "" without one."""
    parts = multiaddr.split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else ""


async def _read_message_untrusted(stream: trio.abc.ReceiveStream, head: int) -> bytes:
    """An offer or an answer. Raises UntrustedDataError, or trio.BrokenResourceError when nothing came."""
    data = await read_exactly(stream, head, may_end=True)
    return data + await read_exactly(stream, candidates_size_untrusted(data))
