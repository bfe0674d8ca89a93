"""Relays and NATs with Go nodes: theirs carry ours, ours carry theirs.

The lab is closed and has addresses that the Go program takes for the Internet's: at others it never is a relay. It
becomes one when other Go nodes could dial it back (AutoNAT), so there is always a second one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nats import behind, only_to, publish
from scripts.labkit.traffic import wait_for
from tests.interop.table import Table, exchange
from tests.netns.test_relay import row, stats

MakeTable = Callable[..., Table]

pytestmark = pytest.mark.timeout(180)
PORT = "--listen-maddrs=/ip4/0.0.0.0/tcp/4001"


def nats(lab: Lab) -> None:
    """Nodes 4 and 5 behind routers of their own, which let them speak with 1 and 6 alone."""
    publish(lab)
    for router, inside in ((2, 4), (3, 5)):
        behind(lab.node(router), lab.node(inside), 5 + router)
        only_to(lab.node(router), lab.node(1).address, lab.node(6).address)


def test_a_node_of_ours_is_reached_through_a_go_relay(make_table: MakeTable) -> None:
    table = make_table(6)
    nats(table.lab)
    relay = table.go(1, "--dht=false", PORT)
    table.go(6, "--dht=false", PORT)
    relay.wait_until_it_answers()
    place = f"/ip4/{table.lab.node(1).address}/tcp/4001/p2p/{relay.peer_id}"
    way = f"--discovery-bootstrap-peers={place}"
    one = table.ours(4, "--dht=false", way)
    two = table.ours(5, "--dht=false", way, f"--autorelay-static-peer={place}")
    began = time.monotonic()
    for vpn in (one, two):
        vpn.wait_for_state("up", 20)
        wait_for(lambda vpn=vpn: stats(vpn)["reservations"] == 1, 60, 0.5, "a place at the Go relay")  # type: ignore[misc]
    print(f"places at the Go relay after {time.monotonic() - began:.1f} s")
    traffic.first_answer(one.node, "10.1.0.5", "edgevpn0", 40)
    print(f"first answer after {time.monotonic() - began:.1f} s")
    for here, there in ((one, "10.1.0.5"), (two, "10.1.0.4")):
        found = traffic.ping(here.node, there, 20, 0.05)
        seen = row(here, there)
        print(f"{found.received}/{found.sent}, median {found.median_ms:.2f} ms;", seen["path"], "|", seen["path_why"])
        assert found.received == found.sent == 20
        assert seen["path"] == "relayed"
        assert seen["path_why"].startswith(f"through the relay {relay.peer_id}")


def test_a_go_node_reaches_one_of_ours_through_our_relay_and_packets_go_both_ways(make_table: MakeTable) -> None:
    """The Go node finds the address through the relay in the DHT, which our relay serves."""
    table = make_table(6)
    nats(table.lab)
    relay = table.ours(1, "--mdns=false", PORT)
    peer_id = relay.wait_for_state("joining", 30)["peer_id"]
    flags = ("--mdns=false", f"--discovery-bootstrap-peers=/ip4/{table.lab.node(1).address}/tcp/4001/p2p/{peer_id}")
    ours = table.ours(5, *flags)
    wait_for(lambda: stats(relay)["relay_places"] == 1, 40, 0.5, "the place of our node")
    began = time.monotonic()
    go = table.go(4, *flags)
    go.wait_until_it_answers()
    traffic.first_answer(go.node, "10.1.0.5", "edgevpn0", 60)
    print(f"first answer after {time.monotonic() - began:.1f} s")
    exchange(go, ours)
    seen = row(ours, "10.1.0.4")
    print(seen["path"], "|", seen["path_why"])
    assert seen["path"] == "edgevpn-stream"
    assert seen["path_why"].startswith(f"through the relay {peer_id}")
