"""Which address a node without one takes.

Where Go nodes take part, the elected node takes theirs: the highest address in use plus one, whatever subnet that is
in (`address_after_highest`). Among our own nodes each looks by itself for a free address of the network
(`free_address`): it begins at a place that its peer ID gives, so nodes that join at once rarely meet, and passes what
is used, the network's own address and its broadcast address. The claim itself is a ledger entry, and the ledger's
rules decide who has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from edgevpn.ledger.leader import fnv1a_32

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_V4_IN_V6 = 0xFFFF << 32
_HIGHEST_V4 = _V4_IN_V6 + 2**32 - 1


def _number_of(text: str) -> int | None:
    """The address as a number of 128 bits, IPv4 mapped into IPv6 as Go holds it; None if Go can't parse it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return _V4_IN_V6 + int(address)
    return None if address.scope_id is not None else int(address)


def address_after_highest(default: str, used: Iterable[str]) -> str:
    """Go's choice: the highest used address plus one, `default` if there is none. The highest of all stays."""
    numbers = [number for text in used if (number := _number_of(text)) is not None]
    if not numbers:
        return default
    highest = max(numbers)
    if _V4_IN_V6 <= highest <= _HIGHEST_V4:
        return str(ipaddress.IPv4Address(min(highest + 1, _HIGHEST_V4) - _V4_IN_V6))
    return str(ipaddress.IPv6Address(min(highest + 1, 2**128 - 1)))


def free_address(network: _Network, used: Collection[str], peer_id: str) -> str | None:
    """An address of the network for hosts that is not in `used` (texts; others than addresses are ignored).

    The same peer finds the same address while it is free. None when all are taken.
    """
    taken = {number for text in used if (number := _number_of(text)) is not None}
    base = int(network.network_address)
    offset = _V4_IN_V6 if network.version == 4 else 0
    # Network and broadcast (in IPv6: subnet-router anycast) addresses are for no host, where there are others.
    first = 1 if network.num_addresses > 2 else 0
    last = network.num_addresses - (2 if first and network.version == 4 else 1)
    count = last - first + 1
    start = fnv1a_32(peer_id) % count
    tries = (base + first + (start + step) % count for step in range(min(count, len(taken) + 1)))
    free = (number for number in tries if number + offset not in taken)
    return next((str(network[number - base]) for number in free), None)
