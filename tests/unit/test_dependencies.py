"""Which actor can't do without which."""

from __future__ import annotations

import itertools

import pytest

from edgevpn.actors import dependencies
from edgevpn.config import NodeConfig

VPN = NodeConfig(run_dir="/run/x").actors()
PLAIN = NodeConfig(run_dir="/run/x", vpn=False).actors()


@pytest.mark.parametrize("actors", list(itertools.permutations(("gossip", "discovery", "host", "sealer", "tun"))))
def test_what_is_required_comes_first(actors: tuple[str, ...]) -> None:
    ordered = dependencies.start_order(actors)
    assert sorted(ordered) == sorted(actors)
    for actor in ordered:
        for need in dependencies.required_by(actor, actors):
            assert ordered.index(need) < ordered.index(actor)


def test_a_ring_is_a_bug_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "REQUIRES", {"a": frozenset("b"), "b": frozenset("a")})
    with pytest.raises(ValueError, match="require each other"):
        dependencies.start_order(["a", "b", "c"])


def test_without_its_host_a_node_finds_nobody_but_packets_go_on() -> None:
    assert dependencies.brought_down({"host"}, VPN) == {"gossip": "host", "discovery": "host"}
    assert dependencies.is_of_use({"host", "gossip", "discovery"}, VPN)


def test_what_lacks_an_actor_that_lacks_another_is_brought_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "REQUIRES", {"b": frozenset("a"), "c": frozenset("b")})
    assert dependencies.brought_down({"a"}, ["c", "b", "a", "d"]) == {"b": "a", "c": "b"}


@pytest.mark.parametrize("given_up", ["discovery", "ledger", "gossip"])
def test_nothing_but_itself_is_brought_down_by_an_actor_that_others_can_miss(given_up: str) -> None:
    assert dependencies.brought_down({given_up}, VPN) == {}


def test_a_vpn_without_its_tun_is_of_no_use_and_a_plain_node_without_its_host() -> None:
    assert not dependencies.is_of_use({"tun"}, VPN)
    assert dependencies.is_of_use({"sealer", "gossip", "discovery", "ledger"}, VPN)
    assert not dependencies.is_of_use({"host"}, PLAIN)
    assert dependencies.is_of_use({"ledger"}, PLAIN)


def test_what_is_given_up_is_not_held_besides() -> None:
    assert dependencies.brought_down({"host", "gossip"}, VPN) == {"discovery": "host"}
