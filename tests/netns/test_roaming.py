"""Ways, interfaces and NATs change under running streams, in whole nodes: they go on, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.numbered import Numbered, Streaming
from scripts.labkit.traffic import wait_for
from tests.netns.test_datagrams import path_of, two_on_datagrams
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(120)


def only(lab: Lab, version: int) -> None:
    """Leave the lab's nodes one address family on the link."""
    for node in lab.nodes:
        node.run(["ip", f"-{10 - version}", "addr", "flush", "dev", "eth0"])
    tentative = ["ip", "-6", "addr", "show", "dev", "eth0", "tentative"]  # multicast goes by the link's own address
    for node in lab.nodes:
        wait_for(lambda node=node: version == 4 or not node.run(tentative).stdout, 5, what="the link's address")


def addresses(version: int, k: int) -> tuple[str, str]:
    """Where node k is, and where it moves to; with prefix lengths."""
    return (f"10.99.0.{k}/24", f"10.99.0.{100 + k}/24") if version == 4 else (f"fd99::{k}/64", f"fd99::{100 + k:x}/64")


def move(node: Node, old: str, new: str) -> float:
    """The moment when the address was changed."""
    nodad = ["nodad"] if ":" in new else []
    moment = time.monotonic()
    node.run(["ip", "addr", "del", old, "dev", "eth0"])
    node.run(["ip", "addr", "add", new, "dev", "eth0", *nodad])
    node.run(["ip", "route", "replace", "default", "dev", "eth0"])
    return moment


def path_address(vpn: Vpn) -> str:
    return str(vpn.json("peers")[0]["path_address"])


def test_a_second_way_takes_over_when_the_first_one_dies(make_lab: MakeLab, start: MakeNode) -> None:
    """IPv4 and IPv6 are there; the one in use is cut, in the middle of the link and without a word."""
    lab = make_lab(2)
    _, two = two_on_datagrams(lab, start)
    stream = Streaming(lab.node(2), lab.node(1), "10.1.0.1", 2e6)
    wait_for(lambda: "second:" in str(two.json("peers")[0]["path_why"]), 5, what="a second way")
    time.sleep(1)
    family = "ip6" if path_address(two).startswith("[") else "ip"
    far = lab.node(1)
    far.run(["nft", "add table inet cut"])
    far.run(["nft", "add chain inet cut in { type filter hook input priority 0; }"])
    moment = time.monotonic()
    far.run(["nft", "add rule inet cut in meta protocol", family, "udp dport != 5353 drop"])
    time.sleep(2.5)
    peer = two.json("peers")[0]
    print(peer["path_address"], peer["path_why"])
    seen = stream.finish()
    print(f"silence: {seen.silence_at(moment):.3f} s")
    assert peer["path"] == "datagram"
    assert str(peer["path_address"]).startswith("[") is (family == "ip")
    assert "silent" in peer["path_why"]
    assert seen.silence_at(moment) <= 1.0
    assert seen.wrong == 0


