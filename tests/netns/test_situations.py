"""What networks do to a VPN, after the list that WireGuard's own tests go through: floods, large packets, loops, cuts,
moves.

More moves are in test_roaming.py, the path MTU is in test_path_mtu.py, new keys are in test_datagrams.py.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.numbered import Numbered, Streaming
from scripts.labkit.traffic import wait_for
from tests.netns.test_datagrams import path_of
from tests.netns.test_node import MakeNode
from tests.netns.test_roaming import addresses, move, only, path_address

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(90)


class Pair(NamedTuple):
    """Of the underlay's `version`."""

    version: int
    lab: Lab
    one: Vpn
    two: Vpn


BOTH = "10.1.0.{0}/24,fd42::{0}/64"


@pytest.fixture(scope="module", params=[4, 6], ids=["over IPv4", "over IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two nodes that reach each other by datagrams, with addresses of both versions inside."""
    with Lab(2) as lab:
        only(lab, request.param)
        token = new_token()
        nodes = [Vpn(lab.node(k), token, BOTH.format(k), "--dht=false") for k in (1, 2)]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
        wait_for(lambda: all(path_of(vpn) == "datagram" for vpn in nodes), 10, what="the datagram path")
        yield Pair(request.param, lab, *nodes)
        for vpn in nodes:
            vpn.close()


@pytest.mark.parametrize("target", ["10.1.0.1", "fd42::1"])
def test_a_flood_of_pings_is_answered(pair: Pair, target: str) -> None:
    done = pair.two.node.run(["ping", "-f", "-q", "-c", "3000", target], timeout=20, check=False)
    print(done.stdout)
    received = re.search(r"(\d+) received", done.stdout)
    assert received is not None
    assert int(received[1]) >= 2990


@pytest.mark.parametrize("target", ["10.1.0.1", "fd42::1"])
def test_pings_larger_than_any_mtu_are_answered(pair: Pair, target: str) -> None:
    """Over IPv6 the way carries less than the interface: the first of them may be refused, with what fits."""
    pair.two.node.run(["ping", "-c", "3", "-i", "0.05", "-W", "1", "-s", "1392", target], timeout=20, check=False)
    for size in (1392, 1500, 8000, 40_000):
        for _ in range(3):
            words = ["ping", "-c", "1", "-W", "2", "-M", "dont", "-s", str(size), target]
            done = pair.two.node.run(words, timeout=20, check=False)
            assert " 1 received" in done.stdout, (size, done.stdout)


def test_streams_of_both_directions_outlive_moves_of_both_sides(pair: Pair) -> None:
    lab, version, one, two = pair.lab, pair.version, pair.one, pair.two
    streams = [
        Streaming(lab.node(2), lab.node(1), "10.1.0.1", 2e6),
        Streaming(lab.node(1), lab.node(2), "10.1.0.2", 2e6),
    ]
    packets = Numbered(lab.node(1), lab.node(2), "10.1.0.2", 500)
    moments = []
    time.sleep(1)
    for k in (2, 1):
        moments.append(move(lab.node(k), *addresses(version, k)))
        time.sleep(1.5)
    seen = [stream.finish() for stream in streams]
    numbered = packets.finish()
    assert path_of(one) == path_of(two) == "datagram"
    assert str(102 if version == 4 else "66") in path_address(one)
    assert "moved" in str(one.json("peers")[0]["path_why"])
    gaps = [[one.silence_at(moment, 1.5) for moment in moments] for one in (*seen, numbered)]
    print(f"IPv{version}: silences after the moves of the second and the first node, s:")
    for name, values in zip(("TCP from the second", "TCP to it", "UDP to it"), gaps, strict=True):
        print(f"    {name}: " + ", ".join(f"{value:.3f}" for value in values))
    assert all(one.wrong == 0 for one in seen)
    assert max(max(values) for values in gaps) <= 1.0


def ticks_of(pid: int) -> float:
    """Seconds of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sent_by(node: Node) -> int:
    """Packets that the machine gave the VPN."""
    return int(node.run(["cat", "/sys/class/net/edgevpn0/statistics/tx_packets"]).stdout)


def test_a_route_that_leads_the_tunnel_into_itself_melts_nothing(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    only(lab, 4)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false", "--router=10.1.0.1")
    node = lab.node(2)
    traffic.first_answer(node, "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path")
    pid = two.pid_of("tun")
    pinging = traffic.Pinging(node, "10.1.0.1", 0.01, "edgevpn0")
    packets, ticks, began = sent_by(node), ticks_of(pid), time.monotonic()
    node.run(["ip", "route", "add", f"{lab.node(1).address}/32", "dev", "edgevpn0"])
    time.sleep(2)
    seconds = time.monotonic() - began
    packets, ticks = sent_by(node) - packets, ticks_of(pid) - ticks
    dropped = int(two.ask("repl", "tun", "-c", "pump.counters['own_datagrams_dropped']").stdout)
    print(f"{packets} packets into the VPN in {seconds:.1f} s, {ticks:.2f} s of a processor; {dropped} of its own")
    node.run(["ip", "route", "del", f"{lab.node(1).address}/32", "dev", "edgevpn0"])
    back = time.monotonic()
    traffic.first_answer(node, "10.1.0.1", "edgevpn0", 10)
    print(f"back {time.monotonic() - back:.1f} s after the route was gone")
    pinging.finish()
    assert dropped > 0
    assert packets < 1000 * seconds
    assert ticks < 0.5 * seconds


@pytest.mark.parametrize("hooks", [("input",), ("input", "output")], ids=["one direction", "both directions"])
def test_where_udp_is_cut_the_stream_takes_over_and_gives_back(
    make_lab: MakeLab, start: MakeNode, hooks: tuple[str, ...]
) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    far = lab.node(1)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path")
    streams = [Streaming(lab.node(2), far, "10.1.0.1", 2e6), Streaming(far, lab.node(2), "10.1.0.2", 2e6)]
    time.sleep(1)
    rules = ["add table inet cut"]
    for hook in hooks:
        rules.append(f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}")
        rules.append(f"add rule inet cut {hook} udp dport != 5353 drop")
    moment = time.monotonic()
    far.run(["nft", "; ".join(rules)])
    wait_for(lambda: path_of(one) == path_of(two) == "stream", 10, what="the stream path")
    time.sleep(1)
    allowed = time.monotonic()
    far.run(["nft", "delete table inet cut"])
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path again")
    back = time.monotonic() - allowed
    time.sleep(1)
    seen = [stream.finish() for stream in streams]
    silences = [[one.silence_at(at, 3) for one in seen] for at in (moment, allowed)]
    print(
        f"silences of two TCP streams, s: cut {silences[0]}, allowed {silences[1]}; datagrams {back:.1f} s after that"
    )
    assert [one.wrong for one in seen] == [0, 0]
    assert max(silences[0]) <= 3
    assert max(silences[1]) <= 2
    assert back <= 8
