"""What a whole node takes of the machine while nothing happens. scripts/measure idle has the figures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from scripts.labkit.idle import read_pages, take_apart
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token

pytestmark = pytest.mark.timeout(120)
MOST = 200e6  # bytes of PSS
MOST_COPIED = 18e6  # bytes of the template's memory that one actor comes to have for itself


def test_a_node_fits_into_200_mb_and_its_actors_share_most_of_theirs(make_lab: Callable[..., Lab]) -> None:
    with closing(Vpn(make_lab(1).node(1), new_token(), "10.1.0.1/24")) as vpn:
        vpn.wait_for_state("joining", 30)
        actors = {one["name"]: one for one in vpn.json("actors") if one["pid"]}
        assert "template" in actors
        assert sum(one["pss_bytes"] for one in actors.values()) < MOST
        parts = take_apart({name: read_pages(one["pid"]) for name, one in actors.items()})
    for name, part in parts.items():
        assert part.copied < MOST_COPIED, (name, part)
