"""Asking other servers: sockets, time-outs and bounds around edgevpn/names/upstream.py.

Each question goes out on a socket of its own, connected to the one server, at a port of the kernel's choice. Servers
are tried in turn, ROUNDS times, within DEADLINE. The same question asked by several clients goes out once: so a
forwarder that leads back to us waits for itself until the time is over, and nothing multiplies. At most MAX_ASKING
questions are out at once; further ones fail at once (SERVFAIL), and the client's own resolver asks again.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import dns.rcode
import trio

from edgevpn.errors import UntrustedDataError
from edgevpn.names.cache import Cache, Key
from edgevpn.names.servers import Servers
from edgevpn.names.upstream import (
    MAX_REPLY,
    Asked,
    CaseLostError,
    TruncatedError,
    ask,
    is_large_untrusted,
    read_reply_untrusted,
)
from edgevpn.names.wire import Answer

DEADLINE: Final = 4.5  # seconds for one question in all
TRY: Final = 1.2  # for one server, by UDP
TRY_TCP: Final = 2.5
ROUNDS: Final = 2
MAX_ASKING: Final = 256
MAX_WRONG: Final = 64  # datagrams that are not the answer, before it is asked for by TCP

FAILED: Final = Answer(rcode=dns.rcode.SERVFAIL)
_USABLE: Final = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)


class Forwarder:
    """Answers by others, kept in a cache."""

    def __init__(self, servers: Servers, cache: Cache, count: Callable[[str], None]) -> None:
        self._servers = servers
        self._cache = cache
        self._count = count
        self._chance = random.SystemRandom()
        self._asking: dict[Key, tuple[trio.Event, list[Answer]]] = {}

    @property
    def asking(self) -> int:
        """Questions that are out now."""
        return len(self._asking)

    async def resolve(self, key: Key) -> Answer:
        """The answer from the cache or a server; SERVFAIL when there is none."""
        known = self._cache.get(key, trio.current_time())
        if known is not None:
            self._count("cache_hits")
            return known
        waiting = self._asking.get(key)
        if waiting is not None:
            self._count("forwards_joined")
            done, found = waiting
            await done.wait()
            return found[0] if found else FAILED
        if len(self._asking) >= MAX_ASKING:
            self._count("forwards_refused_busy")
            return FAILED
        done, found = self._asking[key] = trio.Event(), []
        try:
            answer = FAILED
            with trio.move_on_after(DEADLINE):
                answer = await self._try_all(key)
            found.append(answer)
            self._count("forwards_failed" if answer is FAILED else "forwards")
            self._cache.put(key, answer, trio.current_time())
            return answer
        finally:
            del self._asking[key]
            done.set()

    async def _try_all(self, key: Key) -> Answer:
        refusal = FAILED
        for _ in range(ROUNDS):
            for server in self._servers.order(trio.current_time()):
                answer = await self._try(server, key)
                if answer is None:
                    self._servers.failed(server, trio.current_time())
                    self._count("servers_silent")
                elif answer.rcode in _USABLE:
                    self._servers.answered(server)
                    return answer
                else:
                    refusal = Answer(rcode=answer.rcode if answer.rcode == dns.rcode.REFUSED else dns.rcode.SERVFAIL)
            if refusal is not FAILED:
                break  # all that answer say no: they will not think better of it
        return refusal

    async def _try(self, server: tuple[str, int], key: Key) -> Answer | None:
        """One server's answer; None when there is none in time."""
        asked = ask(
            key.name,
            key.rdtype,
            dnssec_ok=key.dnssec_ok,
            checking_disabled=key.checking_disabled,
            chance=self._chance,
        )
        try:
            with trio.move_on_after(TRY) as udp:
                return await self._by_udp(server, asked)
            if udp.cancelled_caught:
                return None
        except (TruncatedError, CaseLostError) as exc:
            self._count("forwards_by_tcp" if isinstance(exc, TruncatedError) else "replies_without_case")
        except OSError:
            return None
        try:
            with trio.move_on_after(TRY_TCP):
                return await _by_tcp(server, asked)
        except (OSError, trio.BrokenResourceError, UntrustedDataError):
            self._count("tcp_forwards_failed")
        return None

    async def _by_udp(self, server: tuple[str, int], asked: Asked) -> Answer:
        with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as sock:
            await sock.connect(server)
            await sock.send(asked.wire)
            for _ in range(MAX_WRONG):
                wire = await sock.recv(MAX_REPLY + 1)
                try:
                    return await _read_untrusted(wire, asked, tcp=False)
                except (TruncatedError, CaseLostError):
                    raise
                except UntrustedDataError:
                    self._count("replies_not_ours")
        raise CaseLostError("too many datagrams that are not the answer")


async def _by_tcp(server: tuple[str, int], asked: Asked) -> Answer:
    with trio.socket.socket(_family(server), socket.SOCK_STREAM) as sock:
        await sock.connect(server)
        stream = trio.SocketStream(sock)
        await stream.send_all(len(asked.wire).to_bytes(2, "big") + asked.wire)
        received = bytearray()
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            data = await stream.receive_some(4096)
            if not data:
                raise UntrustedDataError("the server hung up")
            received += data
            if len(received) > MAX_REPLY + 2:
                raise UntrustedDataError("a reply that is too large")
        return await _read_untrusted(bytes(received[2 : 2 + int.from_bytes(received[:2], "big")]), asked, tcp=True)


async def _read_untrusted(wire: bytes, asked: Asked, *, tcp: bool) -> Answer:
    """`read_reply_untrusted`; what may take long in a thread: meanwhile others are answered."""
    if is_large_untrusted(wire):
        return await trio.to_thread.run_sync(partial(read_reply_untrusted, wire, asked, tcp=tcp))
    return read_reply_untrusted(wire, asked, tcp=tcp)


def _family(server: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server[0] else socket.AF_INET
