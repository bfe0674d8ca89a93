"""Whole nodes in network namespaces: what a person would see."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevpn.identity import load_or_create
from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, new_token
from scripts.labkit.traffic import wait_for
from tests.actors.abilities import CAN_TAKE_REAL_TIME

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]
NOBODY = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
ACTORS = ("sealer", "host", "discovery", "gossip", "ledger", "tun")

pytestmark = pytest.mark.timeout(180)


def alive(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


def machines(vpn: Vpn) -> set[str]:
    return set(json.loads(vpn.ask("ledger", "machines", "--json", check=False).stdout or "{}"))


def test_two_nodes_with_one_token_find_each_other_and_carry_packets(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    assert traffic.ping(lab.node(1), "10.1.0.2", 5, 0.05).received == 5
    status = two.wait_for_state("up")
    assert status["address"] == ["10.1.0.2/24"]
    assert status["peers"] == [one.json("status")["peer_id"]]
    assert all(addr.startswith("/ip") and addr.endswith(status["peer_id"]) for addr in status["listen"])
    assert set(two.json("ledger", "machines")) == {"10.1.0.1", "10.1.0.2"}
    assert one.json("ledger") == two.json("ledger")
    found = {one["name"]: one for one in two.json("actors")}
    assert set(ACTORS) <= set(found)
    for actor in ACTORS:
        assert found[actor]["state"] == "ready"
        assert found[actor]["pid"] > 0
        assert found[actor]["rss_bytes"] > 1_000_000
        assert found[actor]["restarts"] == 0
        policies = {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{found[actor]['pid']}/task")}
        first = actor == "tun" and CAN_TAKE_REAL_TIME  # packets go before all else
        assert policies == {os.SCHED_RR if first else os.SCHED_OTHER}
    [peer] = two.json("peers")
    assert (peer["member"], peer["addresses"], peer["path"]) == (True, ["10.1.0.1"], "datagram")
    pinged = two.json("ping", "10.1.0.1", "-c", "2", "-i", "0.01")
    assert pinged["answered"] == 2
    assert two.ask("repl", "ledger", "-c", "len(state.entries('machines'))").stdout == "2\n"
    failed = two.ask("repl", "ledger", "-c", "1 / 0", check=False)
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stderr


def test_packets_are_like_any_other_work_when_asked_so(make_lab: MakeLab, start: MakeNode) -> None:
    vpn = start(make_lab(1).node(1), new_token(), "10.1.0.1/24", "--dht=false", "--packet-priority=normal")
    vpn.wait_for_state("joining")
    pid = vpn.pid_of("tun")
    assert {os.sched_getscheduler(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")} == {os.SCHED_OTHER}
    assert vpn.ask("repl", "tun", "-c", "stats()['real_time']").stdout == "0\n"


def test_a_prompt_in_an_actor_awaits_and_leaves_it_as_it_was(make_lab: MakeLab, start: MakeNode) -> None:
    vpn = start(make_lab(1).node(1), new_token(), "10.1.0.1/24", "--dht=false")
    vpn.wait_for_state("joining")
    lines = "import trio\nfor n in range(2):\n    print('line', n)\n\nawait trio.sleep(0.01)\n1/0\nactor.name\n"
    done = subprocess.run(
        [EDGEVPN, "repl", f"--run-dir={vpn.run_dir}", "ledger"], input=lines, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    assert "line 0\nline 1" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert "'ledger'" in done.stdout
    secret = vpn.ask("repl", "sealer", "-c", "network").stdout
    assert "<secret>" in secret
    found = next(one for one in vpn.json("actors") if one["name"] == "ledger")
    assert (found["state"], found["restarts"]) == ("ready", 0)
    asked = vpn.ask("actors", "restart", "gossip")
    assert asked.returncode == 0
    assert next(one for one in vpn.json("actors") if one["name"] == "gossip")["restarts"] == 1


def test_a_static_peer_table_decides_who_has_an_address(make_lab: MakeLab, start: MakeNode, tmp_path: Path) -> None:
    lab = make_lab(2)
    token = new_token()
    caches = [tmp_path / str(k) for k in (1, 2)]
    peers = [load_or_create(cache).peer_id for cache in caches]

    def node(k: int, table: str) -> Vpn:
        flags = (
            "--dht=false",
            "--privkey-cache",
            f"--privkey-cache-dir={caches[k - 1]}",
            f"--static-peertable={table}",
        )
        return start(lab.node(k), token, f"10.1.0.{k}/24", *flags)

    node(1, f"10.1.0.2:{peers[1]}")
    two = node(2, f"10.1.0.1:{peers[0]}")
    traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 20)
    assert two.json("status")["peer_id"] == peers[1]
    two.stop()
    again = node(2, f"10.1.0.1:{NOBODY}")  # not the peer that has the address by the ledger
    wait_for(lambda: machines(again) == {"10.1.0.1", "10.1.0.2"}, 20, what="both machines in the ledger")
    assert traffic.ping(lab.node(1), "10.1.0.2", 5, 0.1).received == 0


def test_ipv6_inside_goes_as_ipv4_does(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    for k in (1, 2):
        start(lab.node(k), token, f"10.1.0.{k}/24,fd42::{k}/64", "--dht=false")
    traffic.first_answer(lab.node(2), "fd42::1", "edgevpn0", 20)
    assert traffic.ping(lab.node(1), "10.1.0.2", 3, 0.05).received == 3


def test_a_stopped_actor_is_noticed_and_replaced(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    pids = {actor: two.pid_of(actor) for actor in ACTORS}
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not alive(list(pids.values())), 5, interval=0.02, what="the end of all stopped actors")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 10)
    found = wait_for(
        lambda: (f := [a for a in two.json("actors") if a["name"] in ACTORS]) and all(a["pid"] for a in f) and f,
        10,
        what="all actors again",
    )
    assert {(one["restarts"], one["last_exit"]) for one in found} == {(1, "it does not answer")}


def test_a_bulk_transfer_arrives_whole(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    for k in (1, 2):
        start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    serve = (
        "import socket,hashlib;s=socket.create_server(('10.1.0.1',7000));c,_=s.accept();h=hashlib.sha256();n=0\n"
        "while d:=c.recv(1<<20): h.update(d);n+=len(d)\n"
        "c.sendall(f'{n} {h.hexdigest()}'.encode())"
    )
    server = lab.node(1).popen(["python3", "-c", serve])
    send = (
        "import socket,hashlib,random,time\n"
        "for _ in range(100):\n"
        "  try: s=socket.create_connection(('10.1.0.1',7000)); break\n"
        "  except OSError: time.sleep(.05)\n"
        "d=random.Random(5).randbytes(30_000_000); s.sendall(d); s.shutdown(1)\n"
        "print(s.recv(200).decode() == f'{len(d)} {hashlib.sha256(d).hexdigest()}')"
    )
    assert lab.node(2).run(["python3", "-c", send], timeout=60).stdout.strip() == "True"
    server.wait(5)


def test_every_actor_may_be_killed_and_the_node_goes_on(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    for actor in ACTORS:
        pid = two.pid_of(actor)
        pinging = traffic.Pinging(lab.node(2), "10.1.0.1", 0.05, "edgevpn0")
        os.kill(pid, signal.SIGKILL)

        def back(actor: str = actor, pid: int = pid) -> bool:
            now = next(one for one in two.json("actors") if one["name"] == actor)
            return now["state"] == "ready" and now["pid"] not in (0, pid) and now["restarts"] == 1

        traffic.wait_for(back, 5, what=f"a new {actor}")
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 3)
        result = pinging.finish()
        assert result.longest_gap_s < 3, actor
    assert machines(two) == {"10.1.0.1", "10.1.0.2"}
    assert two.json("status")["state"] == "up"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_node_leaves_nothing_behind(make_lab: MakeLab, start: MakeNode, number: int) -> None:
    lab = make_lab(1)
    vpn = start(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false")
    vpn.wait_for_state("joining")
    pids = [one["pid"] for one in vpn.json("actors")]
    assert vpn.stop(number, timeout=3) == 0
    assert not vpn.run_dir.exists()
    assert lab.node(1).run(["ip", "link", "show", "edgevpn0"], check=False).returncode != 0
    assert "10.1.0." not in lab.node(1).run(["ip", "route"]).stdout
    assert not alive(pids)


def test_a_killed_node_leaves_no_process_and_the_next_start_works(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(1)
    vpn = start(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false")
    vpn.wait_for_state("joining")
    pids = [one["pid"] for one in vpn.json("actors")]
    vpn.process.kill()
    vpn.process.wait(5)

    def gone() -> bool:
        return not alive(pids)

    traffic.wait_for(gone, 2, what="the end of all its processes")
    again = start(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false", directory=vpn.home)
    again.wait_for_state("joining")


def test_another_token_is_another_network(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    one = start(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false", "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    status = one.wait_for_state("joining")
    bootstrap = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{status['peer_id']}"
    two = start(lab.node(2), new_token(), "10.1.0.2/24", bootstrap)
    two.wait_for_state("joining")
    traffic.wait_for(lambda: two.json("peers"), 10, what="a connection between the two")  # of libp2p, by hand
    traffic.ping(lab.node(2), "10.1.0.1", 10, 0.2, "edgevpn0")
    for vpn, own in ((one, "10.1.0.1"), (two, "10.1.0.2")):
        assert vpn.json("status")["peers"] == []
        assert vpn.json("status")["state"] == "joining"
        assert machines(vpn) == {own}
        assert [peer["member"] for peer in vpn.json("peers")] == [False]


def test_two_nodes_that_share_only_a_bootstrap_peer_connect_directly(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(3)
    token = new_token()
    middle = start(
        lab.node(1),
        token,
        None,
        "--mdns=false",
        "--listen-maddrs=/ip4/0.0.0.0/tcp/4001",
        "--dht=true",
        f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4009/p2p/{NOBODY}",
    )
    peer_id = middle.wait_for_state("joining")["peer_id"]
    flags = ("--mdns=false", f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{peer_id}")
    two = start(lab.node(2), token, "10.1.0.2/24", *flags)
    two.wait_for_state("up")
    three = start(lab.node(3), token, "10.1.0.3/24", *flags)
    traffic.first_answer(lab.node(3), "10.1.0.2", "edgevpn0", 15)
    direct = next(peer for peer in three.json("peers") if peer["peer_id"] == two.json("status")["peer_id"])
    own = (lab.node(2).address, lab.node(2).address6)
    assert any(address in remote for address in own for remote in direct["remote"])


def test_five_nodes_in_any_order_agree(make_lab: MakeLab, start: MakeNode) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    order = list(range(1, 6))
    random.Random(seed).shuffle(order)
    lab = make_lab(5)
    token = new_token()
    nodes = {k: start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in order}
    everyone = {f"10.1.0.{k}" for k in nodes}
    for vpn in nodes.values():
        traffic.wait_for(lambda vpn=vpn: machines(vpn) == everyone, 20, what="a ledger of five")

    def equal() -> bool:
        ledgers = [vpn.json("ledger") for vpn in nodes.values()]
        return all(ledger == ledgers[0] for ledger in ledgers)

    traffic.wait_for(equal, 10, what="equal ledgers")
    for k in nodes:
        for other in nodes:
            if k != other:
                traffic.first_answer(lab.node(k), f"10.1.0.{other}", "edgevpn0", 5)


def test_a_source_address_that_is_not_the_peers_is_dropped(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    lab.node(2).run(["ip", "addr", "add", "10.1.0.66/32", "dev", "edgevpn0"])
    forged = lab.node(2).run(["ping", "-c", "3", "-i", "0.05", "-W", "0.5", "-I", "10.1.0.66", "10.1.0.1"], check=False)
    assert "0 received" in forged.stdout
    assert int(one.ask("repl", "tun", "-c", "pump.counters['refused_source']").stdout) == 3
