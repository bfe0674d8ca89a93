"""The trust zone: fresh challenges, who is trusted by what and for how long, and the keys of a node."""

from __future__ import annotations

import itertools
import json

import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from edgevpn.cli import peergate_auth
from edgevpn.cli.peergater import peergater
from edgevpn.config import NodeConfig, parse_peer_list
from edgevpn.errors import UntrustedDataError, UsageError
from edgevpn.ledger.trust import CHALLENGE, MESSAGE, RETRY, VALID, ZONE, TrustBook
from edgevpn.proto import peerguard, trust_challenge
from edgevpn.proto.trust_challenge import (
    answer_size_untrusted,
    answer_untrusted,
    key_id_untrusted,
    new_challenge,
    verify_answer_untrusted,
)
from tests.unit.ledger_samples import ALICE, BOB, CAROL

PRIVATE, PUBLIC = peerguard.generate_key_pair()
OTHER_PRIVATE, OTHER_PUBLIC = peerguard.generate_key_pair()
ID, OTHER_ID = key_id_untrusted(PUBLIC), key_id_untrusted(OTHER_PUBLIC)
KEYS = {ID: PUBLIC}
A, B, C = (key.peer_id for key in (ALICE, BOB, CAROL))
EVERY = 120.0

# --- challenges


def test_an_answer_proves_its_key():
    challenge = new_challenge()
    answer = answer_untrusted(challenge, PRIVATE, A, B)
    assert verify_answer_untrusted(answer, challenge, {**KEYS, OTHER_ID: OTHER_PUBLIC}, A, B) == ID


def test_an_answer_is_of_no_use_later_to_others_or_towards_others():
    challenge = new_challenge()
    answer = answer_untrusted(challenge, PRIVATE, A, B)
    for other, verifier, prover in ((new_challenge(), A, B), (challenge, C, B), (challenge, A, C), (challenge, B, A)):
        with pytest.raises(UntrustedDataError, match="not signed by the key"):
            verify_answer_untrusted(answer, other, KEYS, verifier, prover)


def test_the_names_of_two_peers_can_t_be_shifted_into_each_other():
    challenge = new_challenge()
    answer = answer_untrusted(challenge, PRIVATE, "ab", "c")
    with pytest.raises(UntrustedDataError):
        verify_answer_untrusted(answer, challenge, KEYS, "a", "bc")


def test_a_key_that_is_not_known_is_no_key():
    challenge = new_challenge()
    with pytest.raises(UntrustedDataError, match="not one of the trust zone"):
        verify_answer_untrusted(answer_untrusted(challenge, OTHER_PRIVATE, A, B), challenge, KEYS, A, B)


def test_go_s_signature_is_no_answer():
    challenge = new_challenge()
    answer = answer_untrusted(challenge, PRIVATE, A, B)
    go = peerguard._unarmour(peerguard.sign(PRIVATE))
    forged = trust_challenge.ANSWER_HEAD.pack(b"EVTR\x01", ID, len(go)) + go
    with pytest.raises(UntrustedDataError):
        verify_answer_untrusted(forged, challenge, KEYS, A, B)
    assert verify_answer_untrusted(answer, challenge, KEYS, A, B) == ID


@pytest.mark.parametrize("bad", [b"", b"EVTR\x01", b"EVTR\x02" + bytes(32), b"EVTR\x01" + bytes(33)])
def test_what_is_no_challenge_is_not_answered(bad):
    with pytest.raises(UntrustedDataError):
        answer_untrusted(bad, PRIVATE, A, B)


GOOD = new_challenge()
ANSWER = answer_untrusted(GOOD, PRIVATE, A, B)


@given(st.integers(0, len(ANSWER) - 1), st.integers(1, 255))
def test_every_flipped_byte_of_an_answer_is_noticed(at, flip):
    damaged = bytearray(ANSWER)
    damaged[at] ^= flip
    with pytest.raises(UntrustedDataError):
        verify_answer_untrusted(bytes(damaged), GOOD, KEYS, A, B)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_untrusted_data(data):
    for content in (data, ANSWER[:23] + data):
        with pytest.raises(UntrustedDataError):
            verify_answer_untrusted(content, GOOD, KEYS, A, B)
    with pytest.raises(UntrustedDataError):
        answer_size_untrusted(b"EVTR\x01" + bytes(16) + b"\xff\xff")


# --- the book


def book(*own, fresh=False, relaxed=False):
    return TrustBook(own, fresh=fresh, relaxed=relaxed, interval=EVERY)


def auth(**keys):
    return {name: json.dumps(text) for name, text in keys.items()}


