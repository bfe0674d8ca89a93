"""Agreeing on the keys of a datagram session."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import SEVERAL
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
from edgevpn.proto.packet_stream import TAKES_TCP, TAKES_UDP

BOTH = AES_256_GCM | CHACHA20_POLY1305
CANDIDATES = (("192.0.2.1", 4000), ("2001:db8::1", 4001))


def handshake(
    ciphers: int = BOTH, prefer: int = AES_256_GCM, names: tuple[str, str] = ("one", "two"), seen_as: str = "one"
) -> tuple[Agreed, Agreed]:
    offering = Offering(Terms(3, ciphers, 1420, 11, CANDIDATES), *names)
    message, theirs = answer_untrusted(offering.message, 1, 1280, 22, CANDIDATES[:1], prefer, seen_as, names[1])
    return offering.finish_untrusted(message), theirs


def test_both_sides_have_the_same_keys_and_know_the_others_terms() -> None:
    one, two = handshake()
    assert (one.send_key, one.receive_key) == (two.receive_key, two.send_key)
    assert one.send_key != one.receive_key
    assert len(one.send_key) == 32
    assert one.terms == Terms(1, AES_256_GCM, 1280, 22, CANDIDATES[:1])
    assert two.terms == Terms(3, BOTH, 1420, 11, CANDIDATES)


def test_every_handshake_has_keys_of_its_own() -> None:
    assert handshake()[0].send_key != handshake()[0].send_key


def test_who_takes_the_other_for_somebody_else_gets_other_keys() -> None:
    one, two = handshake(seen_as="three")
    assert one.send_key != two.receive_key


@pytest.mark.parametrize(
    ("ciphers", "prefer", "chosen"),
    [
        (BOTH, AES_256_GCM, AES_256_GCM),
        (BOTH, CHACHA20_POLY1305, CHACHA20_POLY1305),
        (CHACHA20_POLY1305, AES_256_GCM, CHACHA20_POLY1305),
        (AES_256_GCM, CHACHA20_POLY1305, AES_256_GCM),
        (BOTH | 128, AES_256_GCM, AES_256_GCM),
    ],
)
def test_a_cipher_is_chosen_that_both_have(ciphers: int, prefer: int, chosen: int) -> None:
    one, two = handshake(ciphers, prefer)
    assert one.cipher == two.cipher == chosen


def test_an_offer_without_a_cipher_of_ours_is_refused() -> None:
    with pytest.raises(UntrustedDataError, match="cipher"):
        handshake(ciphers=64)


def test_an_answer_with_a_cipher_that_was_not_offered_is_refused() -> None:
    offering = Offering(Terms(3, CHACHA20_POLY1305, 1420, 11), "one", "two")
    other = Offering(Terms(3, BOTH, 1420, 11), "one", "two")
    message, _ = answer_untrusted(other.message, 1, 1280, 22, (), AES_256_GCM, "one", "two")
    with pytest.raises(UntrustedDataError, match="not offered"):
        offering.finish_untrusted(message)


def test_secrets_are_in_no_repr() -> None:
    one, _ = handshake()
    assert one.send_key.hex() not in repr(one)
    assert "key" not in repr(one)


def test_a_changed_bit_gives_other_keys_or_is_refused() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(60):
        offering = Offering(Terms(3, BOTH, 1420, 11, CANDIDATES), "one", "two")
        offer = bytearray(offering.message)
        at = chance.randrange(len(offer))
        offer[at] ^= 1 << chance.randrange(8)
        try:
            message, theirs = answer_untrusted(bytes(offer), 1, 1280, 22, (), AES_256_GCM, "one", "two")
            ours = offering.finish_untrusted(message)
        except UntrustedDataError:
            continue
        assert ours.send_key != theirs.receive_key, f"byte {at} of the offer is not bound"


@given(st.binary(max_size=2000), st.booleans())
def test_garbage_is_refused_with_our_error(data: bytes, begins_well: bool) -> None:
    if begins_well:
        data = b"EVPD\x01" + data.ljust(OFFER_HEAD)
    with pytest.raises(UntrustedDataError):
        answer_untrusted(data, 1, 1280, 22, (), AES_256_GCM, "one", "two")
    offering = Offering(Terms(3, BOTH, 1420, 11), "one", "two")
    with pytest.raises(UntrustedDataError):
        offering.finish_untrusted(data)


def test_more_candidates_than_allowed_are_refused_before_they_are_read() -> None:
    offering = Offering(Terms(3, BOTH, 1420, 11, tuple((f"10.0.0.{n}", 9) for n in range(30))), "one", "two")
    assert candidates_size_untrusted(offering.message) == 18 * MAX_CANDIDATES
    assert len(offering.message) == OFFER_HEAD + 18 * MAX_CANDIDATES
    many = bytearray(offering.message)
    many[7] = MAX_CANDIDATES + 1
    with pytest.raises(UntrustedDataError, match="candidates"):
        candidates_size_untrusted(bytes(many[:ANSWER_HEAD]))


def test_each_flag_has_a_bit_of_its_own_in_one_byte() -> None:
    flags = [TAKES_TCP, TAKES_UDP, REPAIRS, SEVERAL, CODES]
    assert all(flag.bit_count() == 1 for flag in flags)
    assert sum(flags) == 0b11111
