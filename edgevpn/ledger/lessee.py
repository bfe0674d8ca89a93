"""A node that gets its addresses from the network (--dhcp): listen, claim, wait, verify, hold, and go on watching.

    listen   until what others have is known: a moment after the first block heard, or ALONE seconds where nobody is
    claim    an address that nobody has (claims.py), at a place that the peer ID gives, so nodes that start at once
             rarely meet; or at once that of the last run
    wait     WAIT seconds and some, in which all others see the claim and the better one of two wins; the other picks
             anew after a random pause
    hold     the address is set on the interface, written into `machines`, and kept for the next run
    watch    two halves of a divided network may have given one address twice. When they meet, all see both claims,
             and the later one gives way and begins again

No node waits for another one, so nobody's death keeps an address from anyone.

Where Go nodes without an address take part, theirs is the rule of the leader: of all nodes without one the elected one
takes the highest address in use plus one. They can't see claims, only machines. So we keep off the addresses that they
are about to take; when we are elected we say so (`dhcp/leader`) and take the next one as they would; when another one
is, we let it go first, for a while: it may be a node that wants no address, for which the Go program waits for ever.
And we stay low in the network: the Go program goes on from the highest address, past a network's end if it must.

Pure. `now` is unix seconds, `clock` seconds of any clock that never jumps.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.claims import LEADER, Claim, Network, View, claims_untrusted, rank, write_claims
from edgevpn.ledger.dhcp import address_after_highest, free_address
from edgevpn.ledger.leader import leader_of
from edgevpn.ledger.merge import FOREIGN_LIVE, Place, Violation
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto.entry import MAX_VERSION, Entry, sign_entry, verify_entry
from edgevpn.proto.values import DHCP, MACHINES, write_text

SETTLE: Final = 0.5  # after the first block of another node was heard
ALONE: Final = 4.0  # without any
WAIT: Final = 1.5  # between a claim and holding it, and up to a half more
BACK_OFF: Final = 0.5  # at most, before a lost claim is followed by the next
TURN: Final = 5.0  # that an elected node of Go's may take its time
CONTEST: Final = 60.0  # for how long another machine's word for an address counts
INSIST: Final = 8.0  # after which one that should give way, and has not, is taken for dead
_LOW: Final = 16  # of that many lowest free addresses one is taken beside Go nodes
_RESERVED: Final = 16  # at most, for Go nodes


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now. `record`: the value of our own entry in `dhcp`. `held`: our addresses, as CIDRs;
    `claimed`: those and the ones that we wait for, without prefix lengths.

    `wake`: when to look again (clock), unless something changes before. `lead`: write our peer ID to `dhcp/leader`.
    `forget`: peers whose entries in `dhcp` are to be deleted. `waiting`: what is waited for, in words. `lost`: address
    and peer that it is left to.
    """

    record: str
    held: tuple[str, ...]
    claimed: tuple[str, ...]
    wake: float
    lead: bool
    forget: tuple[str, ...]
    waiting: str
    lost: tuple[tuple[str, str], ...]


@dataclass
class _Lease:
    """Of one network."""

    network: Network
    last_run: str | None = None
    claim: Claim | None = None
    until: float = 0.0  # of the wait, or of the back-off
    avoid: dict[str, float] = field(default_factory=dict)  # lost lately: until when it is not tried again
    full: bool = False


