"""The path MTU falls under whole nodes, at our own device and as a black hole: streams go on, senders are told."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import wait_for
from tests.netns.test_datagrams import path_of, two_on_datagrams
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
LIMITS = (1280 - 28 - 38, 1280 - 48 - 38)  # by IPv4, by IPv6
pytestmark = pytest.mark.timeout(90)


def device_of(node: Node) -> str:
    return node.run(["ip", "-o", "-4", "addr", "show", "to", node.address]).stdout.split()[1]


def received(node: Node) -> int:
    """Bytes that the VPN gave this node's machine."""
    shown = json.loads(node.run(["ip", "-j", "-s", "link", "show", "edgevpn0"]).stdout)
    return int(shown[0]["stats64"]["rx"]["bytes"])


def rate(node: Node, seconds: float) -> float:
    """Mbit/s."""
    began, before = time.monotonic(), received(node)
    time.sleep(seconds)
    return (received(node) - before) * 8e-6 / (time.monotonic() - began)


def time_to_speed(node: Node, wanted: float) -> float:
    """Seconds until a quarter of a second has seen `wanted` Mbit/s."""
    began = time.monotonic()
    while time.monotonic() - began < 10:
        if rate(node, 0.25) >= wanted:
            return time.monotonic() - began
    return 10.0


def why(vpn: Vpn) -> str:
    return str(vpn.json("peers")[0]["path_why"])


def limit(reason: str) -> int:
    """The size of packets that it speaks of."""
    found = re.search(r"above (\d+) bytes", reason)
    return int(found[1]) if found else 0


def test_a_stream_outlives_falls_of_the_path_mtu(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    near, far = lab.node(2), lab.node(1)
    _, two = two_on_datagrams(lab, start, "--mtu=1420")
    here, there = device_of(near), device_of(far)
    near.run(["ip", "link", "set", here, "gso_max_segs", "1"])  # as on a wire: each datagram by itself
    server = far.popen(["iperf3", "-s", "-1", "-B", "10.1.0.1"])
    listening = ["ss", "-Hltn", "sport = :5201"]
    wait_for(lambda: "5201" in far.run(listening).stdout, 5, what="iperf3")
    # 20 Mbit/s: what a busy machine does as well. BBR, where there is: it takes what passes during a black hole for the
    # rate of the way, and after a second of it goes on like that for many seconds
    has_bbr = "bbr" in near.run(["cat", "/proc/sys/net/ipv4/tcp_available_congestion_control"]).stdout.split()
    words = ["iperf3", "-c", "10.1.0.1", "-t", "60", "-b", "20M", "-C", "bbr" if has_bbr else "cubic"]
    client = near.popen(words)
    full = 20
    time_to_speed(far, full / 2)
    figures = []
    for kind, node, device in (("local", near, here), ("black hole", far, there)):
        node.run(["ip", "link", "set", device, "mtu", "1280"])
        took = time_to_speed(far, full / 2)
        slower = rate(far, 1), time_to_speed(far, full / 2)
        reason = why(two)
        node.run(["ip", "link", "set", device, "mtu", "1500"])
        began = time.monotonic()
        wait_for(lambda: "cut" not in why(two), 20, what="the full size again")
        rose = time.monotonic() - began
        after = rate(far, 1), time_to_speed(far, full / 2)
        figures.append((took, slower[1], after[1], reason))
        print(f"{kind}: half of {full} Mbit/s again after {took:.2f} s; then {slower[0]:.0f} Mbit/s, half after")
        print(f"    {slower[1]:.2f} s; {reason}")
        print(f"    after the rise full size in {rose:.2f} s; {after[0]:.0f} Mbit/s, half after {after[1]:.2f} s")
    assert client.poll() is None
    assert path_of(two) == "datagram"
    for *waits, reason in figures:
        assert max(waits) < 3, waits
        assert limit(reason) in LIMITS
    near.stop(client)
    far.stop(server)

    near.run(["ip", "link", "set", here, "mtu", "1280"])
    near.run(["ping", "-c", "10", "-i", "0.2", "-M", "do", "-s", "1372", "10.1.0.1"], check=False)
    mtu = limit(why(two))
    assert mtu in LIMITS
    told = near.run(["ping", "-c", "2", "-i", "0.2", "-M", "do", "-s", "1372", "10.1.0.1"], check=False)
    assert "essage too long" in told.stdout + told.stderr
    assert str(mtu) in told.stdout + told.stderr
    fits = near.run(["ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(mtu - 28), "10.1.0.1"], check=False)
    assert " 3 received" in fits.stdout
    cut = near.run(["ping", "-c", "3", "-i", "0.2", "-M", "dont", "-s", "1372", "10.1.0.1"], check=False)
    assert " 3 received" in cut.stdout
