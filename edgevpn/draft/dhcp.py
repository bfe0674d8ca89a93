"""The next free address, by the Go program's rule: the highest in use, plus one.

Addresses compare as 16 bytes (IPv4 as mapped), what is not an address counts as lowest, and the sum neither skips
network nor broadcast addresses nor stops at the subnet's end. Networks of our own nodes do better (a later page).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence


def next_address(default: str, used: Sequence[str]) -> str | None:
    """The next address; `default` when none is in use. None when the highest is no address (Go crashes there)."""
    if not used:
        return default
    highest = max((_as_16_bytes(text) for text in used), default=None)
    if highest is None or not highest:
        return None
    mapped = ipaddress.IPv6Address(highest).ipv4_mapped
    if mapped is not None:
        return str(mapped) if int(mapped) == 2**32 - 1 else str(mapped + 1)
    number = int.from_bytes(highest, "big")
    return str(ipaddress.IPv6Address(min(number + 1, 2**128 - 1)))


def _as_16_bytes(text: str) -> bytes:
    """Go's net.ParseIP; empty for what it refuses."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return b""
    if isinstance(address, ipaddress.IPv4Address):
        return bytes(10) + b"\xff\xff" + address.packed
    return b"" if address.scope_id is not None else address.packed
