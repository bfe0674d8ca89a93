"""Whom actors run as."""

from __future__ import annotations

import random

import pytest

from edgevpn.actors import users
from edgevpn.actors.child_entry import User

ALL = "         0          0 4294967295\n"
ACTORS = ("sealer", "host", "tun")


def test_each_actor_is_a_user_of_its_own_in_the_nodes_group() -> None:
    drawn = users.draw(ACTORS, random.Random(1), [ALL, ALL])
    assert drawn is not None
    assert len(set(drawn.uids.values())) == len(ACTORS)
    assert drawn.group not in drawn.uids.values()
    for actor in ACTORS:
        assert drawn.user(actor) == User(drawn.uids[actor], drawn.group)
        assert drawn.name(drawn.uids[actor]) == actor
    assert drawn.name(0) is None
    assert drawn.user("dns") is None


def test_blocks_of_two_nodes_do_not_overlap_unless_they_are_one() -> None:
    chance = random.Random(2)
    starts = [found.group for _ in range(500) if (found := users.draw(ACTORS, chance, [ALL, ALL]))]
    assert all(start % users.BLOCK == users.FIRST % users.BLOCK for start in starts)
    assert all(start >= users.FIRST and start + users.BLOCK - 1 <= users.LAST for start in starts)
    assert len(set(starts)) > 490


@pytest.mark.parametrize("text", ["0 100000 65536\n", "", "0 0 1\n1 100000 65535\n"])
def test_a_container_without_such_numbers_gets_nobody(text: str) -> None:
    assert users.draw(ACTORS, random.Random(3), [ALL, text]) is None
    assert set(users.nobody(ACTORS).uids.values()) == {65534}


def test_users_survive_the_way_to_an_actor() -> None:
    drawn = users.draw(ACTORS, random.Random(4), [ALL, ALL])
    assert drawn is not None
    assert users.Users.from_json(drawn.to_json()) == drawn
    assert users.Users.from_json("") is users.NO_USERS


def test_more_actors_than_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        users.draw([str(number) for number in range(users.BLOCK)], random.Random(5), [ALL, ALL])
