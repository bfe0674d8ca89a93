"""The DNS server and the forwarder on real sockets, on loopback."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio
import trio.testing

from edgevpn.actors import dns_forward, dns_server
from edgevpn.actors.dns_forward import Forwarder
from edgevpn.actors.dns_server import DnsServer
from edgevpn.actors.listeners import open_dns
from edgevpn.errors import SetupError
from edgevpn.names.cache import Cache, Key
from edgevpn.names.patterns import PatternTable, pattern_untrusted
from edgevpn.names.responder import Names
from edgevpn.names.servers import Servers
from edgevpn.names.zone import Zone

PEER = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
Message = dns.message.Message
Answers = Callable[[Message, bool], "Message | bytes | None"]


def names() -> Names:
    patterns = [pattern_untrusted(r"^away\.vpn\.$", '{"5":"www.example"}'), pattern_untrusted("^big", '{"16":"x"}')]
    return Names(Zone("edgevpn.internal", {"10.1.0.1": (PEER, "web")}, ["10.1.0.1/24"]), PatternTable(patterns))


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Upstream:
    """A server of other names, as a test wants it: `answer(query, tcp)` says what it does."""

    def __init__(self, answer: Answers) -> None:
        self.answer = answer
        self.asked: list[Message] = []
        self.address = ("127.0.0.1", free_port())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            await udp.bind(self.address)
            await self._serve(udp, task_status)

    async def _serve(self, udp: trio.socket.SocketType, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_tcp, self._tcp, self.address[1])
            task_status.started()
            while True:
                wire, client = await udp.recvfrom(4096)
                reply = self._reply(wire, False)
                if reply is not None:
                    await udp.sendto(reply, client)

    async def _tcp(self, stream: trio.SocketStream) -> None:
        wire = await stream.receive_some(4096)
        reply = self._reply(wire[2:], True)
        if reply is not None:
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)

    def _reply(self, wire: bytes, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        self.asked.append(query)
        found = self.answer(query, tcp)
        return found.to_wire() if isinstance(found, Message) else found


def good(query: Message, _tcp: bool) -> Message:
    reply = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", "192.0.2.7"))
    return reply


class Running:
    """A server of ours, and what it counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.server: DnsServer
        self.port = free_port()

    def count(self, name: str) -> None:
        self.counts[name] += 1

    async def udp(self, name: str, rdtype: str = "A", *, timeout: float = 6, **more: object) -> Message:
        query = dns.message.make_query(name, rdtype, use_edns=0, **more)  # type: ignore[arg-type]
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, trio.fail_after(timeout):
            await sock.sendto(query.to_wire(), ("127.0.0.1", self.port))
            reply = dns.message.from_wire((await sock.recvfrom(65535))[0])
        assert query.is_response(reply)
        return reply

    async def tcp(self, *queries: Message) -> list[Message]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        wires = [query.to_wire() for query in queries]
        await stream.send_all(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
        received = bytearray()
        replies: list[Message] = []
        with trio.fail_after(6):
            while len(replies) < len(queries):
                received += await stream.receive_some(65536)
                while len(received) >= 2 and len(received) >= (end := 2 + int.from_bytes(received[:2], "big")):
                    replies.append(dns.message.from_wire(bytes(received[2:end])))
                    del received[:end]
        await stream.aclose()
        return replies


@asynccontextmanager
async def running(*servers: tuple[str, int], cache: int = 100, forwarding: bool = True) -> AsyncIterator[Running]:
    found = Running()
    sockets = open_dns(f"127.0.0.1:{found.port}")
    async with trio.open_nursery() as nursery:
        forwarder = Forwarder(Servers(servers), Cache(cache), found.count) if forwarding else None
        found.server = DnsServer(names(), forwarder, nursery, found.count)
        nursery.start_soon(found.server.serve_udp, sockets["dns-udp4"])
        nursery.start_soon(found.server.serve_tcp, sockets["dns-tcp4"])
        yield found
        nursery.cancel_scope.cancel()
    for sock in sockets.values():
        sock.close()


@asynccontextmanager
async def upstreams(*answers: Answers) -> AsyncIterator[list[Upstream]]:
    made = [Upstream(answer) for answer in answers]
    async with trio.open_nursery() as nursery:
        for one in made:
            await nursery.start(one.run)
        yield made
        nursery.cancel_scope.cancel()


def records(reply: Message) -> list[str]:
    return [item.to_text() for rrset in reply.answer for item in rrset]


async def test_the_vpns_names_are_answered_by_udp_and_tcp() -> None:
    async with running() as ours:
        for _ in range(2):  # the second from the memo
            reply = await ours.udp("WEB.edgevpn.internal")
            assert (records(reply), bool(reply.flags & dns.flags.AA)) == (["10.1.0.1"], True)
            assert reply.question[0].name.labels[0] == b"WEB"
        assert len(ours.server.memo) == 1
        queries = [dns.message.make_query(f"{host}.edgevpn.internal", "A") for host in ("web", "x", "web")]
        replies = await ours.tcp(*queries)
        assert [one.rcode() for one in replies] == [0, dns.rcode.NXDOMAIN, 0]
        assert [one.id for one in replies] == [one.id for one in queries]


async def test_names_that_change_are_told_at_once() -> None:
    async with running() as ours:
        await ours.udp("web.edgevpn.internal")
        ours.server.use(Names(Zone("edgevpn.internal", {"10.1.0.5": (PEER, "web")})))
        assert records(await ours.udp("web.edgevpn.internal")) == ["10.1.0.5"]


async def test_other_names_are_asked_for_once_and_then_come_from_the_cache() -> None:
    async with upstreams(good) as [other], running(other.address) as ours:
        for _ in range(3):
            reply = await ours.udp("www.Example")
            assert records(reply) == ["192.0.2.7"]
            assert reply.answer[0].name.labels == reply.question[0].name.labels
            assert reply.flags & dns.flags.RA
            assert not reply.flags & dns.flags.AA
        assert len(other.asked) == 1
        assert ours.counts["cache_hits"] == 2


async def test_the_vpns_own_names_are_never_asked_of_others() -> None:
    async with upstreams(good) as [other], running(other.address) as ours:
        for name, rdtype in (
            ("x.edgevpn.internal", "A"),
            ("web.edgevpn.internal", "MX"),
            ("9.0.1.10.in-addr.arpa", "PTR"),
        ):
            await ours.udp(name, rdtype)
        assert other.asked == []


async def test_a_chain_that_leaves_the_vpn_is_completed_by_others() -> None:
    async with upstreams(good) as [other], running(other.address) as ours:
        assert records(await ours.udp("away.vpn")) == ["www.example.", "192.0.2.7"]
        assert other.asked[0].question[0].name == dns.name.from_text("www.example.")


async def test_without_a_forwarder_or_recursion_desired_other_names_are_refused() -> None:
    async with running(forwarding=False) as ours:
        reply = await ours.udp("www.example")
        assert (reply.rcode(), bool(reply.flags & dns.flags.RA)) == (dns.rcode.REFUSED, False)
    async with upstreams(good) as [other], running(other.address) as ours:
        assert (await ours.udp("www.example", flags=0)).rcode() == dns.rcode.REFUSED
        assert other.asked == []


async def test_a_silent_server_and_one_that_fails_are_passed_over() -> None:
    def silent(_query: Message, _tcp: bool) -> None:
        return None

    def failing(query: Message, _tcp: bool) -> Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply

    async with upstreams(silent, failing, good) as [dead, broken, other]:
        async with running(dead.address, broken.address, other.address) as ours:
            assert records(await ours.udp("one.example")) == ["192.0.2.7"]
            assert records(await ours.udp("two.example")) == ["192.0.2.7"]
        assert len(dead.asked) == 1
        assert len(broken.asked) == 2


async def test_when_all_fail_the_client_hears_so_and_nobody_is_asked_again_for_a_moment() -> None:
    def failing(query: Message, _tcp: bool) -> Message:
        reply = dns.message.make_response(query)
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply

    async with upstreams(failing) as [broken], running(broken.address) as ours:
        for _ in range(3):
            assert (await ours.udp("one.example")).rcode() == dns.rcode.SERVFAIL
        assert len(broken.asked) == 1


async def test_forged_answers_are_passed_over_and_the_right_one_is_taken() -> None:
    def forged(query: Message, _tcp: bool) -> Message:
        reply = good(query, False)
        reply.id ^= 1
        return reply

    async with upstreams(forged) as [liar], upstreams(good) as [other], running(liar.address, other.address) as ours:
        assert records(await ours.udp("www.example")) == ["192.0.2.7"]
        assert ours.counts["replies_not_ours"] == 1
        assert ours.counts["servers_silent"] == 1


async def test_what_did_not_fit_and_what_lost_its_case_is_asked_for_by_tcp() -> None:
    def cut(query: Message, tcp: bool) -> Message:
        reply = good(query, tcp)
        if not tcp:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        return reply

    def caseless(query: Message, tcp: bool) -> bytes:
        return _lower_question(good(query, tcp))

    async with upstreams(cut) as [other], running(other.address) as ours:
        assert records(await ours.udp("www.example")) == ["192.0.2.7"]
        assert ours.counts["forwards_by_tcp"] == 1
    async with upstreams(caseless) as [other], running(other.address) as ours:
        assert records(await ours.udp("www.some-long-name-of-many-letters.example")) == ["192.0.2.7"]
        assert ours.counts["replies_without_case"] == 1


def _lower_question(reply: Message) -> bytes:
    reply.question[0].name = reply.question[0].name.canonicalize()
    return reply.to_wire()


async def test_a_forwarder_that_leads_back_to_us_ends_in_a_failure_and_multiplies_nothing() -> None:
    async with running() as ours:
        ours.server._forwarder = Forwarder(Servers([("127.0.0.1", ours.port)]), Cache(10), ours.count)
        reply = await ours.udp("loop.example", timeout=8)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert ours.counts["queries_udp"] <= 1 + dns_forward.ROUNDS
        for _ in range(20):
            assert (await ours.udp("loop.example")).rcode() == dns.rcode.SERVFAIL
        assert ours.counts["queries_udp"] <= 21 + dns_forward.ROUNDS


async def test_two_forwarders_that_lead_to_each_other_end_in_a_failure() -> None:
    async with running() as one, running() as two:
        for this, that in ((one, two), (two, one)):
            this.server._forwarder = Forwarder(Servers([("127.0.0.1", that.port)]), Cache(10), this.count)
        assert (await one.udp("loop.example", timeout=8)).rcode() == dns.rcode.SERVFAIL
        assert one.counts["queries_udp"] + two.counts["queries_udp"] <= 2 + 4 * dns_forward.ROUNDS


async def test_more_questions_than_there_is_room_for_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forward, "MAX_ASKING", 4)
    release = trio.Event()
    counts: Counter[str] = Counter()
    forwarder = Forwarder(Servers([("127.0.0.1", 9)]), Cache(10), lambda name: counts.update([name]))

    async def wait(*_: object) -> None:
        await release.wait()

    forwarder._try = wait  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        for number in range(10):
            key = Key(dns.name.from_text(f"n{number}.example."), dns.rdatatype.A, False, False)
            nursery.start_soon(forwarder.resolve, key)
        await trio.testing.wait_all_tasks_blocked()
        assert forwarder.asking == 4
        assert counts["forwards_refused_busy"] == 6
        release.set()
    assert forwarder.asking == 0


