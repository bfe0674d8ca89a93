"""What a person who waits is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevpn.actors.node_view import NodeView
from edgevpn.actors.service_manager import ServiceManager
from edgevpn.config import NodeConfig
from edgevpn.proto.messages import Member, PeerState

PEER = PeerState(["/ip4/10.99.0.2/tcp/1"], [], [], "", "outbound", 0.0, 0.0)


def view(**options: object) -> NodeView:
    config = NodeConfig(run_dir="/run/x", **options)  # type: ignore[arg-type]
    found = NodeView(config, Path("/run/x"), "12D3KooW", ServiceManager({}))
    for actor in config.actors():
        found.ready(actor)
    return found


def test_a_node_waits_for_its_actors_then_for_another_node_then_for_nothing() -> None:
    waiting = view()
    waiting.not_ready("gossip")
    assert (waiting.state, waiting.waiting_for()) == ("starting", "its actors: gossip")
    waiting.ready("gossip")
    assert waiting.state == "joining"
    assert "mDNS" in waiting.waiting_for()
    waiting._states["members"] = {"peer": Member(["topic"])}
    assert (waiting.state, waiting.waiting_for()) == ("up", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "the same token"), ({"peerguard": True, "peergate": True}, "proved a key of the trust zone")],
)
def test_who_is_connected_but_no_member_is_told_why_that_may_be(options: dict[str, object], said: str) -> None:
    waiting = view(**options)
    waiting._states["peers"] = {"peer": PEER}
    assert said in waiting.waiting_for()


def test_a_node_that_lacks_an_actor_is_degraded_until_it_is_back() -> None:
    waiting = view()
    waiting.given_up("gossip", "is held, since it can't work without host")
    assert waiting.state == "degraded"
    assert "gossip is held" in waiting.waiting_for()
    waiting.ready("gossip")
    assert waiting.state == "joining"
