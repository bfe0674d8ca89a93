"""The datagram path between whole nodes: used, left when it fails, found again, and kept when other actors die."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.rekey import rekey
from scripts.labkit.traffic import wait_for
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(180)

GARBAGE = """
import random, socket, sys, time
target, port, seed, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
chance = random.Random(seed)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
pieces = [chance.randbytes(chance.choice([0, 1, 11, 12, 28, 29, 60, 300, 1238, 1400])) for _ in range(200)]
until, sent = time.monotonic() + seconds, 0
while time.monotonic() < until:
    for piece in pieces:
        sock.sendto(piece, (target, port))
    sent += len(pieces)
    time.sleep(0.01)
print(sent)
"""


def path_of(vpn: Vpn) -> str:
    peers = vpn.json("peers")
    return str(peers[0]["path"]) if peers else "none"


def two_on_datagrams(lab: Lab, start: MakeNode, *flags: str) -> tuple[Vpn, Vpn]:
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", *flags)
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false", *flags)
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path")
    return one, two


def test_packets_go_as_datagrams_and_one_side_can_forbid_it(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(3)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--datagram-port=4500")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    three = start(lab.node(3), token, "10.1.0.3/24", "--dht=false", "--path=stream")
    for number in (2, 3):
        traffic.first_answer(lab.node(number), "10.1.0.1", "edgevpn0", 20)
    paths: dict[str, dict[str, object]] = {}

    def settled() -> bool:
        paths.update({peer["addresses"][0]: peer for peer in one.json("peers") if peer["addresses"]})
        kinds = [paths.get(address, {}).get("path") for address in ("10.1.0.2", "10.1.0.3")]
        return kinds == ["datagram", "stream"]

    wait_for(settled, 10, what="one peer by datagram, one by stream")
    assert {peer["path"] for peer in three.json("peers")} <= {"stream", "none"}
    seen = next(peer for peer in two.json("peers") if peer["addresses"] == ["10.1.0.1"])
    # Whichever of the two families answered first.
    assert seen["path_address"] in (f"{lab.node(1).address}:4500", f"[{lab.node(1).address6}]:4500")
    assert seen["path_why"]
    counted = wait_for(lambda: one.json("peers"), 5)
    assert all(peer["dropped"] == 0 for peer in counted if peer["member"])


def test_garbage_at_the_datagram_port_costs_counters_only(make_lab: MakeLab, start: MakeNode) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    lab = make_lab(3)
    one, _ = two_on_datagrams(lab, start, "--datagram-port=4500")
    pinging = traffic.Pinging(lab.node(2), "10.1.0.1", 0.02, "edgevpn0")
    done = lab.node(3).run(["python3", "-c", GARBAGE, lab.node(1).address, "4500", str(seed), "3"], timeout=60)
    result = pinging.finish()
    assert int(done.stdout) > 5000
    late = one.ask("repl", "tun", "-c", "datagrams.engine.counters['receives_too_late']").stdout
    assert result.received >= result.sent - 1 - int(late)  # where this machine stood still for a tenth of a second
    counted = one.ask("repl", "tun", "-c", "datagrams.engine.opener.counters['datagrams_unknown']").stdout
    assert int(counted) > 4000
    assert path_of(one) == "datagram"
    assert len(one.log.read_text().splitlines()) < 12


def test_ipv6_goes_as_datagrams_too(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "fd42::1/64", "--dht=false")
    two = start(lab.node(2), token, "fd42::2/64", "--dht=false")
    traffic.first_answer(lab.node(2), "fd42::1", "edgevpn0", 20)
    wait_for(lambda: path_of(one) == path_of(two) == "datagram", 10, what="the datagram path")
    assert traffic.ping(lab.node(2), "fd42::1", 20, 0.02).received == 20
    assert traffic.iperf3(lab.node(1), lab.node(2), "fd42::1", 1) > 300


def test_keys_change_under_load_and_no_packet_is_lost(make_lab: MakeLab, start: MakeNode) -> None:
    """`scripts/measure rekey` does it a hundred times."""
    lab = make_lab(2)
    _, two = two_on_datagrams(lab, start)
    found = rekey(lab, two, 6, 500)
    print(found)
    assert found["changes"] == 6
    assert (found["packets_lost"], found["packets_twice"], found["pings_lost"]) == (0, 0, 0)
