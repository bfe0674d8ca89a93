"""Whether this node needs relays, at which it asks for a place, and when again. Pure.

No probe is sent to find that out; what peers say anyway tells it. Each says on its connection where it sees us
(identify). If that is no address of this machine's, there is a NAT in between:

    we dialled, and are seen elsewhere        behind a NAT: nobody beyond it can dial us
    it dialled us there                       the NAT passes connections on to us: as good as reachable, unless a hole
                                              was made for just that one
    it dialled us here, or sees us here       nothing in between

A firewall without a NAT does not show like this. There, what shows is a member that others are connected with and we
can't connect with: for a while after such a failure (UNREACHED) relays are wanted, too. Where the user names relays
they are wanted always. A LAN whose nodes reach each other so asks nobody for anything.

A relay must be one that we dialled, so that it is reachable itself, and behind a NAT one that sees us from outside:
others see us as it does. DESIRED places are enough. A reservation is renewed when three quarters of it are over; a
refusal is followed by pauses that double. Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from edgevpn.p2p.peer_values import Sight

DESIRED: Final = 2
UNREACHED: Final = 1800.0
RENEW_AT: Final = 0.75
FIRST: Final = 1.0  # pause after a refusal
MOST_OBSERVED: Final = 3


class Reach(Enum):
    """What is known of this node's place."""

    UNKNOWN = "unknown"
    OPEN = "open"
    BEHIND_NAT = "behind a NAT"


def ip_of(multiaddr: str) -> str:
    """The IP address that a multiaddr begins with, in normal form; "" without one."""
    parts = multiaddr.split("/")
    try:
        ip = ipaddress.ip_address(parts[2]) if len(parts) > 2 and parts[1] in ("ip4", "ip6") else None
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return "" if ip is None or ip.is_unspecified or ip.is_loopback or ip.is_multicast else str(ip)


def outside(sights: Iterable[Sight], own: Collection[str]) -> list[Sight]:
    """Those of peers on the other side of a NAT."""
    return [one for one in sights if (ip := ip_of(one.observed)) and ip not in own]


def judge(sights: Sequence[Sight], own: Collection[str]) -> Reach:
    """`own`: the addresses of this machine's interfaces."""
    beyond = outside(sights, own)
    if any(not one.outbound and not one.punched for one in beyond):
        return Reach.OPEN
    if beyond:
        return Reach.BEHIND_NAT
    return Reach.OPEN if sights else Reach.UNKNOWN


def observed_ips(sights: Iterable[Sight], own: Collection[str]) -> list[str]:
    """Where those beyond the NAT see us, the address that most of them name first."""
    told: dict[str, set[str]] = {}
    for one in outside(sights, own):
        told.setdefault(ip_of(one.observed), set()).add(one.peer_id)
    return sorted(told, key=lambda ip: -len(told[ip]))[:MOST_OBSERVED]


@dataclass(slots=True)
class _Pause:
    length: float
    until: float


class AutoRelay:
    """The places at relays: `held` by relay, with the time when each is to be renewed."""

    def __init__(self, longest: float, chance: random.Random) -> None:
        """`longest`: the longest pause between two questions to a relay that refuses."""
        self._longest = longest
        self._chance = chance
        self._pauses: dict[str, _Pause] = {}
        self._asking: set[str] = set()
        self._unreached = -math.inf
        self.held: dict[str, float] = {}

    def note_unreached(self, now: float) -> None:
        """A member that others are connected with could not be reached."""
        self._unreached = now

    def is_unreached(self, now: float) -> bool:
        """Whether that was so lately."""
        return now - self._unreached < UNREACHED

    def take_due(self, candidates: Sequence[str], *, wanted: bool, now: float) -> list[str]:
        """Whom to ask now; each must be followed by `granted` or `refused`. `candidates`: the best first."""
        for relay in [relay for relay in self._pauses if relay not in candidates]:
            del self._pauses[relay]
        for relay in [relay for relay in self.held if relay not in candidates]:
            del self.held[relay]  # its connection ended: so did the reservation
        if not wanted:
            self.held.clear()
            self._pauses.clear()
            return []
        due = [relay for relay, renew in self.held.items() if renew <= now and relay not in self._asking]
        room = DESIRED - len(self.held) - len(self._asking - self.held.keys())
        fresh = [one for one in candidates if one not in self.held and one not in self._asking]
        due += [one for one in fresh if one not in self._pauses or self._pauses[one].until <= now][: max(room, 0)]
        self._asking.update(due)
        return due

    def is_asking(self, relay: str) -> bool:
        return relay in self._asking

    def granted(self, relay: str, ttl: float, now: float) -> None:
        self._asking.discard(relay)
        self._pauses.pop(relay, None)
        self.held[relay] = now + RENEW_AT * ttl * self._chance.uniform(0.9, 1.0)

    def refused(self, relay: str, now: float) -> None:
        """Or it did not answer; a place that was held there is given up."""
        self._asking.discard(relay)
        self.held.pop(relay, None)
        before = self._pauses.get(relay)
        length = FIRST if before is None else min(2 * before.length, max(self._longest, FIRST))
        self._pauses[relay] = _Pause(length, now + length * self._chance.uniform(0.5, 1.0))

    def next_wakeup(self) -> float:
        """When `take_due` may have something new, if nothing else changes."""
        waiting = [one.until for one in self._pauses.values()] if len(self.held) < DESIRED else []
        return min([*waiting, *self.held.values()], default=math.inf)
