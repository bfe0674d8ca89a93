"""From the ledger to routes: which peer has which VPN address."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from edgevpn.draft.entry import Entry
from edgevpn.draft.values import MACHINES, read_machine_untrusted
from edgevpn.errors import UntrustedDataError


@dataclass(frozen=True, slots=True)
class MachineRoute:
    """Who has an address, and what that machine calls itself."""

    peer_id: str
    hostname: str


def routes_of(storage: Mapping[str, Mapping[str, Entry]]) -> dict[str, MachineRoute]:
    """Routes by VPN address. Entries that are deleted, or not what they should be, give none."""
    routes = {}
    for key, entry in storage.get(MACHINES, {}).items():
        if entry.deleted:
            continue
        try:
            machine = read_machine_untrusted(entry.value)
            address = str(ipaddress.ip_address(key))
        except (UntrustedDataError, ValueError):
            continue
        if machine.peer_id and (not entry.owner or machine.peer_id == entry.owner):
            routes[address] = MachineRoute(machine.peer_id, machine.hostname)
    return routes
