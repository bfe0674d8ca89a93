"""Small packets between whole nodes: joined on the way and right, before bulk, and not kept up by another peer."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from tests.netns.test_datagrams import two_on_datagrams
from tests.netns.test_node import MakeNode

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(120)

COUNT = 10_000
SEND = """
import hashlib, random, socket, sys, time
family, target, count = (socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET), sys.argv[1], int(sys.argv[2])
socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(3)]
for number, sock in enumerate(socks):
    sock.connect((target, 7000 + number))
chance = random.Random(1)
bodies = [n.to_bytes(8, "big") + chance.randbytes(76 if n // 40 % 4 else 300) for n in range(count)]
for n, body in enumerate(bodies):
    socks[n // 40 % 3].send(body + hashlib.sha256(body).digest()[:16])
    if n % 100 == 99:
        time.sleep(0.01)
time.sleep(0.5)
for sock in socks:
    sock.send(b"end")
"""
FLOOD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for _ in range(40):
        try:
            sock.sendto(bytes(1100), (sys.argv[1], 9))
        except OSError:
            pass
    time.sleep(0.01)
"""
RECEIVE = """
import hashlib, json, select, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(3)]
for number, sock in enumerate(socks):
    sock.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    sock.bind((sys.argv[1], 7000 + number))
print("ready", flush=True)
last, seen, wrong, disordered, open_ = {}, set(), 0, 0, set(socks)
while open_:
    readable = select.select(list(open_), [], [], 10)[0]
    if not readable:
        break
    for sock in readable:
        data = sock.recv(2000)
        if data == b"end":
            open_.discard(sock)
            continue
        body, digest = data[:-16], data[-16:]
        number = int.from_bytes(body[:8], "big")
        if hashlib.sha256(body).digest()[:16] != digest or number in seen:
            wrong += 1
        disordered += number < last.get(sock, -1)
        last[sock] = number
        seen.add(number)
print(json.dumps([len(seen), wrong, disordered]))
"""


def test_small_datagrams_arrive_whole_once_and_in_order(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(2)
    one, two = two_on_datagrams(lab, start)
    receiving = lab.node(1).popen(["python3", "-c", RECEIVE, "10.1.0.1"], stdout=subprocess.PIPE)
    assert receiving.stdout is not None
    with receiving.stdout as results:
        assert results.readline() == b"ready\n"
        lab.node(2).run(["python3", "-c", SEND, "10.1.0.1", str(COUNT)], timeout=60)
        seen, wrong, disordered = json.loads(results.read())
    assert (wrong, disordered) == (0, 0)
    device = json.loads(lab.node(2).run(["ip", "-j", "-s", "link", "show", "edgevpn0"]).stdout)[0]
    full = device["stats64"]["tx"]["dropped"]  # the machine was busy, and the device's queue full
    assert seen >= COUNT - full
    written = int(one.ask("repl", "tun", "-c", "pump.counters['written_packets']").stdout)
    assert written < COUNT, "nothing was joined"
    read = int(two.ask("repl", "tun", "-c", "pump.counters['read_packets']").stdout)
    assert read >= COUNT - full


def test_a_peer_that_is_stuck_delays_no_other(make_lab: MakeLab, start: MakeNode) -> None:
    """Its kernel takes nothing from the wire; a transfer and a flood of datagrams go there. The others answer."""
    lab = make_lab(3)
    one, _ = two_on_datagrams(lab, start)
    token = one._environment["EDGEVPNTOKEN"]
    start(lab.node(3), token, "10.1.0.3/24", "--dht=false")
    traffic.first_answer(lab.node(1), "10.1.0.3", "edgevpn0", 20)
    traffic.wait_for(lambda: [p["path"] for p in one.json("peers")] == ["datagram"] * 2, 10, what="datagrams to both")
    lab.node(3).popen(["iperf3", "-s", "-1", "-B", "10.1.0.3"])
    listening = ["ss", "-Hltn", "sport = :5201"]
    traffic.wait_for(lambda: "5201" in lab.node(3).run(listening).stdout, 5, what="a server")
    stream = lab.node(1).popen(["iperf3", "-c", "10.1.0.3", "-t", "30", "-P", "2", "-b", "50M"])
    flood = lab.node(1).popen(["python3", "-c", FLOOD, "10.1.0.3"])
    time.sleep(1)
    pinging = traffic.Pinging(lab.node(1), "10.1.0.2", 0.02, "edgevpn0")
    lab.node(3).run(["ip", "link", "set", "eth0", "down"])
    time.sleep(4)
    result = pinging.finish()
    assert flood.poll() is None
    assert stream.poll() is None
    for process in (flood, stream):
        lab.node(1).stop(process, grace=0.2)
    assert result.received >= result.sent - 2
    assert result.longest_gap_s < 0.5
