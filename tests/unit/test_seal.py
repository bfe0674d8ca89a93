"""Sealing: what is sealed opens with its key alone."""

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import seal

KEY = "0123456789abcdef0123456789abcdef"


@given(st.binary(max_size=2000), st.text(max_size=40))
def test_what_is_sealed_opens_again(plaintext, key):
    assert seal.open_untrusted(seal.seal(plaintext, key), key) == plaintext


def test_two_seals_of_one_text_differ():
    assert seal.seal(b"x", KEY) != seal.seal(b"x", KEY)


def test_a_sealed_text_is_lower_case_hex_of_nonce_ciphertext_and_tag():
    sealed = seal.seal(b"abc", KEY, b"\xab" * 12)
    assert sealed.startswith("ab" * 12)
    assert len(sealed) == 2 * (12 + 3 + 16)
    assert sealed == sealed.lower()
    assert seal.open_untrusted(sealed.upper(), KEY) == b"abc"


def test_a_key_is_filled_with_zeros_or_cut_to_32_bytes():
    assert seal.open_untrusted(seal.seal(b"x", "short"), "short" + "\0" * 27) == b"x"
    assert seal.open_untrusted(seal.seal(b"x", KEY), KEY + "more") == b"x"


def test_every_changed_bit_is_noticed():
    sealed = bytes.fromhex(seal.seal(b"plain", KEY))
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UntrustedDataError):
            seal.open_untrusted(changed.hex(), KEY)


@pytest.mark.parametrize("tail", ["0", "zz", "\n", " ", "é"])
def test_a_sealed_text_that_is_not_all_hex_is_refused(tail):
    with pytest.raises(UntrustedDataError, match="not hex"):
        seal.open_untrusted(seal.seal(b"x", KEY) + tail, KEY)


def test_any_of_several_keys_may_open_and_is_named():
    sealed = seal.seal(b"x", KEY)
    assert seal.open_with_any_untrusted(sealed, ["a", KEY, "b"]) == (b"x", 1)
    with pytest.raises(UntrustedDataError, match="none of our keys"):
        seal.open_with_any_untrusted(sealed, ["a", "b"])
    with pytest.raises(UntrustedDataError):
        seal.open_with_any_untrusted(sealed, [])


@given(st.text() | st.binary().map(bytes.hex))
def test_arbitrary_text_raises_only_untrusted_data(text):
    with pytest.raises(UntrustedDataError):
        seal.open_untrusted(text, KEY)
