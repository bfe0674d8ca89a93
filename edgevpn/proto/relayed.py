"""Multiaddrs that lead through a relay: `ADDRESS/p2p/RELAY/p2p-circuit[/p2p/PEER]` (libp2p's specs, relay). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

CIRCUIT: Final = "/p2p-circuit"


def is_relayed(addr: str) -> bool:
    return CIRCUIT in addr


def without_relayed(addrs: Iterable[str]) -> list[str]:
    """Those that lead straight to their peer."""
    return [addr for addr in addrs if CIRCUIT not in addr]


def only_relayed(addrs: Iterable[str]) -> list[str]:
    """The others."""
    return [addr for addr in addrs if CIRCUIT in addr]


def relay_of(remotes: Sequence[str]) -> str:
    """The relay that all of a peer's connections (multiaddrs of their other ends) go through; "" if one does not."""
    relays = [addr.partition(CIRCUIT)[0].rpartition("/p2p/")[2] for addr in remotes if CIRCUIT in addr]
    return relays[-1] if relays and len(relays) == len(remotes) else ""