def test_an_address_goes_to_another_interface_and_back(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    only(lab, 4)
    _, two = two_on_datagrams(lab, start)
    node = lab.node(2)
    node.run(["ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "private"])
    node.run(["ip", "link", "set", "mv0", "up"])
    packets = Numbered(lab.node(1), node, "10.1.0.2", 500)
    stream = Streaming(node, lab.node(1), "10.1.0.1", 2e6)
    moments = []
    time.sleep(1)
    for old, new in (("eth0", "mv0"), ("mv0", "eth0")):
        moments.append(time.monotonic())
        node.run(["ip", "addr", "del", f"{node.address}/24", "dev", old])
        node.run(["ip", "addr", "add", f"{node.address}/24", "dev", new])
        node.run(["ip", "route", "replace", "default", "dev", new])
        time.sleep(1.2)
    assert path_of(two) == "datagram"
    numbered, seen = packets.finish(), stream.finish()
    gaps = [[one.silence_at(moment) for moment in moments] for one in (numbered, seen)]
    print("UDP and TCP silences, s:", gaps)
    assert max(max(values) for values in gaps) <= 1.0


def test_an_interface_goes_down_and_up(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    only(lab, 4)
    one, two = two_on_datagrams(lab, start)
    node = lab.node(2)
    stream = Streaming(lab.node(2), lab.node(1), "10.1.0.1", 2e6)
    time.sleep(1)
    node.run(["ip", "link", "set", "eth0", "down"])
    time.sleep(1)
    node.run(["ip", "link", "set", "eth0", "up"])
    node.run(["ip", "route", "replace", "default", "dev", "eth0"])
    up = time.monotonic()
    traffic.first_answer(node, "10.1.0.1", "edgevpn0", 5)
    back = time.monotonic() - up
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 5, what="the datagram path again")
    print(f"first answer {back:.2f} s after the interface was up, datagrams by {time.monotonic() - up:.2f} s")
    time.sleep(2)
    seen = stream.finish()
    assert back <= 1.0
    assert seen.wrong == 0
    assert seen.silence_at(time.monotonic() - 0.5, 0) == 0, "the stream did not come back"


def test_peers_behind_a_nat_are_followed_when_it_forgets_its_mappings(make_lab: MakeLab, start: MakeNode) -> None:
    """The third node is a router that masquerades; the second is behind it, and after a change has another port."""
    lab = make_lab(3)
    only(lab, 4)
    nat, inside = lab.node(3), lab.node(2)
    nat.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    nat.run(["ip", "link", "add", "in0", "type", "veth", "peer", "name", "eth1", "netns", inside.netns])
    nat.run(["ip", "addr", "add", "192.168.7.1/24", "dev", "in0"])
    nat.run(["ip", "link", "set", "in0", "up"])
    inside.run(["ip", "link", "set", "eth0", "down"])
    inside.run(["ip", "addr", "add", "192.168.7.2/24", "dev", "eth1"])
    inside.run(["ip", "link", "set", "eth1", "up"])
    inside.run(["ip", "route", "replace", "default", "via", "192.168.7.1"])
    masquerade(nat, 40000)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    peer_id = one.wait_for_state("joining")["peer_id"]
    way = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{peer_id}"
    two = start(inside, token, "10.1.0.2/24", "--dht=false", way)
    traffic.first_answer(inside, "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path")
    assert path_address(one).startswith(f"{nat.address}:")
    stream = Streaming(inside, lab.node(1), "10.1.0.1", 2e6)
    packets = Numbered(lab.node(1), inside, "10.1.0.2", 500)
    time.sleep(1)
    before = path_address(one)
    moment = time.monotonic()
    masquerade(nat, 50000)
    nat.run(["ip", "addr", "del", f"{nat.address}/24", "dev", "eth0"])  # what is masqueraded by it is forgotten
    nat.run(["ip", "addr", "add", f"{nat.address}/24", "dev", "eth0"])
    time.sleep(1.5)
    seen, numbered = stream.finish(), packets.finish()
    # The NAT may have answered for the libp2p connection that it forgot, with a reset: it is made again then.
    wait_for(lambda: all(vpn.json("peers") for vpn in (one, two)), 10, what="the connection again")
    after = path_address(one)
    print(
        f"{before} became {after}; silences: TCP {seen.silence_at(moment):.3f}, UDP {numbered.silence_at(moment):.3f}"
    )
    assert after != before
    assert after.startswith(f"{nat.address}:5")
    assert path_of(one) == path_of(two) == "datagram"
    assert max(seen.silence_at(moment), numbered.silence_at(moment)) <= 1.0
    assert seen.wrong == 0


def masquerade(nat: Node, first_port: int) -> None:
    """New mappings of UDP get ports from this one on."""
    nat.run(["nft", "flush", "ruleset"])
    nat.run(["nft", "add table ip nat"])
    nat.run(["nft", "add chain ip nat post { type nat hook postrouting priority 100; }"])
    ports = f"{first_port}-{first_port + 999}"
    nat.run(["nft", "add rule ip nat post oifname eth0 meta l4proto udp masquerade to", f":{ports}"])
    nat.run(["nft", "add rule ip nat post oifname eth0 masquerade"])
