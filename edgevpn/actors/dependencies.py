"""Which actor can't do without which, and when a node is of no use any more: pure, two tables.

`REQUIRES` has only what an actor can't work without at all. Most do without each other for a while: the ledger merges
nothing while gossip is away, but its routes hold; tun goes on with the keys and routes it has. So when an actor is
given up (supervision.py), what requires it is held, and the rest goes on: packets pass without discovery.

A node is of use while one of the actors is left that do something for its user (`USEFUL`); one that has none of them
(`edgevpn start`) is there for the other nodes, as long as its host is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

REQUIRES: dict[str, frozenset[str]] = {
    "gossip": frozenset({"host", "sealer"}),
    "discovery": frozenset({"host", "sealer"}),
    "tunnels": frozenset({"host"}),
}
USEFUL = ("tun", "dns", "tunnels", "api")
_WITHOUT_THOSE = ("host",)


def start_order(actors: Iterable[str]) -> list[str]:
    """`actors` with each after what it requires; else in their order."""
    left, ordered = list(actors), list[str]()
    while left:
        free = [actor for actor in left if not REQUIRES.get(actor, frozenset()).intersection(left)]
        ordered += free
        left = [actor for actor in left if actor not in free]
        if not free:
            raise ValueError(f"these actors require each other: {', '.join(left)}")
    return ordered


def required_by(actor: str, actors: Collection[str]) -> list[str]:
    """Those of `actors` that `actor` can't do without, in their order."""
    return [other for other in actors if other in REQUIRES.get(actor, frozenset())]


def brought_down(given_up: Collection[str], actors: Collection[str]) -> dict[str, str]:
    """Those of `actors` that can't work while `given_up` are away, each with the one it lacks first; not those."""
    lacking: dict[str, str] = {}
    for actor in start_order(actors):
        missing = next((need for need in required_by(actor, actors) if need in given_up or need in lacking), None)
        if missing is not None and actor not in given_up:
            lacking[actor] = missing
    return lacking


def is_of_use(down: Collection[str], actors: Collection[str]) -> bool:
    """Whether a node of `actors` still does something while `down` are away."""
    useful = [actor for actor in USEFUL if actor in actors] or [actor for actor in _WITHOUT_THOSE if actor in actors]
    return any(actor not in down for actor in useful)
