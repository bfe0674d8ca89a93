"""Sealing: AES-256-GCM under a key that rotates with the one-time passwords.

    sealed = hex(nonce, 12 bytes || ciphertext || tag, 16 bytes), no additional data

The key is text: its characters are the key's bytes, filled with zeros or cut to 32 (a real seal key is the 32 hex
characters of an MD5, so neither happens). Hex is read in either case. Stricter than the Go program: it uses what comes
before the first character that is not hex; we refuse the message.
"""

from __future__ import annotations

import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgevpn.errors import UntrustedDataError

NONCE_SIZE = 12
TAG_SIZE = 16
KEY_SIZE = 32


def _cipher(key: str) -> AESGCM:
    return AESGCM(key.encode()[:KEY_SIZE].ljust(KEY_SIZE, b"\0"))


def seal(plaintext: bytes, key: str, nonce: bytes | None = None) -> str:
    """Seal under `key`. Leave `nonce` (12 bytes) out: a nonce used twice under one key gives both messages away."""
    if nonce is None:
        nonce = os.urandom(NONCE_SIZE)
    return (nonce + _cipher(key).encrypt(nonce, plaintext, None)).hex()


def seal_raw(plaintext: bytes, key: str, additional: bytes) -> bytes:
    """The same without hex, and bound to additional data: nonce, ciphertext and tag."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + _cipher(key).encrypt(nonce, plaintext, additional)


def open_raw_untrusted(data: bytes, keys: list[str], additional: bytes) -> tuple[bytes, int]:
    """The plaintext of what `seal_raw` gave, and the index of the key that opened it. Raises UntrustedDataError."""
    if len(data) < NONCE_SIZE + TAG_SIZE:
        raise UntrustedDataError("a sealed frame is too short")
    for index, key in enumerate(keys):
        try:
            return _cipher(key).decrypt(data[:NONCE_SIZE], data[NONCE_SIZE:], additional), index
        except InvalidTag:
            continue
    raise UntrustedDataError("a sealed frame opens with none of our keys")


def open_untrusted(sealed: str, key: str) -> bytes:
    """The plaintext of a sealed text. Raises UntrustedDataError if it is not sealed under `key`."""
    return open_with_any_untrusted(sealed, [key])[0]


def open_with_any_untrusted(sealed: str, keys: list[str]) -> tuple[bytes, int]:
    """Try several keys; the plaintext and the index of the key that opened it. Raises UntrustedDataError."""
    try:
        data = binascii.unhexlify(sealed)
    except ValueError:
        raise UntrustedDataError("a sealed message is not hex") from None
    if len(data) < NONCE_SIZE + TAG_SIZE:
        raise UntrustedDataError("a sealed message is too short")
    for index, key in enumerate(keys):
        try:
            return _cipher(key).decrypt(data[:NONCE_SIZE], data[NONCE_SIZE:], None), index
        except InvalidTag:
            continue
    raise UntrustedDataError("a sealed message opens with none of our keys")
