"""Whom the actors of a node run as: each a user of its own, all in one group of the node's.

Only the supervisor is root. An actor's user has no name and no files: a number from a block that nothing else uses
(systemd's table of uid ranges, https://systemd.io/UIDS-GIDS, has 0x70000000 to 0x7FFFFFFF as unused), drawn anew at
each start of the node, so that two nodes on a machine are strangers to each other. The block's first number is the
group; the k-th actor has the k-th number after it. What the group may do is connect to the sockets in the run
directory, and by the number the kernel tells (SO_PEERCRED) an actor knows which actor speaks.

A node that root did not start has no users: its actors run as who started it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevpn.actors.child_entry import User

FIRST, LAST = 0x70000000, 0x7FFFFFFF
BLOCK = 64  # numbers of one node: its group, and at most 63 actors
VARIABLE = "EDGEVPN_ACTOR_USERS"  # how an actor is told
PERSON = ""  # the name of a caller that is no actor: root, or the user who started the node


@dataclass(frozen=True, slots=True)
class Users:
    """The users of a node's actors: `group`, and a uid by actor name. Without any for a node that has none."""

    group: int
    uids: Mapping[str, int]

    def user(self, actor: str) -> User | None:
        """Whom `actor` is to run as; None: as we do."""
        return User(self.uids[actor], self.group) if actor in self.uids else None

    def name(self, uid: int) -> str | None:
        """The actor that runs as `uid`, or None."""
        return next((actor for actor, number in self.uids.items() if number == uid), None)

    def to_json(self) -> str:
        return json.dumps([self.group, dict(self.uids)])

    @classmethod
    def from_json(cls, text: str) -> Users:
        """From what `to_json` made; "" stands for no users."""
        if not text:
            return NO_USERS
        group, uids = json.loads(text)
        return cls(group, uids)


NO_USERS = Users(0, {})


def draw(actors: Sequence[str], chance: random.Random, maps: Sequence[str]) -> Users | None:
    """Users for `actors`. `maps`: the content of /proc/self/uid_map and gid_map (user_namespaces(7)).

    None when this user namespace has no such numbers: a container that maps a few only. Raises ValueError for more
    actors than a block holds.
    """
    if len(actors) >= BLOCK:
        raise ValueError(f"{len(actors)} actors are too many for {BLOCK} users")
    start = FIRST + BLOCK * chance.randrange((LAST - FIRST + 1) // BLOCK)
    if not all(_holds(text, start, start + BLOCK) for text in maps):
        return None
    return Users(start, {actor: start + number for number, actor in enumerate(actors, 1)})


def nobody(actors: Sequence[str]) -> Users:
    """All of them as the overflow user (65534, nobody): for a namespace that has no better."""
    return Users(65534, dict.fromkeys(actors, 65534))


def read_maps() -> list[str]:
    """The maps for `draw`, of this process."""
    return [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]


def _holds(text: str, start: int, end: int) -> bool:
    for line in text.splitlines():
        inside, _, length = (int(field) for field in line.split())
        if inside <= start and end <= inside + length:
            return True
    return False