def test_a_peer_is_trusted_for_three_intervals_after_its_answer():
    b = book(PUBLIC)
    b.connected([A], 0)
    assert b.due(0) == [A]
    b.answered(A, ID, 1)
    assert b.due(1) == []
    assert b.due(1 + EVERY) == [A]
    assert b.trusted(VALID * EVERY) == {A: CHALLENGE}
    assert b.trusted(VALID * EVERY + 1.1) == {}


def test_a_wrong_answer_ends_trust_at_once_and_silence_does_not():
    b = book(PUBLIC)
    b.connected([A, B], 0)
    for peer in (A, B):
        b.answered(peer, ID, 0)
    b.silent(A, EVERY)
    b.refused(B, EVERY)
    assert b.trusted(EVERY) == {A: CHALLENGE}
    assert set(b.due(EVERY + RETRY)) == {A, B}


def test_a_key_that_goes_takes_along_whom_it_let_in():
    b = book()
    b.ledger_says(auth(ecdsa_1=PUBLIC, ecdsa_2=OTHER_PUBLIC), (), 0)
    b.connected([A, B], 0)
    b.answered(A, ID, 0)
    b.answered(B, OTHER_ID, 0)
    assert b.message_untrusted(C, "challenge", {"sigs": peerguard.sign(PRIVATE)})
    assert b.trusted(1) == {A: CHALLENGE, B: CHALLENGE, C: MESSAGE}
    b.ledger_says(auth(ecdsa_2=OTHER_PUBLIC), (), 2)
    assert b.trusted(2) == {B: CHALLENGE}


def test_a_new_key_has_those_asked_again_who_were_turned_away():
    b = book(PUBLIC)
    b.connected([A, B], 0)
    b.answered(A, ID, 0)
    for _ in range(5):
        b.refused(B, 0)
    assert b.due(10) == []
    b.ledger_says(auth(ecdsa_2=OTHER_PUBLIC), (), 10)
    assert b.due(10) == [B]


def test_an_answer_with_a_key_that_has_gone_meanwhile_counts_for_nothing():
    b = book()
    b.connected([A], 0)
    b.answered(A, ID, 0)
    assert b.trusted(0) == {}


def test_only_names_with_ecdsa_and_good_keys_count():
    b = book()
    b.ledger_says(
        {"ecdsa_1": json.dumps(PUBLIC), "rsa": json.dumps(OTHER_PUBLIC), "ecdsa_2": "[", "ecdsa_3": '"x"'}, (), 0
    )
    assert set(b.keys) == {ID}


def test_go_s_word_admits_its_author_and_nobody_who_repeats_it():
    b = book(PUBLIC)
    signature = peerguard.sign(PRIVATE)
    assert b.message_untrusted(A, "challenge", {"sigs": signature})
    assert not b.message_untrusted(A, "challenge", {"sigs": signature})
    with pytest.raises(UntrustedDataError, match="repeats another"):
        b.message_untrusted(B, "challenge", {"sigs": signature})
    with pytest.raises(UntrustedDataError):
        b.message_untrusted(B, "challenge", {"sigs": peerguard.sign(OTHER_PRIVATE)})
    with pytest.raises(UntrustedDataError):
        b.message_untrusted(B, "challenge", {})
    assert b.trusted(0) == {A: MESSAGE}


def test_who_can_be_challenged_is_trusted_by_nothing_less():
    b = book(PUBLIC)
    b.connected([A], 0)
    b.ledger_says({}, [A, B], 0)
    assert not b.message_untrusted(A, "challenge", {"sigs": peerguard.sign(PRIVATE)})
    assert b.trusted(0) == {B: ZONE}


def test_with_fresh_alone_neither_words_nor_the_zone_count():
    b = book(PUBLIC, fresh=True)
    b.ledger_says({}, [B], 0)
    assert not b.message_untrusted(A, "challenge", {"sigs": peerguard.sign(PRIVATE)})
    assert b.trusted(0) == {}
    b.connected([C], 0)
    b.answered(C, ID, 0)
    assert b.trusted(0) == {C: CHALLENGE}


def test_relaxed_all_are_admitted_until_the_ledger_has_a_key():
    b = book(PUBLIC, relaxed=True)
    assert b.is_open
    b.ledger_says({"ecdsa": '"no key"'}, (), 0)
    assert b.is_open
    b.ledger_says(auth(ecdsa_1=PUBLIC), (), 0)
    assert not b.is_open
    assert not book(PUBLIC).is_open


