"""Identity keys and peer IDs of libp2p, without libp2p (whose import costs most of a second).

A peer ID is a multihash of the public key's protobuf {1: type, 2: key}; keys of up to 42 bytes, Ed25519 and secp256k1,
stand in it as they are (identity hash), so that whoever knows the ID can verify. As text it is base58 (12D3KooW...), or
a CID in base32 and others. Spec: libp2p/specs, peer-ids.md.
"""

from __future__ import annotations

import base64
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgevpn.errors import UntrustedDataError

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_MAX_TEXT = 1024
_ED25519, _SECP256K1 = 1, 2
_LIBP2P_KEY = 0x72


def base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    letters = ""
    while number:
        number, rest = divmod(number, 58)
        letters = _ALPHABET[rest] + letters
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + letters


def base58_decode_untrusted(text: str) -> bytes:
    """Raises UntrustedDataError."""
    return _from_base(text, 58, _VALUES)


def _from_base(text: str, base: int, values: dict[str, int]) -> bytes:
    if len(text) > _MAX_TEXT:
        raise UntrustedDataError("a peer ID is too long")
    number = 0
    for letter in text:
        if letter not in values:
            raise UntrustedDataError("a peer ID has a character that does not belong there")
        number = number * base + values[letter]
    zero = next(letter for letter, value in values.items() if value == 0)
    return bytes(len(text) - len(text.lstrip(zero))) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_bytes_untrusted(text: str) -> bytes:
    """The multihash of a peer ID in text form. Raises UntrustedDataError."""
    if text.startswith(("Qm", "1")):
        return _check_multihash(base58_decode_untrusted(text))
    return _check_multihash(_cid_multihash(text))


def _cid_multihash(text: str) -> bytes:
    """The multihash of a CIDv1 with the libp2p-key codec."""
    kind, rest = text[:1], text[1:]
    try:
        if kind in ("b", "B") and len(text) <= _MAX_TEXT:
            raw = base64.b32decode(rest.upper() + "=" * (-len(rest) % 8))
        elif kind == "z":
            raw = base58_decode_untrusted(rest)
        elif kind in ("k", "K"):
            raw = _from_base(rest.lower(), 36, {letter: value for value, letter in enumerate(_BASE36)})
        elif kind in ("f", "F") and len(text) <= _MAX_TEXT:
            raw = bytes.fromhex(rest)
        else:
            raise UntrustedDataError("a peer ID has an unknown form")
    except ValueError:
        raise UntrustedDataError("a peer ID has an unknown form") from None
    if raw[:2] != bytes([1, _LIBP2P_KEY]):
        raise UntrustedDataError("a peer ID is a CID of something else")
    return raw[2:]


def _check_multihash(raw: bytes) -> bytes:
    if len(raw) < 2:
        raise UntrustedDataError("a peer ID is too short")
    _, at = _varint(raw, 0)
    length, at = _varint(raw, at)
    if length != len(raw) - at:
        raise UntrustedDataError("a peer ID has a wrong length")
    return raw


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw) and shift < 63:
        value |= (raw[at] & 0x7F) << shift
        at += 1
        if raw[at - 1] < 0x80:
            return value, at
        shift += 7
    raise UntrustedDataError("a number in a key or peer ID does not end")


def peer_id_text(multihash: bytes) -> str:
    """A peer ID as base58 text."""
    return base58_encode(multihash)


def peer_id_of(public_key: bytes, kind: int = _ED25519) -> str:
    """The peer ID of a raw public key."""
    protobuf = bytes([0x08, kind, 0x12, len(public_key)]) + public_key
    return base58_encode(bytes([0x00, len(protobuf)]) + protobuf)


def public_key_untrusted(peer_id: str) -> tuple[int, bytes]:
    """(type, raw key) that stands in a peer ID. Raises UntrustedDataError when there is none in it."""
    raw = peer_id_bytes_untrusted(peer_id)
    if raw[0] != 0:
        raise UntrustedDataError("the public key does not stand in that peer ID")
    kind, data = _key_protobuf(raw[2:])
    return kind, data


def _key_protobuf(raw: bytes) -> tuple[int, bytes]:
    """{1: type, 2: data}, in any order, unknown fields skipped as protobuf does."""
    kind: int | None = None
    data: bytes | None = None
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        if tag & 7 == 0:
            value, at = _varint(raw, at)
            kind = value if tag >> 3 == 1 else kind
        elif tag & 7 == 2:
            length, at = _varint(raw, at)
            if length > len(raw) - at:
                raise UntrustedDataError("a key is cut short")
            data = raw[at : at + length] if tag >> 3 == 2 else data
            at += length
        else:
            raise UntrustedDataError("a key is not a protobuf")
    if kind is None or data is None:
        raise UntrustedDataError("a key lacks its type or its bytes")
    return kind, data


@lru_cache(maxsize=4096)
def _verifier(peer_id: str) -> Ed25519PublicKey | ec.EllipticCurvePublicKey | None:
    """The key in a peer ID, ready to verify; None when there is none that can."""
    try:
        kind, data = public_key_untrusted(peer_id)
        if kind == _ED25519:
            return Ed25519PublicKey.from_public_bytes(data)
        if kind == _SECP256K1:
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), data)
    except (UntrustedDataError, ValueError, UnsupportedAlgorithm):
        pass
    return None


def verify_untrusted(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `peer_id` signed `message`. False for whatever is wrong; never raises."""
    key = _verifier(peer_id)
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
            return True
        if key is not None:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            return True
    except (InvalidSignature, ValueError):
        pass
    return False


class PrivateKey:
    """An Ed25519 identity. Its bytes do not show in repr."""

    def __init__(self, seed: bytes) -> None:
        """`seed`: 32 bytes."""
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()
        self.peer_id = peer_id_of(self._public)

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_marshalled_untrusted(cls, raw: bytes) -> PrivateKey:
        """From libp2p's protobuf {1: type, 2: seed and public key}. Raises UntrustedDataError."""
        kind, data = _key_protobuf(raw)
        if kind != _ED25519 or len(data) not in (64, 96):
            raise UntrustedDataError("it is not an Ed25519 private key")
        key = cls(data[:32])
        if data[32:64] != key._public:
            raise UntrustedDataError("its public half does not belong to its private half")
        return key

    @property
    def seed(self) -> bytes:
        """The secret, 32 bytes."""
        return self._seed

    def marshal(self) -> bytes:
        """libp2p's protobuf of the key."""
        return bytes([0x08, _ED25519, 0x12, 64]) + self._seed + self._public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"PrivateKey(<secret> of {self.peer_id})"
