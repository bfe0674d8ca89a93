"""Where others see us: STUN binding requests (RFC 8489) and their answers, and what they tell of a NAT (RFC 4787).

    0      2      4        8              20
    +------+------+--------+--------------+----------------------------------+
    | type | size | cookie | transaction  | attributes: type, size, value ... |
    +------+------+--------+--------------+----------------------------------+

One socket asks several servers. If all see it at one address the NAT maps it the same way for everybody
(endpoint-independent: a peer who is told that address can reach it once we have sent to the peer); if each sees
another one, nobody can be told in advance where we will be.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from edgevpn.errors import UntrustedDataError

COOKIE: Final = 0x2112A442
TRANSACTION: Final = 12  # bytes
MAX_ANSWER: Final = 1500
_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_MAPPED: Final = 0x0001
_XOR_MAPPED: Final = 0x0020
_HEADER: Final = struct.Struct("!HHI12s")
_ATTRIBUTE: Final = struct.Struct("!HH")

Seen = tuple[str, int]


def write_request(transaction: bytes) -> bytes:
    """A binding request; `transaction`: 12 random bytes."""
    return _HEADER.pack(_REQUEST, 0, COOKIE, transaction)


def write_answer(transaction: bytes, seen: Seen) -> bytes:
    """The answer of a server that sees the client at `seen`."""
    address = ipaddress.ip_address(seen[0])
    key = struct.pack("!I12s", COOKIE, transaction)
    mixed = bytes(a ^ b for a, b in zip(address.packed, key, strict=False))
    value = struct.pack("!BBH", 0, 1 if address.version == 4 else 2, seen[1] ^ COOKIE >> 16) + mixed
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED, len(value)) + value
    return _HEADER.pack(_SUCCESS, len(attribute), COOKIE, transaction) + attribute


def read_request_untrusted(data: bytes) -> bytes:
    """The transaction of a binding request. Raises UntrustedDataError."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _REQUEST or _HEADER.unpack_from(data)[2] != COOKIE:
        raise UntrustedDataError("no STUN binding request")
    transaction: bytes = _HEADER.unpack_from(data)[3]
    return transaction


def read_answer_untrusted(data: bytes, transactions: Collection[bytes]) -> tuple[bytes, Seen]:
    """The transaction that is answered, and the address we are seen at. Raises UntrustedDataError."""
    if not _HEADER.size <= len(data) <= MAX_ANSWER:
        raise UntrustedDataError("a STUN answer of a wrong size")
    kind, size, cookie, transaction = _HEADER.unpack_from(data)
    if kind != _SUCCESS or cookie != COOKIE or transaction not in transactions or len(data) < _HEADER.size + size:
        raise UntrustedDataError("not the answer to a STUN request of ours")
    position = _HEADER.size
    plain: Seen | None = None
    while position + _ATTRIBUTE.size <= _HEADER.size + size:
        name, length = _ATTRIBUTE.unpack_from(data, position)
        value = data[position + _ATTRIBUTE.size :][:length]
        if name == _XOR_MAPPED:
            return transaction, _address(value, struct.pack("!I12s", COOKIE, transaction))
        if name == _MAPPED:
            plain = _address(value, bytes(16))
        position += _ATTRIBUTE.size + (length + 3) // 4 * 4
    if plain is None:
        raise UntrustedDataError("a STUN answer without an address")
    return transaction, plain


def _address(value: bytes, key: bytes) -> Seen:
    sizes = {1: 4, 2: 16}
    if len(value) < 4 or len(value) != 4 + sizes.get(value[1], -1):
        raise UntrustedDataError("a STUN answer with a malformed address")
    port = int.from_bytes(value[2:4], "big") ^ int.from_bytes(key[:2], "big")
    packed = bytes(a ^ b for a, b in zip(value[4:], key, strict=False))
    return str(ipaddress.ip_address(packed)), port


def nat_kind(local: Collection[str], seen: Mapping[str, Seen] | Sequence[Seen]) -> str:
    """What stands between us and the servers that answered, all asked from one socket of one address family.

    "blocked": nobody answered; "none": they see an address of ours (`local`); "same for all", "differs": a NAT that
    maps us alike for everybody, or not; "some NAT": one answer only.
    """
    found = list(seen.values()) if isinstance(seen, Mapping) else list(seen)
    if not found:
        return "blocked"
    if all(address in local for address, _ in found):
        return "none"
    if len(found) == 1:
        return "some NAT"
    return "same for all" if len(set(found)) == 1 else "differs"
