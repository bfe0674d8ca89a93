"""Who is told where other members are, so that all can connect directly: peer exchange between nodes of ours. Pure.

A peer whose ledger link has just come up is told of the members we are connected with, and they of it: it may be the
one that can dial. In a network of more than FEW links only the newcomer is told, and only of some. Words go sealed with
the network's key on ledger links (ledger_frames.py, Peers), so only members are believed, and nobody else learns of
them.

What a member says is a hint: the address book judges the addresses, noise proves the peer. It may make us try MOST_NEW
peers in PERIOD seconds, whatever it says.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from edgevpn.proto.relayed import only_relayed, without_relayed

FEW: Final = 64
MOST_TOLD: Final = 32  # peers in one word; as many as a frame may name
MOST_ADDRS: Final = 6  # of one peer
MOST_CIRCUITS: Final = 2
MOST_NEW: Final = 64
PERIOD: Final = 60.0  # s
MAX_PEERS: Final = 1024

Named: TypeAlias = tuple[str, Sequence[str]]  # peer id, multiaddrs without /p2p


class Introductions:
    """Of one node. `now`: seconds of a monotonic clock."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._heeded: OrderedDict[str, tuple[float, int]] = OrderedDict()  # by who spoke: since when, how many

    def on_link(self, newcomer: str, where: Mapping[str, Sequence[str]]) -> list[tuple[str, list[Named]]]:
        """What to tell whom now that a link to `newcomer` is up. `where`: addresses of linked peers, it among them."""
        others = [peer for peer in where if peer != newcomer and where[peer]]
        if len(others) > MOST_TOLD:
            others = self._chance.sample(others, MOST_TOLD)
        words: list[tuple[str, list[Named]]] = []
        if others:
            words.append((newcomer, [(peer, where[peer][:MOST_ADDRS]) for peer in others]))
        if where.get(newcomer) and len(where) <= FEW:
            word = [(newcomer, where[newcomer][:MOST_ADDRS])]
            words += [(peer, list(word)) for peer in where if peer != newcomer]
        return words

    def on_move(self, peer: str, where: Mapping[str, Sequence[str]]) -> list[tuple[str, list[Named]]]:
        """What to tell whom now that a linked peer is reached through other relays than before."""
        if not where.get(peer) or len(where) > FEW:
            return []
        return [(other, [(peer, where[peer][:MOST_ADDRS])]) for other in where if other != peer]

    def heard(self, speaker: str, named: Iterable[Named], connected: Iterable[str], now: float) -> list[Named]:
        """Whom to connect with, of those that `speaker` named."""
        since, count = self._heeded.pop(speaker, (now, 0))
        if now - since > PERIOD:
            since, count = now, 0
        known = set(connected)
        fresh: list[Named] = []
        for peer, addrs in named:
            if peer not in known and addrs and count < MOST_NEW:
                fresh.append((peer, addrs))
                known.add(peer)
                count += 1
        self._heeded[speaker] = since, count
        if len(self._heeded) > MAX_PEERS:
            self._heeded.popitem(last=False)
        return fresh


def where_it_is(remotes: Iterable[str], listen: Iterable[str], *, dialled: bool) -> list[str]:
    """The addresses to tell of a peer: where we reached it, then where it says it listens.

    An inbound connection's other end is no place to dial. Of many addresses those through relays are kept, the first
    MOST_CIRCUITS: where they are needed nothing else helps.
    """
    found = list(dict.fromkeys([*(remotes if dialled else ()), *listen]))
    circuits = only_relayed(found)[:MOST_CIRCUITS]
    return [*without_relayed(found)[: MOST_ADDRS - len(circuits)], *circuits]
