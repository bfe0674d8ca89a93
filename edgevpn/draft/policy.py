"""The policy of each bucket: who owns an entry, and when its lease ends.

bucket                      owner                       the lease ends
machines, services, files   the value's PeerID          with the owner's liveness
users, egress               the key                     with the owner's liveness
healthcheck                 the key                     a TTL after updated_at
dns                         whoever signed first        with the owner's liveness
any other                   open: nobody, no signature  never
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from edgevpn.draft.values import (
    DNS,
    EGRESS,
    FILES,
    HEALTHCHECK,
    MACHINES,
    SERVICES,
    USERS,
    peer_id_in_untrusted,
)


class Lease(Enum):
    """When an entry expires."""

    NEVER = "never"
    LIVENESS = "liveness"
    ABSOLUTE = "absolute"


@dataclass(frozen=True, slots=True)
class Policy:
    """`owner_of(key, value)`: who must sign; None: whoever signed first (self-owned)."""

    owned: bool = False
    owner_of: Callable[[str, str], str] | None = None
    lease: Lease = Lease.NEVER


OPEN = Policy()


def _key(key: str, _value: str) -> str:
    return key


def _value_peer(_key: str, value: str) -> str:
    return peer_id_in_untrusted(value)


_BY_VALUE = Policy(owned=True, owner_of=_value_peer, lease=Lease.LIVENESS)
_BY_KEY = Policy(owned=True, owner_of=_key, lease=Lease.LIVENESS)
_POLICIES = {
    MACHINES: _BY_VALUE,
    SERVICES: _BY_VALUE,
    FILES: _BY_VALUE,
    USERS: _BY_KEY,
    EGRESS: _BY_KEY,
    HEALTHCHECK: Policy(owned=True, owner_of=_key, lease=Lease.ABSOLUTE),
    DNS: Policy(owned=True, owner_of=None, lease=Lease.LIVENESS),
}


def policy_of(bucket: str) -> Policy:
    return _POLICIES.get(bucket, OPEN)
