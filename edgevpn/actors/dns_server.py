"""Serving DNS on sockets that listen: UDP and TCP (RFC 7766) around edgevpn/names.

Names of the VPN are answered in the turn in which the query was read, from a memo of replies where it can be. What has
to be asked elsewhere becomes a task; MAX_TASKS of them at once, further queries are answered SERVFAIL.

By TCP a client may send query after query; it is heard for IDLE seconds after the last one. MAX_CLIENTS connections are
served at once, MAX_FROM_ONE from one address; who comes then is closed at once.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

import dns.name
import dns.rcode
import trio

from edgevpn.actors.dns_forward import Forwarder
from edgevpn.actors.listeners import IP_PKTINFO
from edgevpn.names.cache import Key
from edgevpn.names.responder import Names, may_recurse
from edgevpn.names.wire import (
    MAX_QUERY,
    Answer,
    BadQueryError,
    Query,
    ReplyMemo,
    as_asked,
    read_query_untrusted,
    write_reply,
)

IDLE: Final = 10.0
MAX_TASKS: Final = 512
MAX_CLIENTS: Final = 64
MAX_FROM_ONE: Final = 16
BATCH: Final = 16  # datagrams read in one turn
_ANCILLARY: Final = 64  # bytes: one struct in6_pktinfo

_REFUSED: Final = Answer(rcode=dns.rcode.REFUSED)
_SERVFAIL: Final = Answer(rcode=dns.rcode.SERVFAIL)


class DnsServer:
    """Answers queries. `names` may be replaced at any moment, by `use`."""

    def __init__(
        self, names: Names, forwarder: Forwarder | None, nursery: trio.Nursery, count: Callable[[str], None]
    ) -> None:
        """`forwarder` None: names that are not the VPN's are refused."""
        self.names = names
        self.tasks = 0
        self.clients: Counter[str] = Counter()
        self.memo: Final = ReplyMemo()
        self._forwarder = forwarder
        self._nursery = nursery
        self._count = count

    def use(self, names: Names) -> None:
        self.names = names
        self.memo.clear()

    # --- one query

    def _at_once(self, wire: bytes, client: str, *, tcp: bool) -> bytes | tuple[Query, Answer | None]:
        """The reply (b"" for none), or the query and what is known of its answer, of which the rest is elsewhere."""
        if not tcp:
            known = self.memo.get(wire)
            if known is not None:
                return known
        try:
            query = read_query_untrusted(wire)
        except BadQueryError as exc:
            self._count("queries_malformed")
            return exc.reply
        answer = self.names.answer(query)
        can_forward = self._forwarder is not None
        if answer is not None and answer.chase is None:
            reply = write_reply(query, answer, tcp=tcp, recursion_available=can_forward)
            if not tcp:
                self.memo.put(wire, reply)
            return reply
        if not can_forward or not query.recursion_desired or not may_recurse(client, self.names.zone.networks):
            self._count("queries_refused")
            return write_reply(query, answer or _REFUSED, tcp=tcp, recursion_available=can_forward)
        if self.tasks >= MAX_TASKS:
            self._count("queries_refused_busy")
            return write_reply(query, _SERVFAIL, tcp=tcp, recursion_available=True)
        return query, answer

    async def _elsewhere(self, query: Query, known: Answer | None, *, tcp: bool) -> bytes:
        """The reply to what others must be asked for."""
        if self._forwarder is None:
            raise RuntimeError("there is no forwarder")
        name = query.name if known is None or known.chase is None else known.chase
        key = Key(dns.name.Name(_lower(name)), query.rdtype, query.dnssec_ok, query.checking_disabled)
        self.tasks += 1
        try:
            found = await self._forwarder.resolve(key)
        finally:
            self.tasks -= 1
        if known is not None:
            found = Answer(found.rcode, known.answer + found.answer, found.authority)
        return write_reply(query, as_asked(found, query.name), tcp=tcp, recursion_available=True)

    # --- UDP

    async def serve_udp(self, sock: socket.socket) -> None:
        """Serve one socket, for ever."""
        while True:
            await trio.lowlevel.wait_readable(sock.fileno())
            for _ in range(BATCH):
                try:
                    wire, ancillary, _, client = sock.recvmsg(MAX_QUERY + 1, _ANCILLARY)
                except BlockingIOError:
                    break
                except OSError:  # of an earlier reply: its client is gone
                    continue
                self._count("queries_udp")
                source = _source(ancillary)
                found = self._at_once(wire, client[0], tcp=False)
                if isinstance(found, bytes):
                    self._send(sock, found, source, client)
                else:
                    self._nursery.start_soon(self._answer_later, sock, *found, source, client)

    async def _answer_later(
        self, sock: socket.socket, query: Query, known: Answer | None, source: list[_Ancillary], client: _Client
    ) -> None:
        self._send(sock, await self._elsewhere(query, known, tcp=False), source, client)

    def _send(self, sock: socket.socket, reply: bytes, source: list[_Ancillary], client: _Client) -> None:
        if not reply:
            return
        try:
            sock.sendmsg([reply], source, 0, client)
        except OSError:  # a full buffer, a client that is gone: it asks again
            self._count("replies_not_sent")

    # --- TCP

    async def serve_tcp(self, sock: socket.socket) -> None:
        """Serve one listening socket, for ever."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        while True:
            try:
                stream = await listener.accept()
            except OSError:
                await trio.sleep(0.1)  # descriptors come back as clients leave
                continue
            self._nursery.start_soon(self._serve_client, stream)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                client: str = stream.socket.getpeername()[0]
            except OSError:
                return
            if self.clients.total() >= MAX_CLIENTS or self.clients[client] >= MAX_FROM_ONE:
                self._count("clients_refused")
                return
            self.clients[client] += 1
            try:
                await self._converse(stream, client)
            except trio.BrokenResourceError:
                pass  # it hung up
            finally:
                self.clients[client] -= 1
                if not self.clients[client]:
                    del self.clients[client]

    async def _converse(self, stream: trio.SocketStream, client: str) -> None:
        received = bytearray()
        while True:
            with trio.move_on_after(IDLE) as patience:
                while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
                    data = await stream.receive_some(4096)
                    if not data:
                        return
                    received += data
                    if int.from_bytes(received[:2], "big") > MAX_QUERY and len(received) >= 2:
                        self._count("queries_malformed")
                        return
            if patience.cancelled_caught:
                return
            end = 2 + int.from_bytes(received[:2], "big")
            wire = bytes(received[2:end])
            del received[:end]
            self._count("queries_tcp")
            found = self._at_once(wire, client, tcp=True)
            reply = found if isinstance(found, bytes) else await self._elsewhere(*found, tcp=True)
            if not reply:
                return
            with trio.move_on_after(IDLE) as patience:
                await stream.send_all(len(reply).to_bytes(2, "big") + reply)
            if patience.cancelled_caught:
                return


_Ancillary = tuple[int, int, bytes]
_Client = tuple[str, int] | tuple[str, int, int, int]


def _source(ancillary: list[_Ancillary]) -> list[_Ancillary]:
    """What makes the reply come from the address that the query went to, on a socket bound to all."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, local, _ = struct.unpack("=I4s4s", data[:12])
            return [(level, kind, struct.pack("=I4s4s", 0, local, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return [(level, kind, data)]
    return []


def _lower(name: dns.name.Name) -> list[bytes]:
    return [label.lower() for label in name.labels]
