"""mDNS: datagrams that other programs understand, and a node that speaks seldom."""

import contextlib
import itertools
import random

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.proto import mdns
from edgevpn.proto.mdns import FoundAddress, Heard

SERVICE = "abcDEF123"
PEER = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
ME = "12D3KooWBSCa9hvh5UwHXdkGLJAzQEoyzKvRQos3iBDgDSXsS3eL"
ADDRESSES = ["/ip4/10.0.0.1/tcp/4001", "/ip6/fe80::1/udp/4001/quic-v1"]


def answer(peer=PEER, addresses=ADDRESSES, service=SERVICE):
    return mdns.build_answer(service, "label", peer, addresses)


def node(seed=1, peer=ME, now=0.0):
    return mdns.MdnsNode(SERVICE, peer, random.Random(seed), now)


def run(a_node, until):
    """Let a node speak until a time; (time, datagram) of all it says."""
    said = []
    while (now := max(a_node.next_wakeup(), 0.0)) < until:
        said += [(now, datagram) for datagram in a_node.poll(now)]
    return said


def kinds(said):
    """The times of questions and of answers."""
    asked = [at for at, data in said if mdns.parse_untrusted(data, SERVICE).asked]
    return asked, [at for at, data in said if not mdns.parse_untrusted(data, SERVICE).asked]


# --- datagrams ----------------------------------------------------------------------------------------------------


def test_a_query_asks_for_our_service_alone():
    assert mdns.parse_untrusted(mdns.build_query(SERVICE), SERVICE) == Heard(asked=True)
    assert mdns.parse_untrusted(mdns.build_query(SERVICE), "other") == Heard(asked=False)
    message = dns.message.from_wire(mdns.build_query(SERVICE))
    assert (message.id, message.flags) == (0, 0)
    assert message.question[0].to_text() == f"{SERVICE}.local. IN PTR"


def test_a_query_is_ours_in_any_case_and_with_the_unicast_bit():
    assert mdns.parse_untrusted(mdns.build_query(SERVICE.upper()), SERVICE).asked
    query = mdns.build_query(SERVICE)
    assert mdns.parse_untrusted(query[:-2] + b"\x80\x01", SERVICE).asked


def test_an_answer_tells_every_address():
    assert mdns.parse_untrusted(answer(), SERVICE).found == tuple(FoundAddress(PEER, a) for a in ADDRESSES)
    assert mdns.parse_untrusted(answer(), "other").found == ()


def test_an_answer_has_the_records_that_go_wants():
    message = dns.message.from_wire(answer())
    assert message.flags == dns.flags.QR | dns.flags.AA
    assert message.answer[0].to_text() == f"{SERVICE}.local. 3200 IN PTR label.{SERVICE}.local."
    assert [r.to_text() for r in message.additional] == [
        f"label.{SERVICE}.local. 3200 IN SRV 0 0 4001 label.local.",
        f'label.{SERVICE}.local. 3200 IN TXT "dnsaddr={ADDRESSES[0]}/p2p/{PEER}" "dnsaddr={ADDRESSES[1]}/p2p/{PEER}"',
        "label.local. 120 IN A 10.0.0.1",
        "label.local. 120 IN AAAA fe80::1",
    ]


def test_a_service_name_may_have_dots_and_other_letters():
    for service in ("_p2p._udp", "ключ", "a b"):
        assert mdns.parse_untrusted(mdns.build_query(service), service).asked
        assert mdns.parse_untrusted(answer(service=service), service).found


@pytest.mark.parametrize("service", ["a" * 64, "", "a..b", ".".join(["a" * 60] * 4)])
def test_a_service_that_is_no_dns_name_is_the_user_s_error(service):
    with pytest.raises(UsageError, match="mdns name"):
        mdns.MdnsNode(service, ME, random.Random(1), 0.0)


def test_a_goodbye_tells_no_address():
    goodbye = mdns.build_goodbye(SERVICE, "label", PEER, ADDRESSES)
    assert mdns.parse_untrusted(goodbye, SERVICE) == Heard(asked=False, told=(("label", "", 0.0),))
    assert all(r.ttl == 0 for r in dns.message.from_wire(goodbye).additional)


