"""Questions to other servers, and which replies are their answers."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.names.servers import BENCH, Servers
from edgevpn.names.upstream import Asked, CaseLostError, TruncatedError, ask, read_reply_untrusted
from edgevpn.names.wire import MAX_UDP

NAME = dns.name.from_text("www.some-longer-name.example.")


def asked(name: dns.name.Name = NAME, rdtype: int = dns.rdatatype.A, seed: int = 1) -> Asked:
    return ask(name, rdtype, dnssec_ok=False, checking_disabled=False, chance=random.Random(seed))


def reply(to: Asked, *records: str, authority: tuple[str, ...] = (), rcode: int = 0) -> dns.message.Message:
    message = dns.message.make_response(dns.message.from_wire(to.wire), recursion_available=True)
    message.set_rcode(dns.rcode.Rcode(rcode))
    for section, texts in ((message.answer, records), (message.authority, authority)):
        for text in texts:
            name, ttl, rdtype, rest = text.split(" ", 3)
            section.append(dns.rrset.from_text(dns.name.from_text(name), int(ttl), "IN", rdtype, rest))
    return message


def texts(to: Asked, message: dns.message.Message) -> list[str]:
    return [str(one) for one in read_reply_untrusted(message.to_wire(), to).answer]


def test_questions_differ_in_id_and_case_and_ask_for_recursion() -> None:
    chance = random.Random(7)
    made = [ask(NAME, 1, dnssec_ok=True, checking_disabled=True, chance=chance) for _ in range(50)]
    assert len({one.number for one in made}) > 45
    assert len({one.name.labels for one in made}) > 45
    message = dns.message.from_wire(made[0].wire)
    assert message.flags & (dns.flags.RD | dns.flags.CD) == dns.flags.RD | dns.flags.CD
    assert (message.edns, message.payload, message.ednsflags & dns.flags.DO) == (0, MAX_UDP, dns.flags.DO)
    assert all(one.name == NAME for one in made)


def test_the_answer_is_the_chain_from_the_name_to_the_type_and_nothing_else() -> None:
    to = asked()
    message = reply(
        to,
        f"{NAME} 60 CNAME a.example.",
        "evil.example. 60 A 6.6.6.6",
        "a.example. 50 CNAME b.example.",
        "b.example. 40 A 192.0.2.1",
        authority=("example. 60 NS ns.evil.",),
    )
    message.additional.append(dns.rrset.from_text("bank.example.", 60, "IN", "A", "6.6.6.6"))
    found = read_reply_untrusted(message.to_wire(), to)
    assert [one.name.to_text().lower() for one in found.answer] == [NAME.to_text(), "a.example.", "b.example."]
    assert found.authority == ()


def test_a_negative_answer_keeps_the_soa_of_a_parent_only() -> None:
    to = asked()
    soas = ("example. 60 SOA a. b. 1 2 3 4 5", "bank.test. 60 SOA a. b. 1 2 3 4 5")
    found = read_reply_untrusted(reply(to, authority=soas, rcode=dns.rcode.NXDOMAIN).to_wire(), to)
    assert [one.name.to_text() for one in found.authority] == ["example."]


def test_a_loop_of_cnames_ends() -> None:
    to = asked()
    found = texts(to, reply(to, f"{NAME} 60 CNAME a.example.", f"a.example. 60 CNAME {NAME}"))
    assert len(found) <= 16


def test_another_id_question_or_direction_is_not_the_answer() -> None:
    to = asked()
    good = reply(to, f"{NAME} 60 A 192.0.2.1").to_wire()
    assert read_reply_untrusted(good, to).answer
    other = asked(dns.name.from_text("other.example."))
    wrong = [
        bytes([good[0] ^ 1]) + good[1:],
        good[:2] + bytes([good[2] & 0x7F]) + good[3:],
        to.wire[:2] + reply(other, "other.example. 60 A 192.0.2.1").to_wire()[2:],
        to.wire[:2] + reply(asked(rdtype=28), f"{NAME} 60 AAAA fd00::1").to_wire()[2:],
        good[:-1],
        b"",
    ]
    for wire in wrong:
        with pytest.raises(UntrustedDataError) as caught:
            read_reply_untrusted(wire, to)
        assert type(caught.value) is UntrustedDataError


def test_a_reply_that_lost_the_case_or_did_not_fit_is_asked_for_by_tcp() -> None:
    to = asked()
    plain = reply(to, f"{NAME} 60 A 192.0.2.1")
    plain.question[0].name = NAME
    wire = to.wire[:2] + plain.to_wire()[2:]
    with pytest.raises(CaseLostError):
        read_reply_untrusted(wire, to)
    assert read_reply_untrusted(wire, to, tcp=True).answer
    cut = reply(to)
    cut.flags |= dns.flags.TC
    with pytest.raises(TruncatedError):
        read_reply_untrusted(cut.to_wire(), to)


def test_a_reply_of_too_many_records_is_refused() -> None:
    to = asked()
    message = reply(to, *(f"{NAME} 60 A 10.0.{n // 250}.{n % 250}" for n in range(300)))
    with pytest.raises(UntrustedDataError, match="too many"):
        read_reply_untrusted(message.to_wire(max_size=65535), to)


def test_a_reply_of_many_long_names_is_refused_before_it_is_read() -> None:
    to = asked(dns.name.from_text("a." * 60))
    soa = b"\xc0\x0c\0\x06\0\x01\0\0\0\x3c\0\x18\xc0\x0c\xc0\x0c" + bytes(20)
    for count, fits in ((1, True), (3, False), (128, False)):
        wire = to.wire[:2] + b"\x81\x80\0\x01" + count.to_bytes(2, "big") + bytes(4) + question(to) + soa * count
        if fits:
            read_reply_untrusted(wire, to, tcp=True)
        else:
            with pytest.raises(UntrustedDataError, match="long names"):
                read_reply_untrusted(wire, to, tcp=True)


def question(to: Asked) -> bytes:
    """The question's bytes."""
    return to.wire[12 : to.wire.rindex(b"\0\x01\0\x01") + 4]


