"""Whole nodes over a path that loses: what arrives is right, and a stream runs where the bare link crawls."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from scripts.labkit import hashed, traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler for the lab's fast relay"),
]

ADDRESSES = {4: ("10.1.0.1", "10.1.0.1/24", "10.1.0.2/24"), 6: ("fd42::1", "fd42::1/64", "fd42::2/64")}


def two_nodes(lab: Lab, start: MakeNode, version: int, *flags: str) -> tuple[Vpn, Vpn, str]:
    token = new_token()
    target, first, second = ADDRESSES[version]
    one = start(lab.node(1), token, first, "--dht=false", "--mtu=1420", *flags)
    two = start(lab.node(2), token, second, "--dht=false", "--mtu=1420", *flags)
    traffic.first_answer(lab.node(2), target, "edgevpn0", 30)
    wait_for(lambda: [p["path"] for p in two.json("peers")] == ["datagram"], 20, what="the datagram path")
    return one, two, target


def counted(vpn: Vpn) -> dict[str, int]:
    return dict(vpn.json("peers")[0]["repair"])


def forged(vpn: Vpn) -> int:
    code = "datagrams.engine.opener.counters['datagrams_forged'] + datagrams.engine.opener.counters['trains_refused']"
    return int(vpn.ask("repl", "tun", "-c", code).stdout)


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("version", [4, 6])
def test_a_hashed_transfer_arrives_as_it_was(make_lab: MakeLab, start: MakeNode, version: int, loss: float) -> None:
    lab = make_lab(2, delay_ms=5, loss=loss, rate_mbit=200, fast=True, seed=7)
    one, two, target = two_nodes(lab, start, version)
    hashed.transfer(lab.node(1), lab.node(2), target, 30, 90)
    repaired = counted(one)
    if loss:
        assert repaired["repaired_by_parity"] + repaired["repaired_by_copy"] > 50
        assert counted(two)["parity_sent"] > 100
    assert forged(one) == 0


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_a_hashed_transfer_over_ipv6_arrives_as_it_was(make_lab: MakeLab, start: MakeNode, loss: float) -> None:
    lab = make_lab(2, delay_ms=2, loss=loss, rate_mbit=200, fast=True, seed=7)
    for node in lab.nodes:
        node.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
    one, two, target = two_nodes(lab, start, 4)
    assert two.json("peers")[0]["path_address"].startswith("[fd99::1]")
    hashed.transfer(lab.node(1), lab.node(2), target, 30, 90)
    assert forged(one) == 0
    if loss:
        assert counted(one)["repaired_by_parity"] > 50


@pytest.mark.parametrize("version", [4, 6])
def test_hashed_datagrams_arrive_as_they_were_and_once(make_lab: MakeLab, start: MakeNode, version: int) -> None:
    count = 50_000  # of each version: a hundred thousand together
    lab = make_lab(2, delay_ms=5, loss=0.01, rate_mbit=200, fast=True, seed=8)
    one, _, target = two_nodes(lab, start, version)
    seen = hashed.packets(lab.node(1), lab.node(2), target, count, 8000)
    assert (seen.wrong, seen.twice) == (0, 0)
    assert seen.came > 0.995 * count  # 0.99 without repair
    assert counted(one)["repaired_by_parity"] > 0


def test_a_stream_over_a_lossy_path_is_many_times_as_fast_with_repair(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2, delay_ms=10, loss=0.005, rate_mbit=100, fast=True, seed=9)
    _, _, target = two_nodes(lab, start, 4)
    raw = traffic.iperf3(lab.node(1), lab.node(2), lab.node(1).address, 4, "-C", "cubic")
    inside = traffic.iperf3(lab.node(1), lab.node(2), target, 4, "-C", "cubic")
    assert inside > 2.5 * raw


def test_repair_off_on_one_side_is_off_on_both(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--repair=off")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: [p["path"] for p in two.json("peers")] == ["datagram"], 10, what="the datagram path")
    assert counted(one) == counted(two) == {}
