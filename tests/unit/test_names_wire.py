"""Queries and replies as bytes."""

from __future__ import annotations

import random
import struct
import time

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.names.wire import (
    MAX_UDP,
    Answer,
    BadQueryError,
    ReplyMemo,
    read_query_untrusted,
    write_reply,
)
from scripts.labkit.dns_evil import evil_packet


def refusal(wire: bytes) -> bytes:
    with pytest.raises(BadQueryError) as caught:
        read_query_untrusted(wire)
    return caught.value.reply


def rcode_of(reply: bytes) -> int:
    return reply[3] & 15


def query(name: str = "web.example", **more: object) -> bytes:
    return dns.message.make_query(name, "A", **more).to_wire()  # type: ignore[arg-type]


def many(count: int) -> Answer:
    name = dns.name.from_text("web.example.")
    texts = [f"10.0.{number // 250}.{number % 250}" for number in range(count)]
    return Answer(answer=(dns.rrset.from_text_list(name, 30, "IN", "A", texts),), authoritative=True)


@pytest.mark.parametrize("wire", [b"", b"x" * 11, query()[:2] + b"\x81\x80" + query()[4:]])
def test_what_is_no_query_gets_no_reply(wire: bytes) -> None:
    assert refusal(wire) == b""


def test_other_opcodes_are_not_implemented() -> None:
    reply = refusal(dns.message.make_query("x.", "A").to_wire()[:2] + b"\x28\x00" + bytes(8))
    assert (rcode_of(reply), reply[2] >> 7, reply[2] >> 3 & 15) == (dns.rcode.NOTIMP, 1, dns.opcode.UPDATE)


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 3), (1, 0, 0, 65535)]
)
def test_a_query_of_other_than_one_question_is_malformed(counts: tuple[int, ...]) -> None:
    wire = query()
    reply = refusal(wire[:4] + struct.pack("!4H", *counts) + wire[12:])
    assert (rcode_of(reply), reply[:2]) == (dns.rcode.FORMERR, wire[:2])


def test_a_query_over_the_bound_is_malformed() -> None:
    assert rcode_of(refusal(query() + bytes(5000))) == dns.rcode.FORMERR


def test_a_later_version_of_edns_is_told_so() -> None:
    wire = bytearray(query(use_edns=0))
    wire[-5] = 1  # the version, in OPT's TTL
    reply = dns.message.from_wire(refusal(bytes(wire)))
    assert (reply.rcode(), reply.edns) == (dns.rcode.BADVERS, 0)


def test_a_reply_has_the_questions_id_case_and_flags() -> None:
    found = read_query_untrusted(query("WeB.eXample"))
    reply = dns.message.from_wire(write_reply(found, many(1), tcp=False, recursion_available=True))
    assert reply.id == found.message.id
    assert reply.question[0].name.labels[0] == b"WeB"
    wanted = dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert reply.flags == wanted
    assert reply.edns == -1


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (100, 512), (1000, 1000), (4096, MAX_UDP), (65535, MAX_UDP)]
)
def test_a_reply_by_udp_is_cut_to_what_the_client_takes(payload: int | None, limit: int) -> None:
    more = {} if payload is None else {"use_edns": 0, "payload": payload}
    found = read_query_untrusted(query(**more))
    wire = write_reply(found, many(300), tcp=False, recursion_available=True)
    assert len(wire) <= limit
    reply = dns.message.from_wire(wire)
    assert reply.flags & dns.flags.TC
    assert reply.edns == (-1 if payload is None else 0)


def test_the_same_reply_by_tcp_is_whole() -> None:
    found = read_query_untrusted(query())
    reply = dns.message.from_wire(write_reply(found, many(300), tcp=True, recursion_available=True))
    assert len(reply.answer[0]) == 300
    assert not reply.flags & dns.flags.TC


def test_the_memo_gives_a_reply_to_the_same_question_with_another_id() -> None:
    memo = ReplyMemo()
    memo.put(b"\x00\x01question", b"\x00\x01reply")
    assert memo.get(b"\xab\xcdquestion") == b"\xab\xcdreply"
    assert memo.get(b"\xab\xcdquestioN") is None
    memo.clear()
    assert memo.get(b"\x00\x01question") is None
    memo.put(b"\x00\x01" + bytes(400), bytes(400))
    assert len(memo) == 0


def test_the_memo_is_bounded() -> None:
    memo = ReplyMemo()
    for number in range(3 * memo.MAX_REPLIES):
        memo.put(b"\x00\x01" + number.to_bytes(4, "big"), b"\x00\x01x")
        assert len(memo) <= memo.MAX_REPLIES


@given(st.binary(max_size=200))
def test_any_bytes_are_a_query_or_refused(wire: bytes) -> None:
    try:
        reply = write_reply(read_query_untrusted(wire), Answer(), tcp=False, recursion_available=False)
    except BadQueryError as exc:
        reply = exc.reply
    assert not reply or len(reply) >= 12


def test_evil_packets_are_queries_or_refused_in_little_time() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    worst = 0.0
    for _ in range(3000):
        wire = evil_packet(chance)
        began = time.perf_counter()
        try:
            write_reply(read_query_untrusted(wire), many(1), tcp=False, recursion_available=True)
        except UntrustedDataError:
            pass
        worst = max(worst, time.perf_counter() - began)
    print(f"worst {worst * 1000:.1f} ms")
