"""What a relay has promised and carries: reservations, circuits, and who may have them. Pure.

A reservation belongs to the peer that asked for it on its own connection, until it expires or that connection ends. A
circuit leads from any peer that may use the relay to one that has a reservation. Whoever asks is known by the noise
handshake of its connection; no message names it.

Bounds: `max_circuits` of one peer, as either end; MAX_RESERVATIONS and MAX_CIRCUITS in all; one IP address holds half
of the reservations at most. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from edgevpn.p2p.circuit import Status

MAX_RESERVATIONS: Final = 256
MAX_CIRCUITS: Final = 512


@dataclass(frozen=True)
class Limits:
    """`max_data` bytes each way and `max_duration` seconds of a circuit; 0: no limit. `buffer_size`: bytes."""

    max_data: int = 1 << 30
    max_duration: float = 1800.0
    max_circuits: int = 64
    reservation_ttl: float = 3600.0
    buffer_size: int = 65536


@dataclass(slots=True)
class _Reserved:
    ip: str
    expires: float


class RelayTable:
    """`members`: who may use the relay; None: everybody."""

    def __init__(self, limits: Limits, members: Container[str] | None = frozenset()) -> None:
        self.limits = limits
        self.members = members
        self._reserved: dict[str, _Reserved] = {}
        self._circuits: Counter[str] = Counter()  # ends, by peer
        self.circuits = 0

    @property
    def reservations(self) -> int:
        return len(self._reserved)

    def has_place(self, peer: str) -> bool:
        return peer in self._reserved

    def allows(self, peer: str) -> bool:
        return self.members is None or peer in self.members

    def reserve(self, peer: str, ip: str, now: float) -> Status:
        """Make or renew the peer's reservation."""
        if not self.allows(peer):
            return Status.PERMISSION_DENIED
        self.expire(now)
        others = [one for name, one in self._reserved.items() if name != peer]
        if len(others) >= MAX_RESERVATIONS or sum(one.ip == ip for one in others) >= MAX_RESERVATIONS // 2:
            return Status.RESERVATION_REFUSED
        self._reserved[peer] = _Reserved(ip, now + self.limits.reservation_ttl)
        return Status.OK

    def open(self, source: str, target: str, now: float) -> Status:
        """Count a circuit from `source` to `target`; who gets OK says `close` in the end."""
        if not self.allows(source):
            return Status.PERMISSION_DENIED
        self.expire(now)
        if target not in self._reserved or source == target:
            return Status.NO_RESERVATION
        if not self.allows(target):
            return Status.PERMISSION_DENIED  # it was a member when it reserved
        most = self.limits.max_circuits
        if max(self._circuits.get(source, 0), self._circuits.get(target, 0)) >= most or self.circuits >= MAX_CIRCUITS:
            return Status.RESOURCE_LIMIT_EXCEEDED
        self._circuits[source] += 1
        self._circuits[target] += 1
        self.circuits += 1
        return Status.OK

    def close(self, source: str, target: str) -> None:
        """A circuit has ended."""
        self.circuits -= 1
        for peer in (source, target):
            self._circuits[peer] -= 1
            if not self._circuits[peer]:
                del self._circuits[peer]

    def gone(self, peer: str) -> None:
        """Its last connection ended, and its reservation with it."""
        self._reserved.pop(peer, None)

    def expire(self, now: float) -> None:
        for peer in [peer for peer, one in self._reserved.items() if one.expires <= now]:
            del self._reserved[peer]
