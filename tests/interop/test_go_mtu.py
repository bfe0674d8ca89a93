"""A Go node with its MTU of 1200 beside two of ours with 1420: each pair gets packets of the size that suits it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from tests.interop.table import Table

MakeTable = Callable[..., Table]
pytestmark = pytest.mark.timeout(95)


def test_towards_a_go_node_packets_have_its_size_and_between_ours_ours(make_table: MakeTable) -> None:
    table = make_table(3)
    go = table.go(1)
    go.wait_until_it_answers()
    ours, other = table.ours(2), table.ours(3)
    for target in ("10.1.0.1", "10.1.0.3"):
        traffic.first_answer(ours.node, target, "edgevpn0", 40)
    traffic.wait_for(lambda: "datagram" in [peer["path"] for peer in ours.json("peers")], 10, what="datagrams")
    assert "mtu 1420" in ours.node.run(["ip", "link", "show", "edgevpn0"]).stdout
    large = ["ping", "-c", "3", "-i", "0.2", "-W", "2", "-s", "1372", "-I", "edgevpn0", "-M"]
    assert " 3 received" in ours.node.run([*large, "do", "10.1.0.3"], check=False).stdout
    told = ours.node.run([*large, "do", "10.1.0.1"], check=False)
    assert "1200" in told.stdout + told.stderr
    assert " 3 received" in ours.node.run([*large, "dont", "10.1.0.1"], check=False).stdout
    why = {peer["peer_id"]: peer["path_why"] for peer in ours.json("peers")}[go.peer_id]
    assert "above 1200 bytes" in why
    assert traffic.iperf3(go.node, ours.node, "10.1.0.1", 2) > 1
    assert traffic.iperf3(ours.node, go.node, "10.1.0.2", 2) > 1
    assert traffic.iperf3(other.node, ours.node, "10.1.0.3", 2) > 100
