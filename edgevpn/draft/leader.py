"""The leader among live nodes: whose peer ID has the largest FNV-1a hash (32 bits); of equal ones, the first listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgevpn.draft.entry import Entry
from edgevpn.draft.values import HEALTHCHECK, heartbeat_time_untrusted

_OFFSET, _PRIME = 2166136261, 16777619


def fnv1a_32(text: str) -> int:
    """http://www.isthe.com/chongo/tech/comp/fnv/"""
    value = _OFFSET
    for byte in text.encode("utf-8", "replace"):
        value = (value ^ byte) * _PRIME & 0xFFFFFFFF
    return value


def leader_of(peers: Iterable[str]) -> str:
    """The leader; "" of none."""
    return max(peers, key=fnv1a_32, default="")


def live_peers(storage: Mapping[str, Mapping[str, Entry]], max_age: float, now: float) -> list[str]:
    """Peers whose heartbeat is younger than `max_age`, sorted."""
    found = []
    for peer, entry in storage.get(HEALTHCHECK, {}).items():
        beat = None if entry.deleted else heartbeat_time_untrusted(entry.value)
        if beat is not None and beat + max_age > now:
            found.append(peer)
    return sorted(found)
