"""Names, as a machine's resolver asks for them: whole nodes in namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import dns_load
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]
HOST = os.uname().nodename.partition(".")[0].lower()
OTHERS = ("sealer", "host", "discovery", "gossip", "ledger", "tun")

# The client: a program in the node's namespace that asks as dig does.
ASK = """
import json, sys
import dns.message, dns.query, dns.rcode
server, name, rdtype, how = sys.argv[1:]
query = dns.message.make_query(name, rdtype, use_edns=0)
reply = {"udp": dns.query.udp, "tcp": dns.query.tcp}[how](query, server, timeout=6)
records = [item.to_text() for rrset in reply.answer for item in rrset]
print(json.dumps([dns.rcode.to_text(reply.rcode()), records]))
"""

pytestmark = pytest.mark.timeout(180)


def ask(node: Node, server: str, name: str, rdtype: str = "A", how: str = "udp") -> tuple[str, list[str]]:
    done = node.run([sys.executable, "-c", ASK, server, name, rdtype, how], env=environment())
    rcode, records = json.loads(done.stdout)
    return rcode, records


def test_machines_and_patterns_are_served_on_all_nodes_by_udp_and_tcp(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24,fd42::1/64", "--dht=false", "--dns=10.1.0.1:53")
    two = start(lab.node(2), token, "10.1.0.2/24,fd42::2/64", "--dht=false", "--dns=:53", "--dns-domain=my.lan")
    one.wait_for_state("up")
    two.wait_for_state("up")
    peer = one.json("status")["peer_id"]
    for node, server, domain in ((lab.node(1), "10.1.0.1", "edgevpn.internal"), (lab.node(2), "127.0.0.1", "my.lan")):
        wait_for(lambda n=node, s=server: ask(n, s, "2.0.1.10.in-addr.arpa", "PTR")[1], 10, what="both machines")
        for how in ("udp", "tcp"):
            assert ask(node, server, f"{HOST}.{domain}", "A", how) == ("NOERROR", ["10.1.0.1"])
            assert ask(node, server, f"{HOST}-{peer[-6:].lower()}.{domain}", "AAAA", how) == ("NOERROR", ["fd42::1"])
        assert ask(node, server, "1.0.1.10.in-addr.arpa", "PTR") == ("NOERROR", [f"{HOST}.{domain}."])
        assert ask(node, server, f"nobody.{domain}") == ("NXDOMAIN", [])
        assert ask(node, server, "9.0.1.10.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
    # Through the VPN, to the other node's server.
    assert ask(lab.node(1), "10.1.0.2", f"{HOST}.my.lan") == ("NOERROR", ["10.1.0.1"])

    # The ledger's entry has the Go program's form, and both nodes answer from it.
    added = one.json("dns-add", "foo.vec.", "TXT", "hello")
    assert added == {"pattern": "foo.vec.", "records": {"TXT": "hello"}}
    one.ask("dns-add", "foo.vec.", "A", "10.1.0.1")
    one.ask("dns-add", "--name", "wiki.lan", "CNAME", f"{HOST}.edgevpn.internal")
    assert one.json("ledger", "dns")["foo.vec."]["value"] == {"1": "10.1.0.1", "16": "hello"}
    wait_for(
        lambda: ask(lab.node(2), "127.0.0.1", "foo.vec")[1] == ["10.1.0.1"], 10, what="the pattern on the other node"
    )
    assert ask(lab.node(2), "127.0.0.1", "foo.vec", "TXT") == ("NOERROR", ['"hello"'])
    assert ask(lab.node(1), "10.1.0.1", "wiki.lan") == ("NOERROR", [f"{HOST}.edgevpn.internal.", "10.1.0.1"])
    refused = two.ask("dns-add", "foo.vec.", "A", "6.6.6.6", check=False)
    assert refused.returncode == 1
    assert "not ours to write" in refused.stderr
    for wrong in (("(", "A", "1.2.3.4"), ("x", "A", "nonsense"), ("x", "NOSUCH", "y"), (r"\\pL", "A", "1.2.3.4")):
        assert two.ask("dns-add", *wrong, check=False).returncode == 2, wrong
    listed = one.json("dns-list")
    assert listed["machines"][HOST] == ["10.1.0.1", "fd42::1"]
    assert [entry["pattern"] for entry in listed["patterns"]] == [r"^wiki\.lan\.$", "foo.vec."]
    one.ask("dns-remove", "foo.vec.", "TXT")
    one.ask("dns-remove", "--name", "wiki.lan")
    wait_for(lambda: ask(lab.node(2), "127.0.0.1", "foo.vec", "TXT")[1] == [], 10, what="the record's end")
    assert ask(lab.node(1), "10.1.0.1", "foo.vec") == ("NOERROR", ["10.1.0.1"])
    assert one.ask("dns-remove", "no.such", check=False).returncode == 2


def test_the_dns_actor_killed_is_back_in_a_second_and_no_query_is_lost(make_lab: MakeLab, start: MakeNode) -> None:
    vpn = start(make_lab(1).node(1), new_token(), "10.1.0.1/24", "--dht=false", "--dns=127.0.0.1:53")
    vpn.wait_for_state("joining")
    dns_load.hosts(vpn)
    before = {actor: vpn.pid_of(actor) for actor in OTHERS}
    for number in range(1, 4):
        victim = vpn.pid_of("dns")
        asking = vpn.node.popen(
            dns_load.command(f"{HOST}.edgevpn.internal", "A", 50, 3),
            stdout=subprocess.PIPE,
            env=dns_load.client_environment(),
        )
        time.sleep(1)
        os.kill(victim, signal.SIGKILL)
        output, _ = asking.communicate(timeout=20)
        vpn.node.processes.remove(asking)
        found = json.loads(output)
        print(found)
        assert (found["answered"], found["wrong"]) == (found["sent"], 0)
        assert found["max_ms"] < 1000
        assert ask(vpn.node, "127.0.0.1", f"{HOST}.edgevpn.internal", "A", "tcp") == ("NOERROR", ["10.1.0.1"])
        [dns] = [one for one in vpn.json("actors") if one["name"] == "dns"]
        assert (dns["state"], dns["restarts"]) == ("ready", number)
    assert {actor: vpn.pid_of(actor) for actor in OTHERS} == before


def test_edgevpn_dns_is_a_node_without_an_interface_that_serves_names(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    lab = make_lab(2)
    token = new_token()
    start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    run_dir = tmp_path / "r"
    log = tmp_path / "log"
    words = [EDGEVPN, "dns", f"--run-dir={run_dir}", "--dht=false", "--listen=127.0.0.1:53", "--dns-forwarder=false"]
    process = lab.node(2).popen(words, log=log, env=environment(EDGEVPNTOKEN=token))

    def known() -> bool:
        try:
            return ask(lab.node(2), "127.0.0.1", f"{HOST}.edgevpn.internal")[1] == ["10.1.0.1"]
        except Exception:  # noqa: BLE001 - nothing listens yet
            return False

    try:
        wait_for(known, 20, what="the machine's name")
        assert ask(lab.node(2), "127.0.0.1", "9.0.1.10.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
        assert ask(lab.node(2), "127.0.0.1", "www.example") == ("REFUSED", [])
    finally:
        print(log.read_text())
        assert lab.node(2).stop(process) == 0


def test_a_port_that_is_taken_ends_the_start_with_one_line(make_lab: MakeLab, tmp_path: Path) -> None:
    node = make_lab(1).node(1)
    node.popen([sys.executable, "-c", dns_load.ECHO])
    words = [EDGEVPN, "dns", f"--run-dir={tmp_path / 'r'}", "--dht=false", "--listen=127.0.0.1"]

    def refused() -> bool:
        done = node.run(words, env=environment(EDGEVPNTOKEN=new_token()), check=False)
        return done.returncode == 4 and "can't serve DNS at 127.0.0.1" in done.stderr and done.stderr.count("\n") == 1

    wait_for(refused, 10, what="the refusal")


def test_the_machine_asks_us_while_we_run_and_as_before_after_a_kill(make_lab: MakeLab, tmp_path: Path) -> None:
    """In a mount namespace with an /etc of its own."""
    node = make_lab(1).node(1)
    before = "nameserver 192.0.2.1\noptions timeout:1\n"
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_text(before)
    for name in ("passwd", "group", "nsswitch.conf", "hostname"):
        if Path("/etc", name).exists():
            (etc / name).write_bytes(Path("/etc", name).read_bytes())
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    env = environment(EDGEVPNTOKEN=new_token())
    inside = ["unshare", "-m", "sh", "-c", f'mount --bind {etc} /etc && exec "$@"', "sh"]
    words = [EDGEVPN, f"--run-dir={tmp_path / 'r'}", "--address=10.1.0.1/24", "--dht=false", "--dns=127.0.0.1:53"]

    def resolved() -> str:
        done = node.run([*inside, "getent", "ahostsv4", f"{HOST}.edgevpn.internal"], check=False)
        return done.stdout.partition(" ")[0]

    process = node.popen([*inside, *words, "--dns-system=resolv.conf"], log=tmp_path / "log", env=env)
    wait_for(lambda: resolved() == "10.1.0.1", 20, what="the name by the system's resolver")
    assert "nameserver 127.0.0.1\nnameserver 192.0.2.1\n" in (etc / "resolv.conf").read_text()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert "127.0.0.1" in (etc / "resolv.conf").read_text()
    again = node.popen([*inside, *words], log=tmp_path / "log", env=env)
    wait_for(lambda: (etc / "resolv.conf").read_text() == before, 20, what="the file as it was")
    assert ask(node, "127.0.0.1", f"{HOST}.edgevpn.internal") == ("NOERROR", ["10.1.0.1"])
    assert node.stop(again) == 0
    third = node.popen([*inside, *words, "--dns-system=auto"], log=tmp_path / "log", env=env)
    wait_for(lambda: resolved() == "10.1.0.1", 20, what="the name by the system's resolver")
    assert node.stop(third) == 0
    assert (etc / "resolv.conf").read_text() == before
    assert sorted(one.name for one in etc.glob("resolv*")) == ["resolv.conf"]
