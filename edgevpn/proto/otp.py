"""Time-based one-time passwords, EdgeVPN's way.

RFC 6238 with SHA-256 up to the HMAC; then, instead of decimal digits, the whole digest in base64, cut to `length`:

    code = base64(HMAC-SHA256(key as UTF-8, u64be(unix time // interval)))[:length]

So a code has at most 44 characters (43 drop just the padding), and the key is text, not base32. Everything that
rotates in a network (rendezvous, topics, seal key) is the MD5 of such a code: see rendezvous.py.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import math
from dataclasses import dataclass

import pyotp

from edgevpn.errors import UsageError

MAX_LENGTH = 44  # characters of a base64 SHA-256 digest; the Go program crashes on a greater length
DEFAULT_LENGTH = 6  # what a length of 0 or less means
_U64 = 2**64 - 1


def check_interval(interval: int, what: str = "the OTP interval") -> None:
    """Refuse an interval that makes no windows. `what` names it in the UsageError."""
    if interval <= 0:
        raise UsageError(f"{what} is {interval}: it must be 1 second or more")


def check_length(length: int, what: str = "the OTP length") -> None:
    """Refuse a length that no code can have. `what` names it in the UsageError."""
    if length > MAX_LENGTH:
        raise UsageError(f"{what} is {length}: a one-time password has at most {MAX_LENGTH} characters")


@dataclass(frozen=True)
class Window:
    """The time in which one code holds: `start` <= t < `end`, unix seconds."""

    number: int
    start: int
    end: int


def window(interval: int, now: float, offset: int = 0) -> Window:
    """The window of `interval` seconds that `now` (unix seconds) is in, or the one `offset` windows later.

    Raises UsageError for an interval of 0 or less.
    """
    check_interval(interval)
    number = math.floor(now) // interval + offset
    return Window(number, number * interval, (number + 1) * interval)


class EdgeTotp(pyotp.TOTP):
    """pyotp's TOTP with EdgeVPN's key (any text), code (base64) and interval (any).

    pyotp's constructor insists on base32 secrets, 6 to 10 digits and steps of two minutes at most, so it is not called.
    """

    def __init__(self, key: str, *, length: int, interval: int) -> None:
        check_interval(interval)
        check_length(length)
        self.secret = key
        self.digits = length if length > 0 else DEFAULT_LENGTH
        self.digest = hashlib.sha256
        self.interval = interval
        self.name = "edgevpn"
        self.issuer = None

    def __repr__(self) -> str:
        return f"EdgeTotp(<secret>, length={self.digits}, interval={self.interval})"

    def byte_secret(self) -> bytes:
        return self.secret.encode()

    def timecode(self, for_time: float | datetime.datetime) -> int:
        seconds = for_time.timestamp() if isinstance(for_time, datetime.datetime) else for_time
        return (math.floor(seconds) & _U64) // self.interval  # unsigned, as in Go: exact for any 64-bit time

    def generate_otp(self, input: int) -> str:
        digest = hmac.new(self.byte_secret(), (input & _U64).to_bytes(8, "big"), self.digest).digest()
        return base64.b64encode(digest).decode()[: self.digits]


def totp(key: str, length: int, interval: int, time: float) -> str:
    """The code at `time` (unix seconds). Raises UsageError for an interval <= 0 or a length > 44."""
    return EdgeTotp(key, length=length, interval=interval).at(time)


def md5_hex(text: str) -> str:
    """Lower-case hex MD5 of a text: the protocol's way to make names and keys out of codes."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
