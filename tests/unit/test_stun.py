"""STUN requests and answers, and what they tell of a NAT."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.stun import nat_kind, read_answer_untrusted, read_request_untrusted, write_answer, write_request

ONE, TWO = b"a" * 12, b"b" * 12
# RFC 5769 section 2.2: a sample answer to the transaction below, mapped to 192.0.2.1:32853.
SAMPLE = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)


def test_the_answer_of_rfc_5769_is_read() -> None:
    transaction = SAMPLE[8:20]
    assert read_answer_untrusted(SAMPLE, {transaction}) == (transaction, ("192.0.2.1", 32853))


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(min_size=12, max_size=12))
def test_an_answer_is_read_as_it_was_written(address: object, port: int, transaction: bytes) -> None:
    assert read_request_untrusted(write_request(transaction)) == transaction
    answer = write_answer(transaction, (str(address), port))
    assert read_answer_untrusted(answer, {transaction}) == (transaction, (str(address), port))


def test_an_older_servers_plain_address_is_read() -> None:
    answer = bytes.fromhex("0101000c2112a442") + ONE + bytes.fromhex("000100080001 1234 c0000201")
    assert read_answer_untrusted(answer, {ONE}) == (ONE, ("192.0.2.1", 0x1234))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SAMPLE[:30],
        write_request(ONE),
        write_answer(TWO, ("192.0.2.1", 1)),
        bytes.fromhex("010100002112a442") + ONE,
    ],
)
def test_what_does_not_answer_us_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedDataError):
        read_answer_untrusted(data, {ONE})


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    for one in (data, bytes.fromhex("010100202112a442") + ONE + data):
        try:
            read_answer_untrusted(one, {ONE})
        except UntrustedDataError:
            pass


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ([], "blocked"),
        ([("10.0.0.5", 1)], "none"),
        ([("10.0.0.5", 1), ("10.0.0.5", 1)], "none"),
        ([("192.0.2.1", 1)], "some NAT"),
        ([("192.0.2.1", 1), ("192.0.2.1", 1)], "same for all"),
        ([("192.0.2.1", 1), ("192.0.2.1", 2)], "differs"),
    ],
)
def test_how_servers_see_us_tells_the_kind_of_nat(seen: list[tuple[str, int]], kind: str) -> None:
    assert nat_kind({"10.0.0.5"}, seen) == kind
