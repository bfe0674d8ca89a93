"""Peerguard's signatures: ECDSA on P-521, in the forms that the Go program writes.

    private key   base64url(PEM "EC PRIVATE KEY"  of SEC 1 DER)
    public key    base64url(PEM "EC PUBLIC KEY"   of SubjectPublicKeyInfo DER)
    signature     base64url(PEM "SIGNATURE"       of DER SEQUENCE {r, s})

What is signed is not the message's SHA-256 but the 64 ASCII characters of its lower-case hex, taken as the digest.
A node signs the word "challenge" and sends the signature as the annotation "sigs" of a public message; others accept
it if any key of the bucket trustzoneAuth whose name contains "ecdsa" fits. Nothing in it is fresh or bound to the
sender: whoever saw a signature can repeat it. So it decides nothing between nodes of ours.

As in Go the PEM's label is not looked at, and a public key may be on any NIST curve; bad PEM, which crashes Go, is
refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from edgevpn.errors import UntrustedDataError, UsageError

CHALLENGE = "challenge"
ANNOTATION = "sigs"

_MAX_TEXT = 8192  # characters of a key or a signature; real ones have under 600
_MAX_KEYS = 256  # tried for one message
_PEM = re.compile(rb"-----BEGIN [^\r\n]*-----[ \t]*\r?\n([A-Za-z0-9+/=\s]*)-----END [^\r\n]*-----")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_FROM_URL_SAFE = str.maketrans("-_+/", "+/..")  # the standard alphabet's own two letters become wrong
_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
# The "digest" has 64 bytes; naming a hash of that size is how to pass it through unhashed.
_ALGORITHM = ec.ECDSA(Prehashed(hashes.SHA512()))


def digest_hex(message: str) -> str:
    """The text that is signed in place of `message`."""
    return hashlib.sha256(message.encode(errors="surrogatepass")).hexdigest()


def generate_key_pair() -> tuple[str, str]:
    """A new private key and its public key, as text."""
    private = ec.generate_private_key(ec.SECP521R1())
    der = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return _armour("EC PRIVATE KEY", der), _public_text(private)


def public_key_of(private_key: str) -> str:
    """The public key that belongs to a private key's text. Raises UsageError."""
    return _public_text(load_private(private_key))


def sign(private_key: str, message: str = CHALLENGE) -> str:
    """Sign a message; the signature as text (different each time). Raises UsageError for a bad key."""
    return _armour("SIGNATURE", load_private(private_key).sign(digest_hex(message).encode(), _ALGORITHM))


def verify_untrusted(public_key: str, signature: str, message: str) -> None:
    """Return if `signature` over `message` is by `public_key`; raise UntrustedDataError if not."""
    key = load_public_untrusted(public_key)
    try:
        key.verify(_unarmour(signature), digest_hex(message).encode(), _ALGORITHM)
    except InvalidSignature:
        raise UntrustedDataError("the signature of a trust zone message is not by this key") from None


def load_public_untrusted(text: str) -> ec.EllipticCurvePublicKey:
    """A public key from its text. Raises UntrustedDataError."""
    try:
        key = serialization.load_der_public_key(_unarmour(text))
    except (ValueError, UnsupportedAlgorithm):
        raise UntrustedDataError("a trust zone key is not an ECDSA public key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise UntrustedDataError("a trust zone key is not an ECDSA public key on a NIST curve")
    return key


def authenticate_untrusted(annotations: Mapping[str, Any] | None, message: str, keys: Mapping[str, str]) -> str:
    """The name of the key in `keys` that signed a public message. Raises UntrustedDataError if there is none.

    `keys` is the bucket trustzoneAuth: name to JSON value (a JSON string holding a public key).
    """
    signature = (annotations or {}).get(ANNOTATION)
    if not isinstance(signature, str):
        raise UntrustedDataError("a trust zone message has no signature")
    for name in sorted(name for name in keys if "ecdsa" in name)[:_MAX_KEYS]:
        try:
            key = json.loads(keys[name])
            if not isinstance(key, str):
                continue
            verify_untrusted(key, signature, message)
        except (ValueError, RecursionError, UntrustedDataError):
            continue
        return name
    raise UntrustedDataError("a trust zone message is signed by none of the trust zone's keys")


def _armour(label: str, der: bytes) -> str:
    body = base64.b64encode(der).decode()
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return base64.urlsafe_b64encode(f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()).decode()


def _unarmour(text: str) -> bytes:
    """The DER inside base64url(PEM). Raises UntrustedDataError."""
    if len(text) > _MAX_TEXT:
        raise UntrustedDataError("a key or signature is too long")
    block = _PEM.search(_base64(text.replace("\r", "").replace("\n", "").translate(_FROM_URL_SAFE)))
    if block is None:
        raise UntrustedDataError("a key or signature is not PEM")
    return _base64(b"".join(block[1].split()).decode())


def _base64(text: str) -> bytes:
    """Strict: padded exactly, as Go wants it; Python's own decoder lets some wrong padding pass."""
    if not _BASE64.fullmatch(text):
        raise UntrustedDataError("a key or signature is not base64")
    return base64.b64decode(text)


def _public_text(private: ec.EllipticCurvePrivateKey) -> str:
    der = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _armour("EC PUBLIC KEY", der)


def load_private(text: str) -> ec.EllipticCurvePrivateKey:
    """A private key from its text. Raises UsageError."""
    try:
        key = serialization.load_der_private_key(_unarmour(text), password=None)
    except (UntrustedDataError, ValueError, TypeError, UnsupportedAlgorithm):
        raise UsageError("the private key is not one: make a pair with `edgevpn peergater ecdsa-genkey`") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("the private key is not an ECDSA key: make a pair with `edgevpn peergater ecdsa-genkey`")
    return key