def test_a_record_with_the_cache_flush_bit_counts():
    message = dns.message.from_wire(answer())
    txt = message.additional[1]
    flushed = answer().replace(b"\x00\x10\x00\x01\x00\x00\x0c\x80", b"\x00\x10\x80\x01\x00\x00\x0c\x80")
    assert flushed != answer()
    assert txt.rdtype == dns.rdatatype.TXT
    assert mdns.parse_untrusted(flushed, SERVICE).found == mdns.parse_untrusted(answer(), SERVICE).found


def test_an_answer_stays_within_one_packet():
    many = [f"/ip4/10.0.{n}.1/tcp/4001" for n in range(200)]
    assert len(answer(addresses=many)) <= mdns.MAX_SEND
    assert len(mdns.parse_untrusted(answer(addresses=many), SERVICE).found) > 5
    assert (
        mdns.parse_untrusted(answer(addresses=["/dns4/" + "x" * 250, *ADDRESSES]), SERVICE).found[0].multiaddr
        == (ADDRESSES[0])
    )


def test_a_datagram_tells_a_bounded_number_of_addresses():
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR
    name = f"x.{SERVICE}.local."
    for n in range(85):
        message.answer.append(dns.rrset.from_text(name, n + 1, "IN", "TXT", f"dnsaddr=/ip4/1.1.1.{n}/tcp/1/p2p/{PEER}"))
    assert len(mdns.parse_untrusted(message.to_wire(), SERVICE).found) == mdns.MAX_FOUND


@pytest.mark.parametrize(
    "text",
    [
        "dnsaddr=",
        f"dnsaddr=/p2p/{PEER}",
        f"dnsaddr=/ip4/1.2.3.4/tcp/1/p2p/{PEER}/x",
        f"dnsaddr=/ip4/1.2.3.4 /tcp/1/p2p/{PEER}",
        "dnsaddr=/ip4/1.2.3.4/tcp/1/p2p/short",
        f"DNSADDR=/ip4/1.2.3.4/tcp/1/p2p/{PEER}",
    ],
)
def test_a_text_that_is_no_address_is_passed_over(text):
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR
    message.answer.append(dns.rrset.from_text(f"x.{SERVICE}.local.", 10, "IN", "TXT", f'"{text}"'))
    assert mdns.parse_untrusted(message.to_wire(), SERVICE).found == ()


def test_datagrams_of_other_kinds_are_ignored():
    update = bytearray(mdns.build_query(SERVICE))
    update[2] |= 5 << 3
    assert mdns.parse_untrusted(bytes(update), SERVICE) == Heard(asked=False)
    failed = bytearray(answer())
    failed[3] |= 3
    assert mdns.parse_untrusted(bytes(failed), SERVICE) == Heard(asked=False)


@pytest.mark.parametrize("data", [b"", b"\0" * 11, b"\0" * 9001, answer()[:-1], b"\0" * 4 + b"\xff" * 20])
def test_a_datagram_that_is_not_dns_is_refused(data):
    with pytest.raises(UntrustedDataError):
        mdns.parse_untrusted(data, SERVICE)


@given(st.binary(max_size=200) | st.binary(min_size=8, max_size=200).map(lambda tail: b"\0\0\x84\0" + tail))
def test_arbitrary_bytes_raise_only_untrusted_data(data):
    with contextlib.suppress(UntrustedDataError):
        mdns.parse_untrusted(data, SERVICE)


@given(st.integers(0, len(answer()) - 1), st.integers(0, 255), st.integers(0, len(answer())))
def test_a_damaged_answer_raises_only_untrusted_data(at, byte, end):
    damaged = bytearray(answer())
    damaged[at] = byte
    with contextlib.suppress(UntrustedDataError):
        mdns.parse_untrusted(bytes(damaged[:end]), SERVICE)


