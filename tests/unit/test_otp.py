"""One-time passwords: EdgeVPN's code, and the windows it holds for."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, strategies as st

from edgevpn.errors import UsageError
from edgevpn.proto import otp


def test_the_code_is_the_base64_of_the_whole_hmac_cut_to_length():
    digest = hmac.new("kéy".encode(), (5).to_bytes(8, "big"), hashlib.sha256).digest()
    assert otp.totp("kéy", 43, 60, 300) == base64.b64encode(digest).decode()[:43]


def test_the_code_changes_exactly_at_the_edge_of_a_window():
    assert otp.totp("k", 43, 360, 719.999) == otp.totp("k", 43, 360, 360)
    assert otp.totp("k", 43, 360, 720) != otp.totp("k", 43, 360, 719.999)


@pytest.mark.parametrize("length", [0, -1, -(2**63)])
def test_a_length_of_zero_or_less_means_six_characters(length):
    assert otp.totp("k", length, 60, 0) == otp.totp("k", 6, 60, 0)


@pytest.mark.parametrize("interval", [0, -1, -360])
def test_an_interval_that_makes_no_windows_is_refused(interval):
    with pytest.raises(UsageError, match=f"interval is {interval}"):
        otp.totp("k", 43, interval, 0)
    with pytest.raises(UsageError):
        otp.window(interval, 0)


def test_a_code_of_44_characters_is_the_longest():
    assert len(otp.totp("k", 44, 60, 0)) == 44
    with pytest.raises(UsageError, match="at most 44"):
        otp.totp("k", 45, 60, 0)


def test_times_beyond_the_precision_of_a_float_are_exact():
    assert otp.EdgeTotp("k", length=43, interval=1).timecode(2**63 - 1) == 2**63 - 1


@given(st.integers(1, 10**6), st.floats(0, 2**40), st.integers(-3, 3))
def test_a_window_holds_its_time_and_touches_the_next(interval, now, offset):
    current = otp.window(interval, now)
    assert current.start <= now < current.end
    shifted = otp.window(interval, now, offset)
    assert shifted.number == current.number + offset
    assert shifted.end - shifted.start == interval
    assert otp.window(interval, shifted.end).start == shifted.end


def test_verify_of_pyotp_works_with_our_codes():
    totp = otp.EdgeTotp("k", length=43, interval=60)
    assert totp.verify(totp.at(59), for_time=61, valid_window=1)
    assert not totp.verify(totp.at(59), for_time=181, valid_window=1)


def test_repr_does_not_show_the_key():
    assert "hunter2" not in repr(otp.EdgeTotp("hunter2", length=43, interval=60))
