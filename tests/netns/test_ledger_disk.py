"""--ledger-state with whole nodes: killed, and started with a file that is of no use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit.disk import kill_nodes
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(120)


def test_a_node_that_is_killed_has_all_entries_that_it_answered_for() -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    found = kill_nodes(3, seed, print)
    assert found["lost"] == 0
    assert found["answered"] >= 3


def test_a_node_sets_a_foreign_ledger_aside_and_fills_again_from_the_others(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, token = make_lab(2), new_token()
    state = tmp_path / "state"
    kept = state / "edgevpn-ledger" / "ledger.snapshot"
    flags = ("--dht=false", f"--ledger-state={state}")
    first = Vpn(lab.node(1), new_token(), "10.1.0.1/24", *flags)  # of another network
    try:
        wait_for(kept.exists, 15, what="the ledger on disk")
        assert first.stop() == 0
    finally:
        first.close()
    foreign = kept.read_bytes()
    other = Vpn(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    node = Vpn(lab.node(1), token, "10.1.0.1/24", *flags)
    try:
        node.wait_for_state("up")
        lines = [line for line in node.log.read_text().splitlines() if "another network's" in line]
        assert len(lines) == 1
        [aside] = kept.parent.glob("*.set-aside-*")
        assert aside.read_bytes() == foreign
        wait_for(lambda: set(node.json("ledger", "machines")) == {"10.1.0.1", "10.1.0.2"}, 10, what="both machines")
        wait_for(kept.exists, 10, what="the ledger on disk")
    finally:
        node.close()
        other.close()


def test_a_second_node_can_t_use_the_directory_of_the_first(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, token = make_lab(2), new_token()
    flags = ("--dht=false", f"--ledger-state={tmp_path}")
    first = Vpn(lab.node(1), token, None, *flags)
    try:
        first.wait_for_state("joining")
        second = Vpn(lab.node(2), token, None, *flags)
        try:
            assert second.process.wait(15) != 0
            assert "another node keeps its state in" in second.tail()
        finally:
            second.close()
    finally:
        first.close()
