"""Whole nodes over a path that loses: what arrives is right, and a stream runs where the bare link crawls."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler for the lab's fast relay"),
]

SERVE_TCP = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listening = socket.create_server((sys.argv[1], 7000), family=family)
print("ready", flush=True)
taken, digest = listening.accept()[0], hashlib.sha256()
while data := taken.recv(1 << 16):
    digest.update(data)
print(digest.hexdigest(), flush=True)
"""
SEND_TCP = """
import hashlib, random, socket, sys
chance, digest = random.Random(1), hashlib.sha256()
sock = socket.create_connection((sys.argv[1], 7000))
for _ in range(int(sys.argv[2])):
    data = chance.randbytes(1 << 20)
    digest.update(data)
    sock.sendall(data)
sock.shutdown(socket.SHUT_WR)
sock.recv(1)
print(digest.hexdigest())
"""
TAKE_UDP = """
import hashlib, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)
sock.bind((sys.argv[1], 7001))
sock.settimeout(4)
print("ready", flush=True)
seen, wrong, twice = set(), 0, 0
try:
    while True:
        data = sock.recv(2048)
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            wrong += 1
        number = int.from_bytes(data[32:36], "big")
        twice += number in seen
        seen.add(number)
except TimeoutError:
    print(len(seen), wrong, twice, flush=True)
"""
SEND_UDP = """
import hashlib, random, socket, sys, time
chance, count = random.Random(2), int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
for number in range(count):
    body = number.to_bytes(4, "big") + chance.randbytes(chance.randint(0, 1000))
    sock.sendto(hashlib.sha256(body).digest() + body, (sys.argv[1], 7001))
    if number % 50 == 0:
        time.sleep(0.006)
"""
ADDRESSES = {4: ("10.1.0.1", "10.1.0.1/24", "10.1.0.2/24"), 6: ("fd42::1", "fd42::1/64", "fd42::2/64")}


def two_nodes(lab: Lab, start: MakeNode, version: int, *flags: str) -> tuple[Vpn, Vpn, str]:
    token = new_token()
    target, first, second = ADDRESSES[version]
    one = start(lab.node(1), token, first, "--dht=false", "--mtu=1420", *flags)
    two = start(lab.node(2), token, second, "--dht=false", "--mtu=1420", *flags)
    traffic.first_answer(lab.node(2), target, "edgevpn0", 30)
    wait_for(lambda: [p["path"] for p in two.json("peers")] == ["datagram"], 20, what="the datagram path")
    return one, two, target


def counted(vpn: Vpn) -> dict[str, int]:
    return dict(vpn.json("peers")[0]["repair"])


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("version", [4, 6])
def test_a_hashed_transfer_arrives_as_it_was(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path, version: int, loss: float
) -> None:
    lab = make_lab(2, delay_ms=5, loss=loss, rate_mbit=200, fast=True, seed=7)
    one, two, target = two_nodes(lab, start, version)
    log = tmp_path / "server"
    lab.node(1).popen(["python3", "-c", SERVE_TCP, target], log=log)
    wait_for(lambda: log.exists() and "ready" in log.read_text(), 10)
    sent = lab.node(2).run(["python3", "-c", SEND_TCP, target, "30"], timeout=90).stdout.strip()
    assert log.read_text().split()[-1] == sent
    repaired = counted(one)
    if loss:
        assert repaired["repaired_by_parity"] + repaired["repaired_by_copy"] > 50
        assert counted(two)["parity_sent"] > 100
    code = "datagrams.engine.opener.counters['datagrams_forged'] + datagrams.engine.opener.counters['trains_refused']"
    assert one.ask("repl", "tun", "-c", code).stdout.strip() == "0"


@pytest.mark.parametrize("version", [4, 6])
def test_hashed_datagrams_arrive_as_they_were_and_once(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path, version: int
) -> None:
    count = 50_000  # of each version: a hundred thousand together
    lab = make_lab(2, delay_ms=5, loss=0.01, rate_mbit=200, fast=True, seed=8)
    one, _, target = two_nodes(lab, start, version)
    log = tmp_path / "taker"
    lab.node(1).popen(["python3", "-c", TAKE_UDP, target], log=log)
    wait_for(lambda: log.exists() and "ready" in log.read_text(), 10)
    lab.node(2).run(["python3", "-c", SEND_UDP, target, str(count)], timeout=100)
    got, wrong, twice = wait_for(lambda: log.read_text().split()[1:], 20)
    assert (int(wrong), int(twice)) == (0, 0)
    assert int(got) > 0.995 * count  # 0.99 without repair
    assert counted(one)["repaired_by_parity"] > 0


def test_a_stream_over_a_lossy_path_is_many_times_as_fast_with_repair(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2, delay_ms=10, loss=0.005, rate_mbit=100, fast=True, seed=9)
    _, _, target = two_nodes(lab, start, 4)
    raw = traffic.iperf3(lab.node(1), lab.node(2), lab.node(1).address, 4, "-C", "cubic")
    inside = traffic.iperf3(lab.node(1), lab.node(2), target, 4, "-C", "cubic")
    assert inside > 2.5 * raw


def test_repair_off_on_one_side_is_off_on_both(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    token = new_token()
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false", "--repair=off")
    two = start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
    wait_for(lambda: [p["path"] for p in two.json("peers")] == ["datagram"], 10, what="the datagram path")
    assert counted(one) == counted(two) == {}
