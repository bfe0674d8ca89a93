"""Identity keys and peer IDs: libp2p's formats, without importing libp2p (which takes seconds).

A peer ID is a multihash. For small keys it is the "identity" one, so the public key is inside the ID itself and any
node can check a signature knowing only its owner's name:

    0x00 length | 0x08 type 0x12 length key      type 1: Ed25519, 32 bytes; type 2: secp256k1, 33 bytes (compressed)
    multihash   | protobuf of the public key

As text it is base58btc of those bytes ("12D3KooW...", "16Uiu2HA..."), or a CIDv1 of codec libp2p-key in base32 ("b"),
base36 ("k") or base58 ("z"). IDs of RSA and ECDSA keys are hashes ("Qm..."): there is no key in them to verify with.
Only the canonical encoding of a key is taken. Go compares owners as text, and so do we.

Ed25519 is RFC 8032; secp256k1 signs the SHA-256 of the message, as DER. Formats: the libp2p specification "Peer Ids and
Keys", and the tables of multibase, multicodec and CID.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgevpn.errors import UntrustedDataError

SEED_SIZE: Final = 32
MAX_PEER_ID_TEXT: Final = 128  # characters; an ID with an inline key has 52 to 65

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES: Final = {character: value for value, character in enumerate(_BASE58)}
_BASE36_VALUES: Final = {character: value for value, character in enumerate("0123456789abcdefghijklmnopqrstuvwxyz")}
_CID_OF_KEY: Final = b"\x01\x72"  # CID version 1, codec libp2p-key
_ED25519_HEAD: Final = b"\x00\x24\x08\x01\x12\x20"
_SECP256K1_HEAD: Final = b"\x00\x25\x08\x02\x12\x21"
_SHA256_HEAD: Final = b"\x12\x20"
_SIZES: Final = {_ED25519_HEAD: 38, _SECP256K1_HEAD: 39, _SHA256_HEAD: 34}
_PRIVATE_HEAD: Final = b"\x08\x01\x12\x40"  # protobuf: type Ed25519, 64 bytes of data
_KNOWN_KEYS: Final = 4096

_PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey


def _from_digits_untrusted(text: str, values: dict[str, int]) -> bytes:
    """The bytes of a number in the base of `values`; each leading zero digit is a zero byte."""
    number, base = 0, len(values)
    try:
        for character in text:
            number = number * base + values[character]
    except KeyError:
        raise UntrustedDataError("a peer ID has a character that its base does not have") from None
    zeros = len(text) - len(text.lstrip(next(iter(values))))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_text(peer_id: bytes) -> str:
    """The base58 text of a peer ID's bytes."""
    number = int.from_bytes(peer_id, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(peer_id) - len(peer_id.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def peer_id_bytes_untrusted(text: str) -> bytes:
    """The multihash that a peer ID's text (base58 or CIDv1) stands for. Raises UntrustedDataError.

    Taken are IDs with an inline Ed25519 or secp256k1 key, and SHA-256 ones (of keys that can't be known from the ID).
    """
    if not 2 <= len(text) <= MAX_PEER_ID_TEXT:
        raise UntrustedDataError("a peer ID has an impossible length")
    if text[0] == "1" or text[:2] == "Qm":
        peer_id = _from_digits_untrusted(text, _BASE58_VALUES)
    else:
        cid = _multibase_untrusted(text[0], text[1:])
        if not cid.startswith(_CID_OF_KEY):
            raise UntrustedDataError("a peer ID is a CID of something else than a key")
        peer_id = cid[len(_CID_OF_KEY) :]
    if not any(peer_id.startswith(head) and len(peer_id) == size for head, size in _SIZES.items()):
        raise UntrustedDataError("a peer ID is neither a known kind of key nor the SHA-256 of one")
    return peer_id


def _multibase_untrusted(base: str, digits: str) -> bytes:
    if base == "z":
        return _from_digits_untrusted(digits, _BASE58_VALUES)
    if base == "k":
        return _from_digits_untrusted(digits, _BASE36_VALUES)
    if base == "b" and digits.isascii() and digits == digits.lower():
        try:
            return base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
        except ValueError:
            raise UntrustedDataError("a peer ID is not valid base32") from None
    raise UntrustedDataError("a peer ID is in no encoding that is known here")


def is_peer_id(text: str) -> bool:
    """Whether the text is a peer ID, with a key inside or without."""
    try:
        peer_id_bytes_untrusted(text)
    except UntrustedDataError:
        return False
    return True


def ed25519_public_untrusted(text: str) -> bytes:
    """The 32 bytes of the Ed25519 key inside a peer ID. Raises UntrustedDataError if there is none."""
    peer_id = peer_id_bytes_untrusted(text)
    if not peer_id.startswith(_ED25519_HEAD):
        raise UntrustedDataError("there is no Ed25519 key in a peer ID")
    return peer_id[len(_ED25519_HEAD) :]


def peer_id_of_ed25519(public: bytes) -> str:
    """The peer ID (base58 text) of a 32-byte Ed25519 public key."""
    return peer_id_text(_ED25519_HEAD + public)


# Cached, since decoding a name and loading its key cost half as much as the check itself; names are bounded before.
@lru_cache(maxsize=_KNOWN_KEYS)
def _key_inside(owner: str) -> _PublicKey | None:
    try:
        peer_id = peer_id_bytes_untrusted(owner)
        if peer_id.startswith(_ED25519_HEAD):
            return Ed25519PublicKey.from_public_bytes(peer_id[len(_ED25519_HEAD) :])
        if peer_id.startswith(_SECP256K1_HEAD):
            return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), peer_id[len(_SECP256K1_HEAD) :])
    except (UntrustedDataError, ValueError):  # ValueError: the bytes are no point of the curve
        return None
    return None


def verify(owner: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` is by the key inside the peer ID `owner`. Never raises."""
    key = _key_inside(owner) if len(owner) <= MAX_PEER_ID_TEXT else None
    if key is None:
        return False
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


class PrivateKey:
    """An Ed25519 identity. Its secret is shown by `seed` and `marshal` only: never in a repr or a pickle."""

    __slots__ = ("_key", "peer_id", "public")
    __secrets__ = ("seed",)  # what a prompt shows only when it is asked to

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32 secret bytes of RFC 8032. Raises ValueError for another length."""
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an Ed25519 seed has {SEED_SIZE} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final[bytes] = self._key.public_key().public_bytes_raw()
        self.peer_id: Final[str] = peer_id_of_ed25519(self.public)

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_marshalled_untrusted(cls, data: bytes) -> PrivateKey:
        """Read libp2p's protobuf of an Ed25519 key: type 1, data = seed || public. Raises UntrustedDataError."""
        if not data.startswith(_PRIVATE_HEAD) or len(data) != len(_PRIVATE_HEAD) + 64:
            raise UntrustedDataError("not an Ed25519 private key in libp2p's encoding")
        key = cls(data[len(_PRIVATE_HEAD) : -SEED_SIZE])
        if key.public != data[-SEED_SIZE:]:
            raise UntrustedDataError("a private key does not fit the public key beside it")
        return key

    def marshal(self) -> bytes:
        """libp2p's protobuf of the key, as Go writes it. Secret."""
        return _PRIVATE_HEAD + self.seed + self.public

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.peer_id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")
