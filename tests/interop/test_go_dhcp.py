"""Go nodes and ours that get their addresses from the network: each has its own, and all reach each other."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit.traffic import first_answer, wait_for
from tests.interop.table import AnyNode, Table

MakeTable = Callable[..., Table]

pytestmark = pytest.mark.timeout(220)
PATIENCE = 120.0  # s: the Go program looks every 5 s, one node after the other, and waits 15 to 30 s for each leader


def own_addresses(node: AnyNode) -> list[str]:
    """Of its interface; none while there is none."""
    done = node.node.run(["ip", "-json", "-4", "addr", "show", "dev", "edgevpn0"], check=False)
    shown = json.loads(done.stdout) if done.returncode == 0 and done.stdout else []
    return [one["local"] for link in shown for one in link.get("addr_info", [])]


def test_two_go_nodes_and_two_of_ours_get_four_addresses_and_reach_each_other(
    make_table: MakeTable, tmp_path: Path
) -> None:
    table = make_table(4)
    began = time.monotonic()
    for k in (1, 2, 3, 4):
        flags = ("--dht=false", "--dhcp", f"--lease-dir={tmp_path}/{k}")
        (table.go if k < 3 else table.ours)(k, *flags)
    has: dict[str, str] = {}
    for node in table.nodes:
        left = PATIENCE - (time.monotonic() - began)
        (has[node.node.netns],) = wait_for(lambda node=node: own_addresses(node), max(left, 1), 0.3, "an address")  # type: ignore[misc]
        print(f"{type(node).__name__} has {has[node.node.netns]} after {time.monotonic() - began:.1f} s at the latest")
    assert len(set(has.values())) == 4, has
    assert all(address.startswith("10.1.0.") for address in has.values())
    for one, other in itertools.permutations(table.nodes, 2):
        first_answer(one.node, has[other.node.netns], "edgevpn0", 20)
    time.sleep(5)
    assert {node.node.netns: own_addresses(node)[0] for node in table.nodes} == has, "an address changed"