async def test_a_client_by_tcp_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_server, "IDLE", 0.3)
    monkeypatch.setattr(dns_server, "MAX_FROM_ONE", 3)
    async with running() as ours:
        streams = [await trio.open_tcp_stream("127.0.0.1", ours.port) for _ in range(5)]
        ends = []
        with trio.fail_after(5):
            for stream in streams:
                ends.append(await _rest(stream))  # each is hung up on: at once, or when its time is over
        assert ends == [b""] * 5
        assert ours.counts["clients_refused"] == 2
        stream = await trio.open_tcp_stream("127.0.0.1", ours.port)
        await stream.send_all(b"\xff\xff" + bytes(100))
        with trio.fail_after(0.2):
            assert await _rest(stream) == b""
        assert ours.counts["queries_malformed"] == 1
        for one in (*streams, stream):
            await one.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not ours.server.clients


async def _rest(stream: trio.SocketStream) -> bytes:
    try:
        return bytes(await stream.receive_some(100))
    except trio.BrokenResourceError:
        return b""


async def test_a_reply_comes_from_the_address_that_was_asked() -> None:
    port = free_port()
    sockets = open_dns(f":{port}")
    async with trio.open_nursery() as nursery:
        server = DnsServer(names(), None, nursery, lambda _: None)
        for what, sock in sockets.items():
            nursery.start_soon(server.serve_udp if "udp" in what else server.serve_tcp, sock)
        addresses = ["127.0.0.1", "127.0.0.77", *(["::1"] if "dns-udp6" in sockets else [])]
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with trio.socket.socket(family, socket.SOCK_DGRAM) as sock, trio.fail_after(3):
                await sock.connect((address, port))  # hears nobody else
                await sock.send(dns.message.make_query("web.edgevpn.internal", "A").to_wire())
                assert records(dns.message.from_wire(await sock.recv(4096))) == ["10.1.0.1"]
        nursery.cancel_scope.cancel()
    for sock in sockets.values():
        sock.close()


def test_an_address_in_use_is_said_with_what_to_do() -> None:
    port = free_port()
    first = open_dns(f"127.0.0.1:{port}")
    with pytest.raises(SetupError, match="another --dns"):
        open_dns(f"127.0.0.1:{port}")
    for sock in first.values():
        sock.close()
