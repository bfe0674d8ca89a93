"""Names and the HTTP API between Go nodes and ours: each shows the other's machines and names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from scripts.labkit.namespaces import Node
from scripts.labkit.nodes import environment
from scripts.labkit.traffic import wait_for
from tests.interop.table import Table

MakeTable = Callable[..., Table]

pytestmark = pytest.mark.timeout(95)

ASK = """
import json, sys
import dns.message, dns.query, dns.rcode
server, name, rdtype = sys.argv[1:]
reply = dns.query.udp(dns.message.make_query(name, rdtype), server, timeout=6)
print(json.dumps([dns.rcode.to_text(reply.rcode()), [item.to_text() for rrset in reply.answer for item in rrset]]))
"""


def ask(node: Node, server: str, name: str, rdtype: str = "A") -> list[Any]:
    """[the rcode, the records]; [] while nobody answers."""
    done = node.run([sys.executable, "-c", ASK, server, name, rdtype], env=environment(), check=False)
    return list(json.loads(done.stdout)) if done.stdout else []


def test_our_dns_and_api_know_go_machines_and_names_and_gos_know_ours(make_table: MakeTable) -> None:
    table = make_table(2)
    go = table.go(1, "--dht=false", "--dns=127.0.0.1:53", hostname="gopher")
    ours = table.ours(
        2,
        "--dht=false",
        "--dns=127.0.0.1:53",
        "--api",
        "--api-auth=off",
        "--api-listen=127.0.0.1:8080",
        hostname="python",
    )

    def api(path: str) -> Any:
        done = ours.node.run(["curl", "-s", "-m", "3", f"http://127.0.0.1:8080/api/{path}"], check=False)
        return json.loads(done.stdout or "null")

    table.wait_until_one(20)
    name = "gopher.edgevpn.internal"
    wait_for(lambda: ask(ours.node, "127.0.0.1", name) == ["NOERROR", ["10.1.0.1"]], 10, what="Go's name")
    assert ask(ours.node, "127.0.0.1", "1.0.1.10.in-addr.arpa", "PTR") == ["NOERROR", [f"{name}."]]
    listed = ours.json("dns-list")["machines"]
    assert (listed["gopher"], listed["python"]) == (["10.1.0.1"], ["10.1.0.2"])
    row = next(row for row in api("machines") if row["Address"] == "10.1.0.1")
    assert (row["PeerID"], row["Hostname"], row["Connected"]) == (go.peer_id, "gopher", True)
    assert {row["ID"] for row in api("nodes")} == {go.peer_id, ours.json("status")["peer_id"]}
    theirs = next(row for row in go.get("machines") if row["Address"] == "10.1.0.2")
    assert (theirs["PeerID"], theirs["Hostname"]) == (ours.json("status")["peer_id"], "python")

    # A name that one announces is answered by the other.
    go.send("POST", "dns", json.dumps({"Regex": r"wiki\.go\.", "Records": {"A": "10.1.0.1"}}))
    ours.ask("dns-add", r"wiki\.ours\.", "A", "10.1.0.2")
    for asked, answer in (("wiki.go", "10.1.0.1"), ("wiki.ours", "10.1.0.2")):
        for node in (go.node, ours.node):
            wait_for(
                lambda node=node, asked=asked, answer=answer: ask(node, "127.0.0.1", asked) == ["NOERROR", [answer]],  # type: ignore[misc]
                15,
                what=f"an answer for {asked}",
            )
    assert {row["Regex"]: row["Records"] for row in api("dns")} == {
        row["Regex"]: row["Records"] for row in go.get("dns")
    }
