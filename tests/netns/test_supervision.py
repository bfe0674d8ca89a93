"""Actors that die too often: what goes on without them, and how they come back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def pair(make_lab: MakeLab) -> Iterator[tuple[Vpn, Vpn]]:
    """Two nodes between which packets go."""
    lab, token = make_lab(2), new_token()
    nodes = [Vpn(lab.node(n), token, f"10.1.0.{n}/24", "--dht=false") for n in (1, 2)]
    try:
        traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 20)
        traffic.wait_for(
            lambda: any(row["path"] == "datagram" for row in nodes[0].json("peers")), 10, what="a datagram path"
        )
        yield nodes[0], nodes[1]
    finally:
        for vpn in nodes:
            vpn.close()


def states(vpn: Vpn) -> dict[str, str]:
    return {row["name"]: row["state"] for row in vpn.json("actors")}


def wear_out(vpn: Vpn, actor: str) -> None:
    """Kill each new process of an actor as soon as it is there, until the supervisor gives the actor up."""
    deadline, killed = time.monotonic() + 120, set[int]()
    while time.monotonic() < deadline:
        row = next((row for row in vpn.json("actors") if row["name"] == actor), None)
        if row is None or row["state"] == "failed":
            return
        if row["pid"] and row["pid"] not in killed:
            killed.add(row["pid"])
            with suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)
    raise AssertionError(f"{actor} was not given up after {len(killed)} kills")


def test_packets_go_on_without_a_host_and_a_person_brings_all_back(pair: tuple[Vpn, Vpn]) -> None:
    one, _ = pair
    wear_out(one, "host")
    found = states(one)
    assert found["host"] == "failed"
    assert (found["gossip"], found["discovery"]) == ("held", "held")
    assert (found["tun"], found["ledger"], found["sealer"]) == ("ready", "ready", "ready")
    assert traffic.ping(one.node, "10.1.0.2", 20, 0.05).received == 20

    lacking = next(row for row in one.json("actors") if row["name"] == "gossip")
    assert lacking["lacks"] == "host"
    refused = one.ask("actors", "restart", "gossip", check=False)
    assert refused.returncode == 1
    assert "can't work without the host actor" in refused.stderr
    prompt = one.ask("repl", "gossip", "-c", "1", check=False)
    assert prompt.returncode == 3
    assert "is held" in prompt.stderr

    one.ask("actors", "restart", "host")
    traffic.wait_for(lambda: set(states(one).values()) == {"ready"}, 15, what="all actors ready again")
    traffic.wait_for(lambda: len(one.json("status")["peers"]) == 1, 15, what="the peer again")


def test_a_node_whose_tun_can_not_live_ends_and_says_why(pair: tuple[Vpn, Vpn]) -> None:
    one, _ = pair
    with suppress(Exception):  # the node may end while it is asked
        wear_out(one, "tun")
    assert one.process.wait(20) == 6
    assert "the tun actor died too often" in one.tail()
    assert "of no use" in one.tail()
    assert not [name for name in os.listdir(one.home) if name.endswith(".sock")]
