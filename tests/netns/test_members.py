"""Members find each other by a common neighbour; one that misbehaves is refused for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for
from tests.netns.marks import long

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]
ALONE = ("--mdns=false", "--dht=false")

pytestmark = pytest.mark.timeout(150)

# In the ledger actor of a member: what is no frame, on each of its links.
GARBAGE = """
for queue in list(links._queues.values()):
    queue.frames.append(b"\\xff"); queue.bytes += 1; queue.more.set()
"""


def connected(vpn: Vpn) -> set[str]:
    return {peer["peer_id"] for peer in vpn.json("peers")}


def around(lab: Lab, start: MakeNode, count: int) -> tuple[Vpn, list[Vpn]]:
    """One node, and others that know nobody but it."""
    token = new_token()
    middle = start(lab.node(1), token, "10.1.0.1/24", *ALONE, "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    peer_id = middle.wait_for_state("joining")["peer_id"]
    known = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{peer_id}"
    others = [start(lab.node(k), token, f"10.1.0.{k}/24", *ALONE, known) for k in range(2, count + 1)]
    return middle, others


def test_nodes_that_share_one_neighbour_connect_directly_in_seconds(make_lab: MakeLab, start: MakeNode) -> None:
    middle, others = around(make_lab(5), start, 5)
    ids = [vpn.wait_for_state("up", 20)["peer_id"] for vpn in others]
    began = time.monotonic()
    for vpn, me in zip(others, ids, strict=True):
        wait_for(lambda vpn=vpn, me=me: connected(vpn) >= set(ids) - {me}, 5, what="connections to all")
    print(f"all are connected {time.monotonic() - began:.1f} s after the last is up")
    middle.stop()
    assert traffic.ping(others[0].node, "10.1.0.5", 10, 0.1, "edgevpn0").received == 10


@long
def test_a_member_that_sends_garbage_is_refused_for_a_minute_and_the_others_do_not_notice(
    make_lab: MakeLab, start: MakeNode
) -> None:
    lab = make_lab(3)
    token = new_token()
    nodes = [start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2, 3)]
    ids = [vpn.wait_for_state("up", 20)["peer_id"] for vpn in nodes]
    for vpn in nodes:
        wait_for(lambda vpn=vpn: len(connected(vpn)) == 2, 20, what="two peers")
    bad = nodes[2]
    for _ in range(2):
        wait_for(lambda: "2" in bad.ask("repl", "ledger", "-c", "print(len(links._queues))").stdout, 10, what="links")
        bad.ask("repl", "ledger", "-c", GARBAGE)
        time.sleep(0.5)
    for vpn, other in zip(nodes[:2], ids[1::-1], strict=True):
        wait_for(lambda vpn=vpn, other=other: connected(vpn) == {other}, 15, what="the refusal")
        assert '"offence":"malformed"' in vpn.log.read_text().replace(": ", ":")
    refused = time.monotonic()
    assert traffic.ping(nodes[0].node, "10.1.0.2", 10, 0.1, "edgevpn0").received == 10
    time.sleep(20)
    assert [ids[2] in connected(vpn) for vpn in nodes[:2]] == [False, False]
    for vpn in nodes[:2]:
        wait_for(lambda vpn=vpn: ids[2] in connected(vpn), 75, 0.5, what="its return")
    print(f"back after {time.monotonic() - refused:.0f} s")
    assert time.monotonic() - refused > 50
