"""Who may write in a bucket, and when its entries expire: one row a bucket.

| bucket | owner | expires |
|---|---|---|
| machines, services, files | the PeerID that the value names | with its owner's heartbeat |
| users, egress | the key itself | with its owner's heartbeat |
| healthcheck | the key itself | a TTL after its own UpdatedAt |
| dns | whoever signed first | with its owner's heartbeat |
| anything else | nobody: the highest version wins | never |

`--ownership` says how far this is kept: `enforce` drops what breaks it, `observe` logs and stores it, `off` knows no
entries at all, only whole blocks. Names of buckets are exact: "Machines" is an open bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from edgevpn.proto.entry import Entry
from edgevpn.proto.values import HEALTHCHECK, peer_id_in_value

DEFAULT_TTL: Final = 480.0  # seconds an owner is live after a heartbeat: four intervals


class Mode(StrEnum):
    """`--ownership`."""

    ENFORCE = "enforce"
    OBSERVE = "observe"
    OFF = "off"


class Expiry(Enum):
    """When an entry may be taken over by others and cleaned up."""

    NEVER = "never"
    LIVENESS = "liveness"  # when its owner's heartbeat is older than the TTL
    ABSOLUTE = "absolute"  # when its own UpdatedAt is older than the TTL


@dataclass(frozen=True, slots=True)
class Policy:
    """`owner_of(key, value)` is who a value must be signed by; None: any signer (the first one owns the key)."""

    owned: bool
    owner_of: Callable[[str, str], str] | None
    expiry: Expiry


def _key_is_owner(key: str, value: str) -> str:  # noqa: ARG001  called as owner_of
    return key


def _value_names_owner(key: str, value: str) -> str:  # noqa: ARG001  called as owner_of
    return peer_id_in_value(value)


OPEN: Final = Policy(owned=False, owner_of=None, expiry=Expiry.NEVER)
_OF_VALUE: Final = Policy(owned=True, owner_of=_value_names_owner, expiry=Expiry.LIVENESS)
_OF_KEY: Final = Policy(owned=True, owner_of=_key_is_owner, expiry=Expiry.LIVENESS)

POLICIES: Final[dict[str, Policy]] = {
    "machines": _OF_VALUE,
    "services": _OF_VALUE,
    "files": _OF_VALUE,
    "users": _OF_KEY,
    "egress": _OF_KEY,
    HEALTHCHECK: Policy(owned=True, owner_of=_key_is_owner, expiry=Expiry.ABSOLUTE),
    "dns": Policy(owned=True, owner_of=None, expiry=Expiry.LIVENESS),
}


def policy_of(bucket: str) -> Policy:
    return POLICIES.get(bucket, OPEN)


def owner_of(policy: Policy, key: str, entry: Entry) -> str:
    """Whom an entry that is in the ledger belongs to: its signer, or, unsigned, whom it names ("" when nobody)."""
    if entry.owner or policy.owner_of is None:
        return entry.owner
    return policy.owner_of(key, entry.value)
