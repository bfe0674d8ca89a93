"""Who leads: of the nodes that are live, the one whose peer ID has the largest FNV-1a hash.

Every node finds the same leader without a word, as far as it sees the same heartbeats. A node counts as available here
when its heartbeat is younger than `--aliveness-healthcheck-max-interval` (900 s), not the shorter ownership TTL.
FNV-1a with 32 bits is RFC 9923 (draft-eastlake-fnv).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgevpn.ledger.leases import Leases
from edgevpn.proto.block import Storage

_OFFSET = 0x811C9DC5
_PRIME = 0x01000193


def fnv1a_32(text: str) -> int:
    """The 32-bit FNV-1a hash of the text's UTF-8."""
    value = _OFFSET
    for byte in text.encode():
        value = (value ^ byte) * _PRIME & 0xFFFFFFFF
    return value


def leader_of(peers: Iterable[str]) -> str | None:
    """The peer with the largest hash, the first of equals; None when there is no peer."""
    return max(peers, key=fnv1a_32, default=None)


def available_peers(storage: Storage, now: float, max_age: float) -> list[str]:
    """The peers whose heartbeat is younger than `max_age` seconds, sorted (Go's order is random)."""
    return Leases(storage, now, max_age).live_peers()
