"""How two nodes of ours agree on the keys of a datagram session: an offer and an answer on a libp2p stream.

The stream is authenticated (noise) and tells both sides the other's peer ID. Each session has keys of its own, from an
ephemeral X25519 and an ephemeral ML-KEM-768 (FIPS 203) together, as TLS's X25519MLKEM768 does it: who records today
must break both.

    0        4         5       6         7       8        10           14           46
    +--------+---------+-------+---------+-------+--------+------------+------------+-----------+------------+
    | "EVPD" | version | flags | ciphers | count | MTU    | session    | X25519     | ML-KEM    | candidates |
    |        | 1       |       |         |       | u16    | u32        | public key |           | count x 18 |
    +--------+---------+-------+---------+-------+--------+------------+------------+-----------+------------+

`session` is what the sender wants to see at the head of datagrams to it. ML-KEM: the encapsulation key (1184 bytes) in
an offer, the ciphertext (1088) in an answer. `ciphers`: bits, in an answer the one that was chosen. `flags`: what
super-packets the sender takes (packet_stream.py). A candidate is an address (16 bytes) and a port of the sender's.

    transcript = SHA-256(label | u16 length, initiator's peer ID | u16 length, responder's | offer | answer)
    keys       = HKDF-SHA-256(secret = ML-KEM secret | X25519 secret, salt = transcript), info by direction
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import Address, pack_ip, unpack_ip

AES_256_GCM: Final = 1
CHACHA20_POLY1305: Final = 2
MAX_CANDIDATES: Final = 16

_MAGIC, _VERSION = b"EVPD", 1
_FIXED = struct.Struct(">4sBBBBHI32s")
_CANDIDATE = struct.Struct(">16sH")
_OFFERED_KEM, _ANSWERED_KEM = 1184, 1088
OFFER_HEAD: Final = _FIXED.size + _OFFERED_KEM
ANSWER_HEAD: Final = _FIXED.size + _ANSWERED_KEM

_LABEL = b"edgevpn datagram 1"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a side says of itself. `ciphers`: bits; `session`: the number it wants to be sent."""

    flags: int
    ciphers: int
    mtu: int
    session: int
    candidates: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreed:
    """A session as one side sees it: the other's terms, the cipher, and the keys (32 bytes each)."""

    terms: Terms
    cipher: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)


class Offering:
    """The initiator: `message` goes out, `finish_untrusted` takes the answer. Good for one handshake."""

    def __init__(self, terms: Terms, initiator: str, responder: str) -> None:
        self._names = _names(initiator, responder)
        self._terms = terms
        self._x25519 = X25519PrivateKey.generate()
        self._kem = MLKEM768PrivateKey.generate()
        self.message = _write(terms, self._x25519, self._kem.public_key().public_bytes_raw())

    def finish_untrusted(self, answer: bytes) -> Agreed:
        """The session. Raises UntrustedDataError."""
        terms, public, kem = _read_untrusted(answer, _ANSWERED_KEM)
        if terms.ciphers not in (AES_256_GCM, CHACHA20_POLY1305) or not terms.ciphers & self._terms.ciphers:
            raise UntrustedDataError("a handshake's answer chose a cipher that was not offered")
        try:
            secret = self._kem.decapsulate(kem) + self._x25519.exchange(public)
        except (ValueError, InvalidKey):
            raise UntrustedDataError("a handshake's answer has a key that is none") from None
        there, back = _keys(secret, self._names + self.message + answer)
        return Agreed(terms, terms.ciphers, there, back)


def answer_untrusted(
    offer: bytes,
    flags: int,
    mtu: int,
    session: int,
    candidates: Sequence[Address],
    prefer: int,
    initiator: str,
    responder: str,
) -> tuple[bytes, Agreed]:
    """The responder: the answer to send, and the session. `prefer`: the cipher if it is offered.

    Raises UntrustedDataError.
    """
    theirs, public, kem = _read_untrusted(offer, _OFFERED_KEM)
    # AES where both have it in hardware: who has not offers ChaCha20 alone.
    usable = theirs.ciphers & (AES_256_GCM | CHACHA20_POLY1305)
    cipher = prefer if usable & prefer else usable & -usable
    if not cipher:
        raise UntrustedDataError("a handshake's offer has no cipher that we know")
    x25519 = X25519PrivateKey.generate()
    try:
        shared, ciphertext = MLKEM768PublicKey.from_public_bytes(kem).encapsulate()
        secret = shared + x25519.exchange(public)
    except (ValueError, InvalidKey):
        raise UntrustedDataError("a handshake's offer has a key that is none") from None
    message = _write(Terms(flags, cipher, mtu, session, tuple(candidates)), x25519, ciphertext)
    there, back = _keys(secret, _names(initiator, responder) + offer + message)
    return message, Agreed(theirs, cipher, back, there)


def candidates_size_untrusted(head: bytes) -> int:
    """How many bytes of candidates follow a message's fixed part of OFFER_HEAD or ANSWER_HEAD bytes.

    Raises UntrustedDataError.
    """
    magic, version, _, _, count, *_ = _FIXED.unpack_from(head)
    if magic != _MAGIC or version != _VERSION:
        raise UntrustedDataError("a handshake does not begin as ours do")
    if count > MAX_CANDIDATES:
        raise UntrustedDataError(f"a handshake has more than {MAX_CANDIDATES} candidates")
    return int(count) * _CANDIDATE.size


def _write(terms: Terms, x25519: X25519PrivateKey, kem: bytes) -> bytes:
    candidates = terms.candidates[:MAX_CANDIDATES]
    public = x25519.public_key().public_bytes_raw()
    fixed = (terms.flags, terms.ciphers, len(candidates), terms.mtu, terms.session, public)
    packed = [_CANDIDATE.pack(pack_ip(ip), port) for ip, port in candidates]
    return _FIXED.pack(_MAGIC, _VERSION, *fixed) + kem + b"".join(packed)


def _read_untrusted(data: bytes, kem_size: int) -> tuple[Terms, X25519PublicKey, bytes]:
    start = _FIXED.size + kem_size
    if len(data) < start or len(data) != start + candidates_size_untrusted(data):
        raise UntrustedDataError("a handshake has a wrong length")
    _, _, flags, ciphers, _, mtu, session, public = _FIXED.unpack_from(data)
    candidates = [(unpack_ip(packed), port) for packed, port in _CANDIDATE.iter_unpack(data[start:])]
    terms = Terms(flags, ciphers, mtu, session, tuple(candidates))
    return terms, X25519PublicKey.from_public_bytes(public), data[_FIXED.size : start]


def _names(initiator: str, responder: str) -> bytes:
    return _LABEL + b"".join(struct.pack(">H", len(name)) + name.encode() for name in (initiator, responder))


def _keys(secret: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    """Initiator to responder, and back."""
    salt = hashlib.sha256(transcript).digest()

    def derive(info: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt, _LABEL + info).derive(secret)

    return derive(b", initiator to responder"), derive(b", responder to initiator")