# --- a node on a link ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_node_asks_at_0_1_3_7_and_then_every_minute(seed):
    asked, answered = kinds(run(node(seed), 600.0))
    assert answered == []
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert asked[0] == 0.0
    for gap, expected in zip(gaps, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=False):
        assert gap == pytest.approx(expected, rel=0.11)


def test_nodes_started_together_do_not_ask_together_for_long():
    assert len({kinds(run(node(seed), 600.0))[0][-1] for seed in range(10)}) == 10


def test_a_node_announces_itself_twice_once_it_listens():
    speaker = node()
    speaker.announce(ADDRESSES, 0.0)
    assert kinds(run(speaker, 300.0))[1] == [0.0, 1.0]


def test_a_node_that_does_not_listen_answers_nobody():
    quiet = node()
    quiet.poll(0.0)
    quiet.receive_untrusted(mdns.build_query(SERVICE), 0.1)
    assert kinds(run(quiet, 5.0))[1] == []


def test_a_question_is_answered_soon_and_a_burst_once_a_second():
    speaker = node()
    speaker.announce(ADDRESSES, 0.0)
    run(speaker, 5.0)
    for _ in range(50):
        speaker.receive_untrusted(mdns.build_query(SERVICE), 5.0)
    (first,) = kinds(run(speaker, 5.5))[1]
    assert 5.02 <= first <= 5.12
    speaker.receive_untrusted(mdns.build_query(SERVICE), 5.5)
    assert kinds(run(speaker, 6.9))[1] == [pytest.approx(first + 1.0)]


def meet(*speakers, until, now=0.0):
    """Nodes on one link, from `now`; (time, datagram) of all they say. What one says the others hear at once."""
    said = []
    while (now := max(now, min(one.next_wakeup() for one in speakers))) < until:
        for one in speakers:
            for datagram in one.poll(now):
                said.append((now, datagram))
                for other in speakers:
                    other.receive_untrusted(datagram, now)
    return said


def ten_nodes(now=0.0):
    peers = [ME[:-2] + a + b for a in "23" for b in "45678"]
    nodes = [node(seed, peer, now) for seed, peer in enumerate(peers)]
    for number, one in enumerate(nodes):
        one.announce([f"/ip4/10.0.0.{number}/tcp/4001"], now)
    return nodes


def test_ten_idle_nodes_ask_once_in_ten_minutes_together_and_hardly_anybody_answers():
    nodes = ten_nodes()
    meet(*nodes, until=1000.0)
    asked, answered = kinds(meet(*nodes, until=1000.0 + 3600, now=1000.0))
    assert len(asked) < 20
    assert len(answered) < 50  # each is told anew in half of its time to live, 1600 s


def test_who_is_among_the_known_answers_keeps_quiet_and_the_others_answer():
    nodes = ten_nodes()
    meet(*nodes, until=100.0)
    stranger = node(99, PEER, 100.0)
    said = meet(*nodes, stranger, until=130.0, now=100.0)
    asked, answered = kinds(said)
    assert len(asked) >= 5
    assert len(answered) == 10, "each tells it once"
    question = next(data for at, data in said if at > 101.5 and mdns.parse_untrusted(data, SERVICE).asked)
    assert len(dns.message.from_wire(question).answer[0]) == 10
    assert len(mdns.parse_untrusted(question, SERVICE).known) == 10


def test_a_known_answer_that_is_soon_over_is_asked_for_again():
    one, other = node(1, ME), node(2, PEER)
    other.announce(ADDRESSES, 0.0)
    meet(one, other, until=20.0)
    assert one._known_now(1590.0)
    assert not one._known_now(1610.0)
    (query,) = [data for data in one.poll(1700.0) if mdns.parse_untrusted(data, SERVICE).asked]
    assert mdns.parse_untrusted(query, SERVICE).known == frozenset()


def test_who_could_not_be_reached_is_asked_for_within_a_minute_and_answers():
    one, other = node(1, ME), node(2, PEER)
    other.announce(ADDRESSES, 0.0)
    meet(one, other, until=300.0)
    one.forget(PEER, 300.0)
    asked, answered = kinds(meet(one, other, until=361.0, now=300.0))
    assert asked
    assert answered


