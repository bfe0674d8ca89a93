"""From the ledger's machines to routes: which peer has which VPN address.

A route comes from the key of a `machines` entry, and leads to the PeerID of its value if that is who signed it. What
nobody signed is followed where it is stored at all: under `observe`, from nodes without ownership, and under `off`. Go
looks addresses up by their text, so only the one canonical spelling of an address is an address: another spelling would
be another key, free for anybody to claim.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.leases import Leases
from edgevpn.ledger.policy import DEFAULT_TTL, Mode
from edgevpn.proto.block import Storage
from edgevpn.proto.values import MACHINES, Machine, machine_untrusted


@dataclass(frozen=True, slots=True)
class LedgerRoute:
    """Who has an address. `live`: its heartbeat is fresh (without ownership there are no leases: always)."""

    peer_id: str
    hostname: str
    live: bool


# All machines are looked at again at each change, so what their texts mean is remembered; long texts are not, for a
# member can make as many as it likes.
_REMEMBERED: Final = 16_384
_LONGEST_ADDRESS: Final = 45  # characters
_LONGEST_REMEMBERED: Final = 512


def is_canonical_address(text: str) -> bool:
    """Whether the text is an address as both Go and Python write it (no IPv4 inside IPv6, no zone)."""
    return len(text) <= _LONGEST_ADDRESS and _is_canonical(text)


@lru_cache(maxsize=_REMEMBERED)
def _is_canonical(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        return False
    return str(address) == text


def _machine(value: str) -> Machine | None:
    return _remembered_machine(value) if len(value) <= _LONGEST_REMEMBERED else _read_machine(value)


def _read_machine(value: str) -> Machine | None:
    try:
        return machine_untrusted(value)
    except UntrustedDataError:
        return None


_remembered_machine = lru_cache(maxsize=_REMEMBERED)(_read_machine)


def routing_table(
    storage: Storage, now: float, ttl: float = DEFAULT_TTL, mode: Mode = Mode.ENFORCE
) -> dict[str, LedgerRoute]:
    """The routes by VPN address (text). What is not a machine is left out. Times in seconds."""
    leases = Leases(storage, now, ttl)
    table: dict[str, LedgerRoute] = {}
    for key, entry in storage.get(MACHINES, {}).items():
        if entry.deleted or not is_canonical_address(key):
            continue
        machine = _machine(entry.value)
        if machine is None:
            continue
        if mode is Mode.OFF:
            table[key] = LedgerRoute(machine.peer_id, machine.hostname, live=True)
        elif entry.owner == machine.peer_id or (mode is Mode.OBSERVE and not entry.owner):
            table[key] = LedgerRoute(machine.peer_id, machine.hostname, leases.is_live(machine.peer_id))
    return table
