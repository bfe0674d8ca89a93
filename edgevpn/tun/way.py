"""One way to a peer: an address of the peer's, and what its answers have told. Pure, times are `now`'s.

Of a way are known its size (edgevpn/tun/path_mtu.py), its round trip and its loss, both by probes: the least of the
last few round trips, which a queue of our own making moves little, and the share of the last 32 small probes that were
not answered. One or two lost probes are no loss; a way that was silent for a while has lost many, and is not trusted at
once when it is back. `cost` weighs both: a lost packet costs its user about what a timer of TCP takes.
"""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from typing import Final

from edgevpn.proto.datagram import Address
from edgevpn.tun.path_mtu import SMALL, PathMtu

_HEADER_V4, _HEADER_V6 = 28, 48  # IP and UDP
_REMEMBERED: Final = 32  # small probes
_FORGIVEN: Final = 2
_LEAST_OF: Final = 16  # round trips
_SURE: Final = 8  # answers
_TIMER: Final = 0.25  # seconds that a lost packet costs
_BETTER, _BETTER_BY = 0.7, 0.0005
_CARRIED: Final = 3.0  # seconds for which an answered size counts as known
_MASK: Final = (1 << _REMEMBERED) - 1


class Way:
    """`answered`: when it last did, 0: never. `asked`: when it last was. `mtu`: its search for a size.

    `refused`: when the system last would not send there.
    """

    __slots__ = ("_carried", "_lost", "_recent", "_told", "address", "answered", "asked", "mtu", "refused", "rtt")

    def __init__(self, address: Address, full: int) -> None:
        """`full`: the largest datagram that there will ever be."""
        self.address = address
        self.mtu = PathMtu(full, _HEADER_V6 if ":" in address[0] else _HEADER_V4)
        self.answered = self.asked = self.refused = self.rtt = 0.0
        self._recent: deque[float] = deque(maxlen=_LEAST_OF)
        self._lost = self._told = 0  # a bit for each of the last small probes; how many there were
        self._carried = 0.0  # when the size in use was answered last

    @property
    def least(self) -> float:
        """The least of the last round trips, 0: there was none."""
        return min(self._recent, default=0.0)

    @property
    def loss(self) -> float:
        """The share of probes that were lost, lately."""
        lost = self._lost.bit_count()
        return max(0, lost - _FORGIVEN) / max(_SURE, min(self._told, _REMEMBERED))

    @property
    def cost(self) -> float:
        """Seconds; the less the better."""
        return self.least + _TIMER * self.loss

    def is_cheaper(self, other: Way) -> bool:
        """By so much that it is worth a move."""
        return self.cost + _BETTER_BY < _BETTER * other.cost

    @property
    def is_known(self) -> bool:
        """Whether it has answered often enough to be compared with others."""
        return len(self._recent) >= _SURE

    def on_answer(self, size: int, asked_at: float, now: float) -> None:
        """A probe of `size` bytes, sent at `asked_at`, was answered."""
        rtt = now - asked_at
        self.answered = now
        self.rtt = 0.8 * self.rtt + 0.2 * rtt if self.rtt else rtt
        self._recent.append(rtt)
        if size <= SMALL:
            self._tell(0)
        self.mtu.on_answer(size, asked_at, now)
        if size >= self.mtu.size:
            self._carried = now

    def on_unanswered(self, size: int) -> None:
        if size <= SMALL:
            self._tell(1)

    def _tell(self, lost: int) -> None:
        self._lost = (self._lost << 1 | lost) & _MASK
        self._told += 1

    def begin_anew(self) -> None:
        """Forget its losses: it is the only one, and is back."""
        self._lost = self._told = 0

    def carries_its_size(self, now: float) -> bool:
        """Whether it has answered a probe of the size in use, lately."""
        return now - self._carried < _CARRIED


class Outstanding:
    """Probes that were sent and not answered yet; those older than LOST_AFTER count as lost."""

    LOST_AFTER: Final = 2.0
    _MOST: Final = 256

    def __init__(self) -> None:
        self._probes: dict[bytes, tuple[Way, float, int]] = {}  # which way, when, size; the oldest first

    def add(self, way: Way, size: int, now: float) -> bytes:
        """The number to send."""
        number = os.urandom(8)
        while len(self._probes) >= self._MOST:
            del self._probes[next(iter(self._probes))]
        self._probes[number] = way, now, size
        way.asked = now
        return number

    def take(self, number: bytes) -> tuple[Way, float, int] | None:
        """What an answer answers; each once."""
        return self._probes.pop(number, None)

    def expire(self, now: float) -> None:
        while self._probes:
            number = next(iter(self._probes))
            way, at, size = self._probes[number]
            if now - at < self.LOST_AFTER:
                return
            del self._probes[number]
            way.on_unanswered(size)


def is_one_host(text: str) -> bool:
    """Whether it may be asked: a peer's word must not make us send to many, or to nobody."""
    address = ipaddress.ip_address(text)
    return not (address.is_multicast or address.is_unspecified or (address.version == 6 and address.is_link_local))


def compared(way: Way, before: Way) -> str:
    """Why it is better than the one before."""
    if way.mtu.size > before.mtu.size:
        return "it carries larger datagrams than the one before"
    words = [f"{1e3 * one.least:.1f} ms, {100 * one.loss:.0f} % lost" for one in (way, before)]
    return f"it is better: {words[0]}; the one before: {words[1]}"
