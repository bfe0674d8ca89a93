"""Real nodes that get their addresses from each other."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def start(start: Callable[..., Vpn], tmp_path: Path) -> MakeNode:
    """Nodes with --dhcp, each with a lease directory."""

    def make(lab: Lab, k: int, token: str, address: str = "10.1.0.1/24", *flags: str) -> Vpn:
        lease = f"--lease-dir={tmp_path}/{k}"
        return start(lab.node(k), token, address, "--dht=false", "--dhcp", lease, *flags)

    return make


def addresses(vpn: Vpn, count: int = 1) -> list[str]:
    """Once it has them, and they are on the interface."""

    def found() -> list[str]:
        status = vpn.status()
        return status["address"] if status and len(status["address"]) == count else []

    has = wait_for(found, 25, what="an address")
    assert isinstance(has, list)
    shown = vpn.node.run(["ip", "-json", "addr", "show", "dev", "edgevpn0"]).stdout
    on_interface = {
        f"{a['local']}/{a['prefixlen']}" for a in json.loads(shown)[0]["addr_info"] if a["scope"] == "global"
    }
    assert on_interface == set(has)
    return has


def test_four_nodes_started_at_once_get_four_addresses_and_reach_each_other(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    lab, token = make_lab(4), new_token()
    nodes = [start(lab, k, token) for k in range(1, 5)]
    has = [addresses(vpn)[0] for vpn in nodes]
    assert len(set(has)) == 4
    assert all(address.startswith("10.1.0.") and address.endswith("/24") for address in has)
    for k, other in ((1, 4), (3, 2)):
        traffic.first_answer(lab.node(k), has[other - 1].partition("/")[0], "edgevpn0", 15)
    ips = {address.partition("/")[0] for address in has}
    wait_for(lambda: set(nodes[0].json("ledger", "machines")) == ips, 10, what="all machines in the ledger")
    for k, address in enumerate(has, 1):
        [lease] = [path for path in (tmp_path / str(k)).iterdir() if path.is_file()]
        assert lease.read_text() == address.partition("/")[0]
        assert stat.S_IMODE(lease.stat().st_mode) == 0o600
        assert len(lease.name) == 32


def test_a_node_alone_gets_an_address_of_both_families_and_says_what_it_waits_for(
    make_lab: MakeLab, start: MakeNode
) -> None:
    vpn = start(make_lab(1), 1, new_token(), "10.1.0.1/24,fd00:1::1/64")

    def waiting() -> str:
        status = vpn.status()
        return str(status["waiting_for"]) if status else ""

    wait_for(lambda: "an address of 10.1.0.0/24, fd00:1::/64" in waiting(), 10, what="what it waits for")
    v4, v6 = addresses(vpn, 2)
    assert v4.startswith("10.1.0.")
    assert v6.startswith("fd00:1::")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_address_comes_again_after_a_restart_and_the_ledger_actor_s_death(
    make_lab: MakeLab, start: MakeNode, how: int
) -> None:
    lab, token = make_lab(2), new_token()
    other, vpn = start(lab, 1, token), start(lab, 2, token)
    before = addresses(vpn)
    theirs = addresses(other)[0].partition("/")[0]
    traffic.first_answer(lab.node(2), theirs, "edgevpn0", 15)
    pid = vpn.pid_of("ledger")
    pinging = traffic.Pinging(lab.node(2), theirs, 0.05, "edgevpn0")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: vpn.pid_of("ledger") not in (0, pid), 10, what="another ledger actor")
    assert addresses(vpn) == before
    assert pinging.finish().longest_gap_s < 1
    vpn.stop(how)
    again = start(lab, 2, token)
    assert addresses(again) == before
    traffic.first_answer(lab.node(1), before[0].partition("/")[0], "edgevpn0", 15)


def test_an_address_that_a_machine_was_given_by_hand_is_not_taken(make_lab: MakeLab, start: MakeNode) -> None:
    lab, token = make_lab(2), new_token()
    fixed = Vpn(lab.node(1), token, "10.1.0.1/30", "--dht=false")
    try:
        vpn = start(lab, 2, token, "10.1.0.1/30")
        assert addresses(vpn) == ["10.1.0.2/30"]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 15)
    finally:
        fixed.close()
