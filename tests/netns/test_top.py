"""`edgevpn top` in a real terminal, against a running node."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, new_token
from scripts.labkit.terminal import Terminal

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Vpn, Vpn]]:
    with Lab(2) as lab:
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
        try:
            traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 40)
            yield nodes[0], nodes[1]
        finally:
            for vpn in nodes:
                print(f"--- {vpn.tail(20)}")
                vpn.close()


def test_one_sample_has_the_path_and_the_rates(pair: tuple[Vpn, Vpn]) -> None:
    one, two = pair
    pinging = traffic.Pinging(two.node, "10.1.0.1", 0.02, "edgevpn0")
    found = one.json("top")
    pinging.finish()
    [peer] = found["peers"]
    assert (peer["member"], peer["path"], peer["addresses"]) == (True, "datagram", ["10.1.0.2"])
    assert 0 < peer["rtt_ms"] < 1000
    assert peer["received_per_s"] > 0
    assert found["packets"]["sent_per_s"] > 0
    assert found["machines"] == 2
    assert {actor["name"] for actor in found["actors"]} >= {"host", "ledger", "tun", "supervisor"}


def test_it_is_live_follows_an_actors_death_and_leaves_the_terminal_as_it_was(
    pair: tuple[Vpn, Vpn], tmp_path: Path
) -> None:
    one, _ = pair
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("$")
        terminal.write(f"clear; echo before; {EDGEVPN} top --run-dir={one.run_dir}")
        terminal.press("Enter")
        terminal.wait_for(lambda screen: "direct, UDP" in screen and "10.1.0.2" in screen and "discovery" in screen)
        os.kill(one.pid_of("discovery"), signal.SIGKILL)
        terminal.wait_for("killed by SIGKILL")
        terminal.press("q")
        terminal.wait_for(lambda screen: "before" in screen and "ACTOR" not in screen)
        terminal.write("echo still-$((6*7))")  # echo and line editing are back
        terminal.press("Enter")
        terminal.wait_for("still-42")
