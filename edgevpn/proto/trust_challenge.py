"""How a node of ours proves that it holds a key of the trust zone: a fresh challenge, bound to asker and answerer.

On a stream of /edgevpn-py/trust/1, whose noise handshake told both sides the other's peer ID, the verifier sends

    "EVTR" | version, u8 = 1 | nonce, 32 bytes

and the prover answers

    "EVTR" | version, u8 = 1 | key, 16 bytes | length, u16be | signature

`key` is the start of the SHA-256 of the key's SubjectPublicKeyInfo. The signature is ECDSA with SHA-512, DER, over

    "edgevpn trust 1" | u16be length, verifier's peer ID | u16be length, prover's peer ID | nonce

so it is of no use to anybody else, towards anybody else, or later. (What the Go program sends instead is in
peerguard.py: a signature over a fixed word, good for whoever repeats it.)
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import peerguard

NONCE_SIZE: Final = 32
KEY_ID_SIZE: Final = 16
CHALLENGE_SIZE: Final = 5 + NONCE_SIZE
ANSWER_HEAD: Final = struct.Struct(f">5s{KEY_ID_SIZE}sH")
MAX_SIGNATURE: Final = 256  # bytes; of P-521 at most 139

_HEAD: Final = b"EVTR\x01"
_LABEL: Final = b"edgevpn trust 1"
_ALGORITHM: Final = ec.ECDSA(hashes.SHA512())


def new_challenge() -> bytes:
    """A verifier's message."""
    return _HEAD + os.urandom(NONCE_SIZE)


def key_id_untrusted(public_key: str) -> bytes:
    """What a public key's text (peerguard.py) is named by in an answer. Raises UntrustedDataError."""
    return _key_id(peerguard.load_public_untrusted(public_key))


def _key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()[:KEY_ID_SIZE]


def answer_untrusted(challenge: bytes, private_key: str, verifier: str, prover: str) -> bytes:
    """A prover's message. Raises UntrustedDataError for what is no challenge, UsageError for a bad key."""
    if len(challenge) != CHALLENGE_SIZE or not challenge.startswith(_HEAD):
        raise UntrustedDataError("a trust challenge is of another form")
    key = peerguard.load_private(private_key)
    signature = key.sign(_signed(challenge, verifier, prover), _ALGORITHM)
    return ANSWER_HEAD.pack(_HEAD, _key_id(key.public_key()), len(signature)) + signature


def answer_size_untrusted(head: bytes) -> int:
    """Bytes of the signature, from the first ANSWER_HEAD.size bytes of an answer. Raises UntrustedDataError."""
    start, _, size = ANSWER_HEAD.unpack(head)
    if start != _HEAD or size > MAX_SIGNATURE:
        raise UntrustedDataError("a trust answer is of another form")
    return int(size)


def verify_answer_untrusted(
    answer: bytes, challenge: bytes, keys: Mapping[bytes, str], verifier: str, prover: str
) -> bytes:
    """The id of the key that signed. `keys`: texts of public keys by their id. Raises UntrustedDataError."""
    if len(answer) < ANSWER_HEAD.size or len(answer) != ANSWER_HEAD.size + answer_size_untrusted(
        answer[: ANSWER_HEAD.size]
    ):
        raise UntrustedDataError("a trust answer is of another form")
    _, key_id, _ = ANSWER_HEAD.unpack_from(answer)
    text = keys.get(key_id)
    if text is None:
        raise UntrustedDataError("its key is not one of the trust zone's")
    try:
        peerguard.load_public_untrusted(text).verify(
            answer[ANSWER_HEAD.size :], _signed(challenge, verifier, prover), _ALGORITHM
        )
    except InvalidSignature:
        raise UntrustedDataError("its answer is not signed by the key that it names") from None
    return bytes(key_id)


def _signed(challenge: bytes, verifier: str, prover: str) -> bytes:
    names = b"".join(struct.pack(">H", len(name)) + name for name in (verifier.encode(), prover.encode()))
    return _LABEL + names + challenge[len(_HEAD) :]
