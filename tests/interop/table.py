"""A network of Go nodes and ours in a lab: started in any order, and compared."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.go_nodes import GoVpn
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for

AnyNode = GoVpn | Vpn
HEARTBEATS = "healthcheck"


class Table:
    """Node k of the lab has 10.1.0.k; mDNS finds the others unless flags say otherwise."""

    def __init__(self, lab: Lab, token: str = "") -> None:
        self.lab = lab
        self.token = token or new_token()
        self.nodes: list[AnyNode] = []

    def go(self, k: int, *flags: str, **more: Any) -> GoVpn:
        node = GoVpn(self.lab.node(k), self.token, f"10.1.0.{k}/24", *(flags or ("--dht=false",)), **more)
        self.nodes.append(node)
        return node

    def ours(self, k: int, *flags: str, **more: Any) -> Vpn:
        node = Vpn(self.lab.node(k), self.token, f"10.1.0.{k}/24", *(flags or ("--dht=false",)), **more)
        self.nodes.append(node)
        return node

    def wait_until_one(self, timeout: float = 20) -> float:
        """Until each has an answer from each, and all have one ledger; seconds that took. Raises LabError."""
        began = time.monotonic()
        every_pair_pings(self.nodes, timeout)
        pinged = time.monotonic() - began
        wait_for(lambda: same_ledger(self.nodes), timeout - pinged, 0.1, "one ledger")
        took = time.monotonic() - began
        print(f"all pairs ping after {pinged:.1f} s, one ledger after {took:.1f} s")
        return took


def address(node: AnyNode) -> str:
    return "10.1.0." + node.node.address.rpartition(".")[2]


def ledger(node: AnyNode) -> dict[str, dict[str, Any]]:
    """The values by bucket and key, as a user gets them; {} while the node does not answer."""
    if isinstance(node, GoVpn):
        return node.ledger()
    done = node.ask("ledger", "--json", check=False)
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {bucket: {key: row["value"] for key, row in rows.items()} for bucket, rows in found.items() if rows}


def same_ledger(nodes: list[AnyNode], *, without: tuple[str, ...] = ()) -> bool:
    """Whether all have the same values, and among them a machine and a heartbeat of every node."""
    found = [{b: rows for b, rows in ledger(node).items() if b not in without} for node in nodes]
    machines, beats = found[0].get("machines", {}), found[0].get(HEARTBEATS, {})
    whole = set(machines) >= set(map(address, nodes)) and len(beats) >= len(nodes)
    return whole and all(one == found[0] for one in found)


def every_pair_pings(nodes: list[AnyNode], timeout: float) -> None:
    """Until each pair, both ways, had an answer. Raises LabError."""
    deadline = time.monotonic() + timeout
    missing = list(itertools.permutations(nodes, 2))
    while missing:
        asked = [
            (one, other, one.node.popen(["ping", "-n", "-c1", "-W1", address(other)], stdout=subprocess.DEVNULL))
            for one, other in missing
        ]
        missing = []
        for one, other, process in asked:
            if process.wait(5):
                missing.append((one, other))
            one.node.processes.remove(process)
        if missing and time.monotonic() > deadline:
            names = ", ".join(f"{address(one)} to {address(other)}" for one, other in missing)
            raise LabError(f"no ping within {timeout:g} s: {names}")
        if missing:
            time.sleep(0.1)


def exchange(one: AnyNode, other: AnyNode, count: int = 20) -> None:
    """Pings both ways, small and as large as the interface takes; not one is lost."""
    for here, there in ((one, other), (other, one)):
        found = traffic.ping(here.node, address(there), count, 0.05)
        print(f"{address(here)} to {address(there)}: {found.received}/{found.sent}, median {found.median_ms:.2f} ms")
        assert found.received == found.sent == count
        assert "0% packet loss" in here.node.run(["ping", "-c5", "-i0.1", "-s1172", "-Mdo", address(there)]).stdout