class Lessee:
    """One node's leases."""

    def __init__(
        self,
        peer_id: str,
        networks: Sequence[str],
        last_run: Iterable[str],
        chance: random.Random,
        clock: float,
    ) -> None:
        """`networks`: CIDRs. `last_run`: addresses of the last run."""
        self._me = peer_id
        self._chance = chance
        self._began = clock
        self._heard: float | None = None
        self._strangers: float | None = None  # since when there are some
        self._contested: dict[str, tuple[str, float]] = {}
        self._rivals: dict[tuple[str, str], float] = {}  # (address of ours, peer that should give way): since when
        self._leases = [_Lease(ipaddress.ip_interface(text).network) for text in networks]
        self.remember(last_run)

    def remember(
        self,
        last_run: Iterable[str],
        held: Mapping[str, Claim] = MappingProxyType({}),
        on_interface: Iterable[str] = (),
    ) -> None:
        """Before anything was claimed: addresses of the last run; or, of this run, claims by network, and the CIDRs
        that the interface has: what stands in both is ours still."""
        old = [ipaddress.ip_address(text) for text in last_run]
        present = [text.partition("/")[0] for text in on_interface]
        for lease in self._leases:
            lease.last_run = next((str(ip) for ip in old if ip in lease.network), None)
            claim = held.get(str(lease.network))
            if claim is not None and claim.held and claim.address in present:
                lease.claim = claim

    def heard(self, clock: float) -> None:
        """A block of another node was merged."""
        if self._heard is None:
            self._heard = clock

    def contested(self, address: str, owner: str, clock: float) -> None:
        """Another live peer signed a machine entry for one of our addresses."""
        self._contested[address] = owner, clock + CONTEST

    @property
    def held(self) -> tuple[str, ...]:
        """Our addresses, as CIDRs."""
        return tuple(
            f"{lease.claim.address}/{lease.network.prefixlen}"
            for lease in self._leases
            if lease.claim is not None and lease.claim.held
        )

    def step(self, view: View, now: float, clock: float) -> Step:
        self._contested = {a: (o, until) for a, (o, until) in self._contested.items() if until > clock}
        self._rivals = {rival: self._rivals.get(rival, clock) for rival in self._rivals_in(view)}
        if not view.strangers:
            self._strangers = None
        elif self._strangers is None:
            self._strangers = clock
        wake = clock + 60.0
        lost = []
        lead = False
        for lease in self._leases:
            winner = self._winner(lease, view, clock)
            if lease.claim is not None and winner is not None:
                lost.append((lease.claim.address, winner))
                lease.avoid[lease.claim.address] = clock + CONTEST
                lease.claim = None
                lease.until = clock + self._chance.uniform(0, BACK_OFF)
            if lease.claim is None:
                ready = self._ready_to_claim(lease, view)
                if ready <= clock:
                    self._claim(lease, view, now, clock)
                    lead = lead or self._leads(view)
                else:
                    wake = min(wake, ready)
            if lease.claim is not None and not lease.claim.held:
                end = max(lease.until, self._listened())
                if self._heard is not None:  # those who were met after it was made see it as long as others
                    end = max(end, self._heard + WAIT)
                if clock >= end:
                    lease.claim = Claim(lease.claim.address, lease.claim.since, True)
                else:
                    wake = min(wake, end)
        wake = min([wake, *(since + INSIST for since in self._rivals.values())])
        claims = {str(lease.network): lease.claim for lease in self._leases if lease.claim is not None}
        return Step(
            write_claims(claims),
            self.held,
            tuple(claim.address for claim in claims.values()),
            wake,
            lead and (not view.leader or view.leader not in view.waiting),
            self._to_forget(view),
            self._waiting(view),
            tuple(lost),
        )

    # --- the parts

    def _rivals_in(self, view: View) -> list[tuple[str, str]]:
        """Who holds one of our addresses though it should give way."""
        ours = {lease.claim.address: rank(lease.claim, self._me) for lease in self._leases if lease.claim is not None}
        return [
            (claim.address, peer)
            for peer, claims in view.claims.items()
            for claim in claims.values()
            if claim.held and claim.address in ours and rank(claim, peer) > ours[claim.address]
        ]

    def _winner(self, lease: _Lease, view: View, clock: float) -> str | None:
        """Who else has the address that we claim, by everybody's judgement."""
        if lease.claim is None:
            return None
        address = lease.claim.address
        ours = rank(lease.claim, self._me)
        claimants = set()
        for peer, claims in view.claims.items():
            for claim in claims.values():
                if claim.address == address:
                    claimants.add(peer)
                    if rank(claim, peer) < ours:
                        return peer
        # A machine of one who claims nothing has a fixed address, or got it by Go's rule: it can't give way.
        owner = view.machines.get(address, self._me)
        for (rival_address, rival), since in self._rivals.items():
            if rival_address == address and clock >= since + INSIST:
                return rival  # it died when it had the address, and others go on believing that it has
        contestant, _ = self._contested.get(address, (self._me, 0.0))
        for other in (owner, contestant):
            leaves_it = (
                other in view.claims and lease.claim.held
            )  # it has claims, and none to this: a tombstone follows
            if other != self._me and other not in claimants and not leaves_it:
                return other
        return None

    def _listened(self) -> float:
        """When we have heard enough of the others."""
        return self._began + ALONE if self._heard is None else self._heard + SETTLE

    def _ready_to_claim(self, lease: _Lease, view: View) -> float:
        if lease.last_run is not None and self._is_free(lease.last_run, lease, view):
            return lease.until
        ready = max(lease.until, self._listened())
        if self._strangers is not None and not self._leads(view) and leader_of(view.waiting) in view.strangers:
            ready = max(ready, self._strangers + TURN)
        return ready

    def _leads(self, view: View) -> bool:
        return bool(view.strangers) and leader_of(view.waiting) == self._me

    def _claim(self, lease: _Lease, view: View, now: float, clock: float) -> None:
        lease.avoid = {address: until for address, until in lease.avoid.items() if until > clock}
        address = self._choose(lease, view)
        lease.full = address is None
        if address is None:
            lease.until = clock + 1.0
            return
        lease.claim = Claim(address, int(now * 1000), False)
        lease.until = clock + WAIT * self._chance.uniform(1.0, 1.5)

    def _is_free(self, address: str, lease: _Lease, view: View) -> bool:
        return view.machines.get(address, self._me) == self._me and address not in self._claimed(view) | set(
            lease.avoid
        )

    def _claimed(self, view: View) -> set[str]:
        return {claim.address for claims in view.claims.values() for claim in claims.values()}

    def _choose(self, lease: _Lease, view: View) -> str | None:
        if lease.last_run is not None and self._is_free(lease.last_run, lease, view):
            return lease.last_run
        others = {address for address, owner in view.machines.items() if owner != self._me}
        used = others | self._claimed(view)
        if view.strangers:
            return self._beside_go(lease, view, used)
        for taken in (used | view.stale | set(lease.avoid), used | set(lease.avoid), used):
            address = free_address(lease.network, taken, self._me)
            if address is not None:
                return address
        return None

    def _beside_go(self, lease: _Lease, view: View, used: set[str]) -> str | None:
        """As the elected node the next address by Go's rule, else one that no Go node is about to take."""
        first = str(lease.network[min(1, lease.network.num_addresses - 1)])
        # Claims are no machines yet, but will be: the Go program counts from them then.
        following = address_after_highest(first, [*view.texts, *self._claimed_in(lease, view)])
        if self._leads(view) and following not in used | set(lease.avoid) and _is_for_hosts(following, lease.network):
            return following
        reserved = set()
        for _ in range(min(len(view.strangers), _RESERVED)):
            reserved.add(following)
            following = address_after_highest(following, [following])
        taken = used | reserved | set(lease.avoid) | view.stale
        low = []
        for number in range(1, min(lease.network.num_addresses - 1, len(taken) + _LOW + 1)):
            if (address := str(lease.network[number])) not in taken:
                low.append(address)
        return self._chance.choice(low[:_LOW]) if low else free_address(lease.network, used, self._me)

    def _claimed_in(self, lease: _Lease, view: View) -> list[str]:
        return [c.address for claims in view.claims.values() for n, c in claims.items() if n == str(lease.network)]

    def _to_forget(self, view: View) -> tuple[str, ...]:
        """Of all live claimants one cleans up."""
        return view.forgotten if leader_of([*view.claims, self._me]) == self._me else ()

    def _waiting(self, view: View) -> str:
        if all(lease.claim is not None and lease.claim.held for lease in self._leases):
            return ""
        networks = ", ".join(
            str(lease.network) for lease in self._leases if lease.claim is None or not lease.claim.held
        )
        if any(lease.claim is not None and not lease.claim.held for lease in self._leases):
            return f"an address of {networks}: one is claimed, others may object"
        if any(lease.full for lease in self._leases):
            return f"an address of {networks}: all are taken"
        if view.strangers and self._heard is not None:
            return f"an address of {networks}: {leader_of(view.waiting)} has its turn"
        return f"an address of {networks}: listening to which are taken"