def test_a_peer_that_does_not_answer_is_asked_ever_more_seldom():
    b = book(PUBLIC)
    b.connected([A], 0)
    clock, times = 0.0, []
    while clock < 1000:
        b.challenge_began(A, clock)
        b.silent(A, clock)
        clock = b.next_wakeup(clock)
        times.append(clock)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == EVERY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answer", "refuse", "silent", "keys", "zone", "leave", "word"]),
            st.sampled_from([A, B, C]),
            st.booleans(),
            st.floats(0, 200),
        ),
        max_size=30,
    )
)
def test_nobody_is_trusted_without_a_key_that_is_known_now(events):
    """Whatever happens: who is trusted by a challenge proved a key that counts still, not too long ago."""
    b = book()
    clock, proved = 0.0, {}
    for what, peer, first, pause in events:
        clock += pause
        key = ID if first else OTHER_ID
        if what == "answer":
            b.connected([A, B, C], clock)
            b.answered(peer, key, clock)
            if key in b.keys:
                proved[peer] = key, clock
        elif what == "refuse":
            b.refused(peer, clock)
            proved.pop(peer, None)
        elif what == "silent":
            b.silent(peer, clock)
        elif what == "keys":
            b.ledger_says(auth(ecdsa_1=PUBLIC) if first else auth(ecdsa_2=OTHER_PUBLIC), (), clock)
            proved = {p: (k, at) for p, (k, at) in proved.items() if k in b.keys}
        elif what == "leave":
            b.connected([], clock)
        trusted = b.trusted(clock)
        assert trusted == {p: CHALLENGE for p, (_, at) in proved.items() if at + VALID * EVERY > clock}
        assert b.next_wakeup(clock) >= 0


# --- a node's keys


@pytest.mark.parametrize("form", ['{"ecdsa": {"private_key": "%s"}}', "{ 'ecdsa' : {'private_key': '%s'}}"])
def test_a_node_s_key_is_read_in_both_ways_of_writing_it(form, tmp_path):
    assert peergate_auth.parse(form % PRIVATE) == (PRIVATE, ())
    (tmp_path / "keys").write_text(form % PRIVATE)
    assert peergate_auth.parse(f"@{tmp_path}/keys").private_key == PRIVATE


def test_further_public_keys_count():
    text = json.dumps({"ecdsa": {"public_keys": [PUBLIC]}})
    assert peergate_auth.parse(text) == ("", (PUBLIC,))
    assert peergate_auth.parse("") == peergate_auth.parse("{}") == ("", ())


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        "[]",
        '{"ecdsa": 5}',
        '{"ecdsa": {"private_key": 5}}',
        '{"ecdsa": {"private_key": "SECRET"}}',
        json.dumps({"ecdsa": {"private_key": PUBLIC}}),
        json.dumps({"ecdsa": {"public_keys": [PRIVATE]}}),
        "{",
        "@/nowhere",
        "@\0",
    ],
)
def test_bad_keys_are_one_line_without_the_secret(bad):
    with pytest.raises(UsageError) as caught:
        peergate_auth.parse(bad)
    text = str(caught.value)
    assert "\n" not in text
    assert "SECRET" not in text
    assert PRIVATE[40:60] not in text


def test_peergater_prints_what_the_go_program_prints():
    done = CliRunner().invoke(peergater, ["ecdsa-genkey"])
    private, public = (line.partition(": ")[2] for line in done.output.splitlines())
    assert done.output.startswith("Private key: ")
    assert "\nPublic key: " in done.output
    assert peerguard.public_key_of(private) == public
    alone = CliRunner().invoke(peergater, ["ecdsa-genkey", "--privkey"]).output
    assert peerguard.load_private(alone)
    assert CliRunner().invoke(peergater, ["ecdsa-pubkey"], input=alone).output == peerguard.public_key_of(alone)
    assert peerguard.load_public_untrusted(CliRunner().invoke(peergater, ["ecdsa-genkey", "--pubkey"]).output)
    both = json.loads(CliRunner().invoke(peergater, ["ecdsa-genkey", "--json"]).output)
    assert set(both) == {"private_key", "public_key"}


# --- peer lists


def test_peer_lists_hold_peers_and_networks_in_all_ways_of_writing_them():
    found = parse_peer_list(
        [A, f"/p2p/{B}", "192.0.2.7", "10.0.0.1/8", "fd00::/8", "/ip4/198.51.100.0/ipcidr/24", "/ip6/::1"]
    )
    assert found.peers == (A, B)
    assert found.networks == ("192.0.2.7/32", "10.0.0.0/8", "fd00::/8", "198.51.100.0/24", "::1/128")


@pytest.mark.parametrize("bad", ["", "x", "10.0.0.0/40", "/ip4/x", "/tcp/5", "example.org"])
def test_what_is_neither_is_said(bad):
    with pytest.raises(UsageError, match="peer id, address or network"):
        NodeConfig(run_dir="/r", blacklist=(bad,))


def test_a_gate_without_a_guard_is_refused():
    with pytest.raises(UsageError, match="--peergate needs --peerguard"):
        NodeConfig(run_dir="/r", peergate=True)
    assert "trust" in NodeConfig(run_dir="/r", peergate=True, peerguard=True).actors()
    assert "trust" not in NodeConfig(run_dir="/r").actors()
