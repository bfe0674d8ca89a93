"""The servers that other names are asked of: in which order they are tried.

In the order they were given; one that did not answer goes to the end for BENCH seconds, so that its time-out is paid
once and not by every name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BENCH: Final = 15.0


class Servers:
    """The order in which to try servers. Times in seconds of a monotonic clock."""

    def __init__(self, addresses: Iterable[tuple[str, int]]) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))
        self._benched: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def order(self, now: float) -> list[tuple[str, int]]:
        """All of them, the best first."""
        return sorted(self._addresses, key=lambda one: self._until(one, now))

    def _until(self, address: tuple[str, int], now: float) -> float:
        """When its time at the end is over; 0.0 if it is not there."""
        until = self._benched.get(address, 0.0)
        return until if until > now else 0.0

    def failed(self, address: tuple[str, int], now: float) -> None:
        self._benched[address] = now + BENCH

    def answered(self, address: tuple[str, int]) -> None:
        self._benched.pop(address, None)