def _is_for_hosts(address: str, network: Network) -> bool:
    ip = ipaddress.ip_address(address)
    return ip in network and (
        network.num_addresses <= 2 or ip not in (network.network_address, network.broadcast_address)
    )


def write_step(state: LedgerState, step: Step, now: float) -> bool:
    """Put into the ledger what a step says, but for the machines to be held; whether anything changed."""
    me = state.signer.peer_id
    before = state.index
    state.announce(DHCP, me, step.record, now)
    if step.lead:
        state.announce(DHCP, LEADER, write_text(me), now)
    for peer in step.forget:
        state.delete(DHCP, peer, now)
    for address, entry in state.entries(MACHINES).items():
        if entry.owner == me and address not in step.claimed:
            try:
                state.delete(MACHINES, address, now)
            except WriteRefusedError:
                continue  # it names another one: not by us
    return state.index != before


def contests(violation: Violation) -> bool:
    """Whether a refused entry is another peer's word, signed, that one of our addresses is its own."""
    place, entry = violation.place, violation.entry
    return (
        violation.reason == FOREIGN_LIVE
        and place.bucket == MACHINES
        and not entry.deleted
        and verify_entry(place.bucket, place.key, entry)
    )


def graves(state: LedgerState, violations: Iterable[Violation], now: float) -> dict[Place, Entry]:
    """Tombstones for machines that we gave up and others still have, where the ledger here has moved on to a new owner.

    They are to be told as a partial block. Without them who missed our tombstone would refuse the new owner for ever.
    Their versions are just above the buried ones, so the new owner's entry outdoes them.
    """
    me = state.signer.peer_id
    return {
        violation.place: sign_entry(
            state.signer, MACHINES, violation.place.key, "", violation.entry.version + 1, int(now), deleted=True
        )
        for violation in violations
        if violation.reason == FOREIGN_LIVE and violation.place.bucket == MACHINES
        if violation.entry.owner == me and not violation.entry.deleted and violation.entry.version < MAX_VERSION
    }


def held_in(state: LedgerState) -> dict[str, Claim]:
    """What our own entry in the ledger says that we hold, by network."""
    entry = state.get(DHCP, state.signer.peer_id)
    if entry is None or entry.deleted:
        return {}
    try:
        return {network: claim for network, claim in claims_untrusted(entry.value).items() if claim.held}
    except UntrustedDataError:
        return {}
