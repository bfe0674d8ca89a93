"""What nodes with --dhcp say of their addresses, and what a ledger shows of everybody's.

A node of ours writes into the bucket `dhcp`, under its own peer ID, what it claims in each network:

    {"10.1.0.0/24": {"Address": "10.1.0.7", "Since": 1786528800000, "Held": false}}

`Since` is when the claim was made (unix ms), `Held` whether it has waited for objections; {} says that it wants an
address and has none in mind yet. Each node writes its own key only, so all see the same claims whatever order they
arrive in. Of two claims to one address a held one wins over one that is not, then the earlier one, then the lower peer
ID (`rank`).

The bucket is an open one, in which the ledger's rules check nothing. So here a claim counts only if the peer of its key
signed it, and while that peer is live. The Go program reads and writes the key `leader` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.leader import available_peers
from edgevpn.ledger.leases import Leases
from edgevpn.ledger.policy import Mode
from edgevpn.proto import go_json
from edgevpn.proto.block import Storage
from edgevpn.proto.entry import Entry, verify_entry
from edgevpn.proto.values import DHCP, MACHINES, machine_untrusted, text_value_untrusted

LEADER: Final = "leader"
MAX_CLAIMS: Final = 16  # of one peer
_MAX_TEXT: Final = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Claim(msgspec.Struct, frozen=True, rename="pascal"):
    """To one address of a network."""

    address: str
    since: int
    held: bool


def write_claims(claims: Mapping[str, Claim]) -> str:
    """The value of an entry: claims by network."""
    fields = {
        network: {"Address": claim.address, "Since": claim.since, "Held": claim.held}
        for network, claim in sorted(claims.items())
    }
    return go_json.write(fields)


def claims_untrusted(value: str) -> dict[str, Claim]:
    """The claims of an entry's value. Raises UntrustedDataError."""
    if len(value) > _MAX_TEXT:
        raise UntrustedDataError("claims to addresses are too long")
    try:
        claims = msgspec.json.decode(value.encode(), type=dict[str, Claim])
        if len(claims) > MAX_CLAIMS:
            raise UntrustedDataError("there are too many claims to addresses")
        for network, claim in claims.items():
            if ipaddress.ip_address(claim.address) not in ipaddress.ip_network(network):
                raise UntrustedDataError("a claimed address is not of its network")
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise UntrustedDataError("claims to addresses can't be read") from exc
    return claims


def rank(claim: Claim, peer_id: str) -> tuple[bool, int, str]:
    """Of two claims to one address the lower one wins."""
    return not claim.held, claim.since, peer_id


@dataclass(frozen=True, slots=True)
class View:
    """What a ledger shows to one peer of the others.

    `claims`: by peer ID, then by network. `machines`: address to its live owner. `stale`: addresses of those that are
    not live. `texts`: what all machines call their address, as Go reads it. `strangers`: live peers that have neither
    a machine nor claims: Go nodes that want an address, or nodes that want none. `waiting`: all live peers without a
    machine, this one among them. `forgotten`: peers whose claims nobody will renew. `leader`: Go's elected node.
    """

    claims: Mapping[str, Mapping[str, Claim]]
    machines: Mapping[str, str]
    stale: frozenset[str]
    texts: tuple[str, ...]
    strangers: tuple[str, ...]
    waiting: tuple[str, ...]
    forgotten: tuple[str, ...]
    leader: str


class Viewer:
    """Makes views for the peer `me`; remembers which entries it has checked."""

    def __init__(self, me: str, mode: Mode, ttl: float, max_age: float) -> None:
        """`ttl`: of a lease; `max_age`: of a heartbeat, for those that count in an election (seconds)."""
        self._me = me
        self._mode = mode
        self._ttl = ttl
        self._max_age = max_age
        self._checked: dict[str, tuple[Entry, dict[str, Claim] | None]] = {}

    def view(self, storage: Storage, now: float) -> View:
        leases = Leases(storage, now, self._ttl)
        available = available_peers(storage, now, self._max_age)
        alive = set(available) | set(leases.live_peers())
        written = self._claims(storage)
        owners: dict[str, str] = {}
        stale = set()
        texts = []
        for address, entry in storage.get(MACHINES, {}).items():
            if entry.deleted:
                continue
            try:
                machine = machine_untrusted(entry.value)
            except UntrustedDataError:
                continue
            texts.append(machine.address)
            if self._mode is Mode.OFF or leases.is_live(machine.peer_id):
                owners[address] = machine.peer_id
            else:
                stale.add(address)
        with_machine = set(owners.values())
        waiting = tuple(peer for peer in available if peer not in with_machine)
        return View(
            claims={peer: claims for peer, claims in written.items() if peer in alive and peer != self._me},
            machines=owners,
            stale=frozenset(stale),
            texts=tuple(texts),
            strangers=tuple(peer for peer in waiting if peer not in written and peer != self._me),
            waiting=waiting,
            forgotten=tuple(sorted(peer for peer in written if peer not in alive and peer != self._me)),
            leader=_leader(storage),
        )

    def _claims(self, storage: Storage) -> dict[str, dict[str, Claim]]:
        """Of everybody who signed them."""
        found = {}
        checked: dict[str, tuple[Entry, dict[str, Claim] | None]] = {}
        for peer, entry in storage.get(DHCP, {}).items():
            if entry.deleted or peer == LEADER:
                continue
            known = self._checked.get(peer)
            claims = known[1] if known is not None and known[0] == entry else self._check(peer, entry)
            checked[peer] = entry, claims
            if claims is not None:
                found[peer] = claims
        self._checked = checked
        return found

    def _check(self, peer: str, entry: Entry) -> dict[str, Claim] | None:
        if self._mode is not Mode.OFF and (entry.owner != peer or not verify_entry(DHCP, peer, entry)):
            return None
        try:
            return claims_untrusted(entry.value)
        except UntrustedDataError:
            return None


def _leader(storage: Storage) -> str:
    entry = storage.get(DHCP, {}).get(LEADER)
    if entry is None or entry.deleted:
        return ""
    try:
        return text_value_untrusted(entry.value)
    except UntrustedDataError:
        return ""
