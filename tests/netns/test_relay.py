"""Nodes behind NATs of their own, and one that both can dial: what goes through it, and what goes directly."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nats import behind, only_to, wall
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.numbered import Numbered
from scripts.labkit.traffic import wait_for
from tests.netns.marks import long
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(150)
LISTEN = "--listen-maddrs=/ip4/0.0.0.0/tcp/4001"


class Net:
    """Node 1 is the one in reach, 2 and 3 are routers, 4 is behind 2 and 5 behind 3; `more` nodes in reach besides."""

    def __init__(self, lab: Lab, start: MakeNode, *flags: str, relay_flags: tuple[str, ...] = ()) -> None:
        self.lab = lab
        self.start = start
        self.flags = flags
        self.token = new_token()
        behind(lab.node(2), lab.node(4), 7)
        behind(lab.node(3), lab.node(5), 8)
        lab.node(1).run(["ip", "-6", "addr", "flush", "dev", "eth0"])
        self.relay = start(lab.node(1), self.token, "10.1.0.1/24", "--dht=false", LISTEN, *relay_flags)
        self.relay_id = str(self.relay.wait_for_state("joining")["peer_id"])
        self.way = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{self.relay_id}"

    def one(self, k: int, *flags: str) -> Vpn:
        """The node behind the router k - 2."""
        return self.start(self.lab.node(k), self.token, f"10.1.0.{k}/24", "--dht=false", self.way, *self.flags, *flags)

    def close_off(self) -> None:
        for k in (2, 3):
            only_to(self.lab.node(k), self.lab.node(1).address)


def row(vpn: Vpn, address: str) -> dict[str, Any]:
    """Of the peer with that VPN address; {} while it is not connected."""
    return next((dict(one) for one in vpn.json("peers") if address in one["addresses"]), {})


def is_direct(found: dict[str, Any]) -> bool:
    remotes = found.get("remote", [])
    return bool(remotes) and not any("/p2p-circuit" in one for one in remotes)


def path(vpn: Vpn, address: str) -> str:
    return str(row(vpn, address).get("path", ""))


def stats(vpn: Vpn, actor: str = "host") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vpn.ask("repl", actor, "-c", "import json; print(json.dumps(stats()))").stdout)
    return found


def ledger_of(vpn: Vpn) -> dict[str, Any]:
    found = vpn.json("ledger")
    return {bucket: {key: one["value"] for key, one in rows.items()} for bucket, rows in found.items() if rows}


def same_ledger(*nodes: Vpn) -> bool:
    found = [ledger_of(vpn) for vpn in nodes]
    return len(found[0].get("machines", {})) == len(nodes) and all(one == found[0] for one in found)


def test_two_nodes_that_reach_nobody_but_a_third_talk_through_it(make_lab: MakeLab, start: MakeNode) -> None:
    net = Net(make_lab(5), start)
    net.close_off()
    a, b = net.one(4), net.one(5)
    began = time.monotonic()
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 30)
    print(f"first answer after {time.monotonic() - began:.1f} s")
    wait_for(lambda: same_ledger(net.relay, a, b), 20, 0.2, "one ledger")
    for here, there in ((a, "10.1.0.5"), (b, "10.1.0.4")):
        found = traffic.ping(here.node, there, 20, 0.05)
        print(f"{found.received}/{found.sent}, median {found.median_ms:.2f} ms")
        assert found.received == found.sent == 20
        seen = row(here, there)
        print(seen["path"], "|", seen["path_why"], "|", seen["remote"])
        assert seen["path"] == "relayed"
        assert seen["path_why"].startswith(f"through the relay {net.relay_id}: no direct connection")
        assert all(one.endswith(f"/p2p/{net.relay_id}/p2p-circuit") for one in seen["remote"])
    relayed = stats(net.relay)
    assert relayed["relay_places"] == 2
    assert relayed["relay_circuits_now"] >= 1
    assert relayed["relay_bytes"] > 10_000


@pytest.mark.parametrize("punch", [True, False])
def test_where_their_nats_allow_it_packets_go_directly_soon_and_no_more_through_the_relay(
    make_lab: MakeLab, start: MakeNode, punch: bool
) -> None:
    net = Net(make_lab(5), start, f"--holepunch={str(punch).lower()}")
    a, b = net.one(4), net.one(5)
    began = time.monotonic()
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 30)
    print(f"first answer after {time.monotonic() - began:.1f} s, by {path(a, '10.1.0.5')}")
    both = ((a, "10.1.0.5", 3), (b, "10.1.0.4", 2))
    wait_for(lambda: all(path(h, t) == "datagram" for h, t, _ in both), 20, 0.1, "datagrams both ways")
    print(f"datagrams after {time.monotonic() - began:.1f} s")
    for here, there, router in both:
        seen = row(here, there)
        print(seen["path"], seen["path_address"], "|", seen["path_why"], "|", seen["remote"])
        assert seen["path_address"].startswith(f"{net.lab.node(router).address}:")
    before = stats(net.relay)["relay_bytes"]
    found = traffic.ping(a.node, "10.1.0.5", 200, 0.01)
    print(f"{found.received}/{found.sent}, median {found.median_ms:.2f} ms")
    assert found.received == found.sent == 200
    assert stats(net.relay)["relay_bytes"] - before < 10_000  # 200 packets there and back are 33,600
    if punch:
        wait_for(lambda: all(is_direct(row(h, t)) for h, t, _ in both), 20, 0.2, "a direct connection")
        print(f"direct connections after {time.monotonic() - began:.1f} s: {row(a, '10.1.0.5')['remote']}")
        wait_for(lambda: stats(net.relay)["relay_circuits_now"] == 0, 10, 0.2, "the end of the circuits")
        wait_for(lambda: same_ledger(net.relay, a, b), 20, 0.2, "one ledger")
        assert traffic.ping(b.node, "10.1.0.4", 20, 0.05).received == 20
    else:
        time.sleep(5)
        assert all("/p2p-circuit" in r for h, t, _ in both for r in row(h, t)["remote"])


def test_when_a_relay_dies_another_takes_its_place_and_one_that_comes_back_is_used_again(
    make_lab: MakeLab, start: MakeNode
) -> None:
    """Six nodes: the sixth is in reach, too. Then the host actor of one behind a NAT is killed."""
    lab = make_lab(6)
    net = Net(lab, start)
    other = lab.node(6)
    other.run(["ip", "-6", "addr", "flush", "dev", "eth0"])
    for k in (2, 3):
        only_to(lab.node(k), lab.node(1).address, other.address)
    second = start(other, net.token, "10.1.0.6/24", "--dht=false", net.way, "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    second_id = str(second.wait_for_state("up")["peer_id"])
    a, b = net.one(4), net.one(5)
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 30)
    for vpn in (a, b):
        wait_for(lambda vpn=vpn: stats(vpn)["reservations"] == 2, 20, 0.2, "places at both relays")
    packets = Numbered(a.node, b.node, "10.1.0.5", 50)
    time.sleep(1)
    moment = time.monotonic()
    through = row(a, "10.1.0.5")["path_why"].split()[3].rstrip(":")
    dying, left = (net.relay, second_id) if through == net.relay_id else (second, net.relay_id)
    assert through in (net.relay_id, second_id)
    dying.process.kill()
    wait_for(lambda: row(a, "10.1.0.5").get("path_why", "").startswith(f"through the relay {left}"), 30, 0.2, "another")
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 20)
    time.sleep(1)
    print(f"a relay died: {packets.finish().silence_at(moment):.2f} s of silence")
    dying.start_again()
    dying.wait_for_state("up", 20)
    for vpn in (a, b):
        wait_for(lambda vpn=vpn: stats(vpn)["reservations"] == 2, 60, 0.5, "the place at the relay that is back")
    os.kill(b.pid_of("host"), signal.SIGKILL)
    moment = time.monotonic()
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 30)
    print(f"the host behind the NAT was killed: an answer after {time.monotonic() - moment:.2f} s")
    wait_for(lambda: stats(b)["reservations"] == 2, 30, 0.5, "places of the new host")
    assert row(b, "10.1.0.4")["path"] == "relayed"
    wait_for(lambda: same_ledger(net.relay, second, a, b), 30, 0.5, "one ledger")


@long
def test_places_are_renewed_in_time_and_a_circuit_that_ends_is_followed_by_another(
    make_lab: MakeLab, start: MakeNode
) -> None:
    ttl = ("--relay-service-reservation-ttl=8s", "--relay-service-max-duration=6s")
    net = Net(make_lab(5), start, relay_flags=ttl)
    net.close_off()
    a, b = net.one(4), net.one(5)
    traffic.first_answer(a.node, "10.1.0.5", "edgevpn0", 30)
    packets = Numbered(a.node, b.node, "10.1.0.5", 50)
    began = time.monotonic()
    places = []
    while time.monotonic() - began < 25:
        places.append(stats(net.relay)["relay_places"])
        time.sleep(0.5)
    seen = packets.finish()
    found = stats(net.relay)
    print({name: value for name, value in found.items() if "relay" in name}, "worst silence", seen.longest_s)
    assert set(places) == {2}
    assert found["relay_reservations"] >= 6
    assert found["relay_circuits_over_their_time"] >= 3
    assert seen.longest_s < 6


@pytest.mark.parametrize("punch", [True, False])
def test_behind_firewalls_that_translate_nothing_nodes_are_reached_through_a_relay_and_holes_open_them(
    make_lab: MakeLab, start: MakeNode, punch: bool
) -> None:
    """Everybody sees them where they are, so that only a member that can't be dialled tells them to ask for a place."""
    lab = make_lab(3)
    lab.node(1).run(["ip", "-6", "addr", "flush", "dev", "eth0"])
    token = new_token()
    flags = ("--dht=false", "--mdns=false")
    relay = start(lab.node(1), token, "10.1.0.1/24", *flags, LISTEN)
    relay_id = str(relay.wait_for_state("joining")["peer_id"])
    flags += (f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{relay_id}",)
    flags += (f"--holepunch={str(punch).lower()}",)
    for k in (2, 3):
        wall(lab.node(k))
    a, b = (start(lab.node(k), token, f"10.1.0.{k}/24", *flags) for k in (2, 3))
    for vpn in (a, b):
        vpn.wait_for_state("up")
    began = time.monotonic()
    both = ((a, "10.1.0.3"), (b, "10.1.0.2"))
    wait_for(lambda: all(row(h, t).get("remote") for h, t in both), 20, 0.2, "a connection between them")
    print(f"connected after {time.monotonic() - began:.1f} s: {row(a, '10.1.0.3')['remote']}")
    assert stats(relay)["relay_places"] == 2
    traffic.first_answer(a.node, "10.1.0.3", "edgevpn0", 10)
    if punch:
        wait_for(lambda: all(is_direct(row(h, t)) for h, t in both), 20, 0.2, "a direct connection")
        print(f"direct connections after {time.monotonic() - began:.1f} s: {row(a, '10.1.0.3')['remote']}")
    else:
        assert not any(is_direct(row(h, t)) for h, t in both)
    for here, there in both:
        assert traffic.ping(here.node, there, 20, 0.05).received == 20