def test_as_many_names_as_an_honest_reply_has_are_read() -> None:
    to = asked(rdtype=dns.rdatatype.PTR)
    message = reply(to, *(f"{NAME} 60 PTR a-host{k}.in.some.zone.example." for k in range(127)))
    assert len(read_reply_untrusted(message.to_wire(max_size=65535), to, tcp=True).answer[0]) == 127
    reverse = dns.name.from_text("1." * 32 + "ip6.arpa.")
    to = asked(reverse, dns.rdatatype.PTR)
    message = reply(to, *(f"{reverse} 60 PTR a-host{k}.in.some.zone.example." for k in range(13)))
    assert len(read_reply_untrusted(message.to_wire(max_size=65535), to, tcp=True).answer[0]) == 13


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_the_answer_or_refused(wire: bytes, tcp: bool) -> None:
    to = asked()
    for one in (wire, to.wire[:2] + b"\x81\x80" + wire, to.wire[:2] + b"\x81\x80" + to.wire[4:] + wire):
        try:
            read_reply_untrusted(one, to, tcp=tcp)
        except UntrustedDataError:
            pass


@given(st.data())
def test_a_spoiled_reply_is_the_answer_or_refused(data: st.DataObject) -> None:
    to = asked()
    wire = bytearray(reply(to, f"{NAME} 60 CNAME a.example.", "a.example. 60 A 192.0.2.1").to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_reply_untrusted(bytes(wire), to)
    except UntrustedDataError:
        pass


def test_a_server_that_was_silent_is_tried_last_for_a_while() -> None:
    one, two = ("192.0.2.1", 53), ("192.0.2.2", 53)
    servers = Servers([one, two, one])
    assert servers.order(0) == [one, two]
    servers.failed(one, 100)
    assert servers.order(100) == [two, one]
    servers.failed(two, 101)
    assert servers.order(101) == [one, two]
    assert servers.order(101 + BENCH) == [one, two]
    servers.answered(two)
    assert servers.order(102) == [two, one]
