"""Relays and NATs with Go nodes: theirs carry ours, ours carry theirs.

The lab is closed and has addresses that the Go program takes for the Internet's: at others it never is a relay. It
becomes one when other Go nodes could dial it back (AutoNAT), so there is always a second one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.go_nodes import GoVpn
from scripts.labkit.namespaces import Lab
from scripts.labkit.nats import behind, only_to, publish
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import wait_for
from tests.interop.table import Table, address, exchange
from tests.netns.test_relay import is_direct, row, stats

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


def behind_our_relay(table: Table) -> tuple[str, Vpn, tuple[str, ...]]:
    """A relay of ours, one of ours that has a place there, and flags for who is to find it."""
    relay = table.ours(1, "--mdns=false", PORT)
    peer_id = relay.wait_for_state("joining", 30)["peer_id"]
    flags = ("--mdns=false", f"--discovery-bootstrap-peers=/ip4/{table.lab.node(1).address}/tcp/4001/p2p/{peer_id}")
    ours = table.ours(5, *flags)
    wait_for(lambda: stats(relay)["relay_places"] == 1, 40, 0.5, "the place of our node")
    return peer_id, ours, flags


def test_a_go_node_reaches_one_of_ours_through_our_relay_and_packets_go_both_ways(make_table: MakeTable) -> None:
    """The Go node finds the address through the relay in the DHT, which our relay serves."""
    table = make_table(6)
    nats(table.lab)
    peer_id, ours, flags = behind_our_relay(table)
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


def open_nats(lab: Lab) -> None:
    """As `nats`, but the routers let out everything: a hole can be made. Who is inside is told where it is seen."""
    publish(lab)
    for router, inside in ((2, 4), (3, 5)):
        behind(lab.node(router), lab.node(inside), 5 + router)
        lab.node(inside).run(["ip", "addr", "flush", "dev", "eth0"])


def meet(ours: Vpn, go: GoVpn, timeout: float) -> str:
    """Until they have a direct connection and no relayed one any more, and packets go both ways; where to."""
    began = time.monotonic()
    wait_for(lambda: row(ours, address(go)).get("remote"), timeout, 0.2, "a connection with the Go node")
    print(f"connected after {time.monotonic() - began:.1f} s: {row(ours, address(go))['remote']}")
    wait_for(lambda: is_direct(row(ours, address(go))), 30, 0.2, "a direct connection")
    seen = row(ours, address(go))
    print(f"directly after {time.monotonic() - began:.1f} s: {seen['remote']}, {seen['direction']}")
    traffic.first_answer(go.node, address(ours), "edgevpn0", 20)
    exchange(go, ours)
    assert is_direct(row(ours, address(go)))
    return str(seen["remote"])


def test_a_go_node_that_dialled_ours_through_our_relay_ends_up_directly_connected(make_table: MakeTable) -> None:
    """Ours was dialled, so that it begins. The Go node has no place at the relay: nobody dials it."""
    table = make_table(5)
    open_nats(table.lab)
    _, ours, flags = behind_our_relay(table)
    go = table.go(4, *flags, "--autorelay=false")
    go.wait_until_it_answers()
    assert f"/ip4/{table.lab.node(2).address}/" in meet(ours, go, 60)
    found = stats(ours)
    assert found["circuits_taken"] >= 1
    assert found["holes_punched"] == 1


def test_a_go_node_that_ours_dialled_through_our_relay_ends_up_directly_connected(make_table: MakeTable) -> None:
    """The Go node was dialled, so that it begins; ours has no place at any relay.

    A Go node asks for places only after another Go node has failed to dial it (AutoNAT), 30 s after its start, and
    only when it knows of four relays (go-libp2p, autorelay/options.go: minCandidates) or after three minutes.
    """
    table = make_table(9)
    open_nats(table.lab)
    first = table.ours(1, "--mdns=false", PORT)
    peer_id = first.wait_for_state("joining", 30)["peer_id"]
    place = f"/ip4/{table.lab.node(1).address}/tcp/4001/p2p/{peer_id}"
    flags = ("--mdns=false", f"--discovery-bootstrap-peers={place}")
    relays = {place: first}
    for k in (6, 7, 8):
        relay = table.ours(k, *flags, PORT)
        peer_id = relay.wait_for_state("up", 30)["peer_id"]
        relays[f"/ip4/{table.lab.node(k).address}/tcp/4001/p2p/{peer_id}"] = relay
    table.go(9, *flags, PORT, "--relay-service=false").wait_until_it_answers()
    go = table.go(4, *flags, *(f"--autorelay-static-peer={one}" for one in relays))
    go.wait_until_it_answers()
    wait_for(
        lambda: sum(stats(relay)["relay_places"] for relay in relays.values()) > 0, 90, 0.5, "a place of the Go node"
    )
    ours = table.ours(5, *flags, "--autorelay-static-only")  # it knows no static one
    ours.wait_for_state("up", 20)
    assert f"/ip4/{table.lab.node(2).address}/" in meet(ours, go, 60)
    found = stats(ours)
    assert found["circuits_dialled"] >= 1
    assert found["holes_punched"] == 1
