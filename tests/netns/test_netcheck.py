"""netcheck and doctor in namespaces: with STUN servers of the test's own, bootstrap peers and running nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import EDGEVPN, ROOT, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(150)

# A STUN server that sees clients where they are, or, as behind a NAT, at the address and port given.
STUN = """
import socket, sys
from edgevpn.errors import UntrustedDataError
from edgevpn.proto import stun
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], int(sys.argv[2])))
while True:
    data, client = sock.recvfrom(2000)
    seen = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 3 else client
    try:
        sock.sendto(stun.write_answer(stun.read_request_untrusted(data), seen), client)
    except UntrustedDataError:
        pass
"""


@pytest.fixture
def start() -> Iterator[Callable[..., Vpn]]:
    nodes: list[Vpn] = []

    def make(*args: Any, **more: Any) -> Vpn:
        nodes.append(Vpn(*args, **more))
        return nodes[-1]

    yield make
    for vpn in nodes:
        vpn.close()


def serve_stun(node: Node, port: int, *seen: str) -> str:
    node.popen([sys.executable, "-c", STUN, node.address, str(port), *seen], env=environment(PYTHONPATH=str(ROOT)))
    return f"--stun-server={node.address}:{port}"


def check(node: Node, command: str, *words: str, code: int = 0) -> dict[str, Any]:
    done = node.run([EDGEVPN, command, "--json", *words], env=environment(), check=False, timeout=30)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] == (code == 0)
    return found


def states(found: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["state"] for one in found["checks"]}


def nat(found: dict[str, Any]) -> str:
    return str(next(one["nat"] for one in found["udp"] if one["family"] == "IPv4"))


def test_how_stun_servers_see_us_decides_the_kind_of_nat(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    node, other = lab.node(1), lab.node(2)
    true = [serve_stun(other, 3478), serve_stun(other, 3479)]
    alike = [serve_stun(other, 3480, "198.51.100.1", "7"), serve_stun(other, 3481, "198.51.100.1", "7")]
    apart = [alike[0], serve_stun(other, 3482, "198.51.100.1", "8")]
    wait_for(lambda: nat(check(node, "netcheck", *apart)) == "differs", 20, what="the STUN servers")
    assert nat(check(node, "netcheck", *true)) == "none"
    assert nat(check(node, "netcheck", *alike)) == "same for all"
    assert nat(check(node, "netcheck", alike[0])) == "some NAT"
    found = check(node, "netcheck", f"--stun-server={other.address}:9")
    assert nat(found) == "blocked"
    assert states(found)["UDP IPv4"] == "warn"
    assert nat(check(node, "netcheck", "--stun-server=no.such.name.invalid:1")) == "unknown"
    assert states(check(node, "netcheck", "--stun-server="))["UDP IPv4"] == "skip"


def test_bootstrap_peers_and_running_nodes_are_told(make_lab: MakeLab, start: Callable[..., Vpn]) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    peer = one.wait_for_state("up")["peer_id"]
    two.wait_for_state("up")
    quiet = "--stun-server="
    good = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{peer}"
    bad = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/9/p2p/{peer}"
    assert states(check(lab.node(2), "netcheck", quiet, good))["bootstrap"] == "ok"
    assert states(check(lab.node(2), "netcheck", quiet, bad, code=1))["bootstrap"] == "fail"
    run_dir = f"--run-dir={two.run_dir}"
    found = wait_for(
        lambda: (
            (f := check(lab.node(2), "netcheck", quiet, run_dir))["node"]["peers"][peer]["path"] == "datagram" and f
        ),
        20,
        what="a datagram path",
    )
    assert isinstance(found, dict)
    assert states(found)["peer"] == "ok"
    assert states(found)["mDNS"] == "ok"
    with_node = check(lab.node(2), "doctor", quiet, run_dir)
    assert (states(with_node)["node"], states(with_node)["token"], states(with_node)["port"]) == ("ok", "ok", "ok")
    without = check(lab.node(2), "doctor", quiet, "--run-dir=/nonexistent/x", "--port=4001")
    assert (states(without)["node"], states(without)["port"]) == ("skip", "ok")
    taken = check(lab.node(1), "doctor", quiet, "--run-dir=/nonexistent/x", "--port=4001", code=1)
    assert states(taken)["port"] == "fail"
    assert all(one["do"] for one in taken["checks"] if one["state"] == "fail")
    plain = lab.node(2).run([EDGEVPN, "doctor", quiet, run_dir], env=environment())
    assert plain.stdout.startswith("ok    node")