def test_after_sleep_a_node_asks_at_once_and_is_told_everything():
    one, other = node(1, ME), node(2, PEER)
    other.announce(ADDRESSES, 0.0)
    meet(one, other, until=300.0)
    one.ask_again(300.0)
    asked, answered = kinds(meet(one, other, until=300.5, now=300.0))
    assert asked[0] == 300.0
    assert answered


def test_a_goodbye_is_no_known_answer():
    one, other = node(1, ME), node(2, PEER)
    other.announce(ADDRESSES, 0.0)
    meet(one, other, until=20.0)
    for datagram in other.goodbye():
        one.receive_untrusted(datagram, 20.0)
    assert one._known_now(20.0) == []


def test_a_question_with_many_known_answers_fits_one_packet():
    many = [(f"{number:032}", 3000.0) for number in range(200)]
    query = mdns.build_query(SERVICE, many)
    assert len(query) <= mdns.MAX_SEND
    assert len(mdns.parse_untrusted(query, SERVICE).known) > 20


def test_memory_does_not_grow_with_a_flood_of_labels():
    listener = node()
    for number in range(2000):
        listener.receive_untrusted(mdns.build_answer(SERVICE, f"{number}", PEER, ADDRESSES), number / 1000)
    assert len(listener._known) <= 256


def test_a_peer_is_reported_once_a_second():
    listener = node()
    expected = tuple(FoundAddress(PEER, a) for a in ADDRESSES)
    assert listener.receive_untrusted(answer(), 0.0) == expected
    assert listener.receive_untrusted(answer(), 0.9) == ()
    assert listener.receive_untrusted(answer(), 1.0) == expected


def test_a_node_does_not_find_itself():
    assert node().receive_untrusted(answer(peer=ME), 0.0) == ()


def test_memory_does_not_grow_with_a_flood_of_peers():
    listener = node()
    letters = random.Random(7)
    for _ in range(60):
        peers = ["12D3KooW" + "".join(letters.choices("abcdefghijk", k=44)) for _ in range(32)]
        for peer in peers:
            listener.receive_untrusted(answer(peer=peer, addresses=ADDRESSES[:1]), 0.5)
    assert len(listener._recent) <= 1024


def test_new_addresses_get_a_new_label_after_a_goodbye():
    speaker = node()
    speaker.announce(ADDRESSES, 0.0)
    before = [data for _, data in run(speaker, 5.0) if not mdns.parse_untrusted(data, SERVICE).asked]
    speaker.announce(ADDRESSES[:1], 5.0)
    after = [data for _, data in run(speaker, 6.9) if not mdns.parse_untrusted(data, SERVICE).asked]
    goodbye, announced = after[0], after[1]
    old, gone, new = (dns.message.from_wire(data).answer[0] for data in (before[0], goodbye, announced))
    assert (gone.ttl, gone[0].target) == (0, old[0].target)
    assert new[0].target != old[0].target
    speaker.announce(ADDRESSES[:1], 7.0)
    assert all(mdns.parse_untrusted(data, SERVICE).asked for _, data in run(speaker, 10.0))


def test_a_node_that_leaves_says_goodbye_if_it_ever_announced():
    speaker = node()
    assert speaker.goodbye() == []
    speaker.announce(ADDRESSES, 0.0)
    assert [dns.message.from_wire(data).answer[0].ttl for data in speaker.goodbye()] == [0]


def test_two_nodes_find_each_other():
    one, two = node(1, ME), node(2, PEER, now=10.0)
    one.announce(ADDRESSES[:1], 0.0)
    run(one, 10.0)
    two.announce(ADDRESSES[1:], 10.0)
    found_by_one, found_by_two = set(), set()
    for step in range(30):
        now = 10.0 + step / 10
        for speaker, hearer, found in ((one, two, found_by_two), (two, one, found_by_one)):
            for datagram in speaker.poll(now):
                found.update(hearer.receive_untrusted(datagram, now))
    assert found_by_one == {FoundAddress(PEER, ADDRESSES[1])}
    assert found_by_two == {FoundAddress(ME, ADDRESSES[0])}
