"""Measuring the DNS server of a node in a lab: queries at a fixed rate, and kills of its actor.

The client (this module run as a program in the node's namespace) sends on a schedule, whether or not answers come, and
counts each answer's time from the moment its query was due: a server that falls behind can't hide it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import ROOT, Vpn, environment, new_token

RATE = 1000  # queries a second
SECONDS = 10
GRACE = 1.0  # for the last answers
SERVER = "127.0.0.1"
# What the machine itself adds: the same client against a loop that does nothing.
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
while True:
    data, client = sock.recvfrom(4096)
    sock.sendto(data[:2] + b"\\x81\\x80\\0\\1\\0\\1" + data[8:], client)
"""


def load(name: str, rdtype: str, rate: float, seconds: float) -> dict[str, Any]:
    """Ask for one name; times in milliseconds."""
    import dns.message

    wire = dns.message.make_query(name, rdtype, use_edns=0).to_wire()
    total = int(rate * seconds)
    due: dict[int, float] = {}
    times: list[float] = []
    wrong = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect((SERVER, 53))
        sock.setblocking(False)
        began = time.perf_counter()
        sent = 0
        while sent < total or (due and time.perf_counter() < began + seconds + GRACE):
            now = time.perf_counter()
            while sent < total and began + sent / rate <= now:
                number = sent & 0xFFFF
                due[number] = began + sent / rate
                sock.send(number.to_bytes(2, "big") + wire[2:])
                sent += 1
            pause = began + sent / rate - time.perf_counter() if sent < total else 0.01
            if not select.select([sock], [], [], max(0.0, pause))[0]:
                continue
            while True:
                try:
                    reply = sock.recv(4096)
                except BlockingIOError:
                    break
                at = due.pop(int.from_bytes(reply[:2], "big"), None)
                if at is not None:
                    times.append((time.perf_counter() - at) * 1000)
                wrong += reply[3] & 15 != 0 or reply[7] == 0
    times.sort()
    return {
        "sent": total,
        "answered": len(times),
        "wrong": wrong,
        "p50_ms": round(times[len(times) // 2], 3) if times else None,
        "p99_ms": round(times[int(len(times) * 0.99)], 3) if times else None,
        "max_ms": round(times[-1], 3) if times else None,
    }


def measure_dns(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A known name under 1,000 queries a second, and how long nobody answers when the dns actor is killed."""
    runs: list[dict[str, Any]] = []
    kills: list[float] = []
    with Lab(1) as lab:
        vpn = Vpn(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false", "--dns=127.0.0.1:53")
        vpn.wait_for_state("joining")
        name = f"{hosts(vpn)[0]}.edgevpn.internal"
        for number in range(1, max(1, tries // 4) + 1):
            runs.append(ask(lab.node(1), name, "A", RATE, SECONDS))
            say(f"dns {number}: {runs[-1]}")
        os.setpriority(os.PRIO_PROCESS, vpn.pid_of("dns"), -20)
        favoured = ask(lab.node(1), name, "A", RATE, SECONDS, first=["nice", "-n", "-20"])
        say(f"dns, server and client before all other programs: {favoured}")
        for _ in range(3):
            asking = lab.node(1).popen(command(name, "A", 100, 3), stdout=-1, env=client_environment())
            time.sleep(1)
            os.kill(vpn.pid_of("dns"), signal.SIGKILL)
            output, _ = asking.communicate(timeout=20)
            lab.node(1).processes.remove(asking)
            found = json.loads(output)
            kills.append(found["max_ms"])
            say(f"dns killed: {found}")
        vpn.close()
        lab.node(1).popen([sys.executable, "-c", ECHO])
        time.sleep(1)
        echo = ask(lab.node(1), name, "A", RATE, SECONDS)
        say(f"a program that only echoes: {echo}")
    return {"rate": RATE, "runs": runs, "favoured": favoured, "echo": echo, "longest_wait_when_killed_ms": kills}


def hosts(vpn: Vpn) -> list[str]:
    """The machines' names that the node serves, without the domain."""
    found = traffic.wait_for(lambda: vpn.json("dns-list")["machines"], 10, what="names")
    return sorted(found, key=len) if isinstance(found, dict) else []


def ask(node: Node, name: str, rdtype: str, rate: float, seconds: float, first: Sequence[str] = ()) -> dict[str, Any]:
    """`load`, from the node's namespace; `first`: words before its command."""
    done = node.run([*first, *command(name, rdtype, rate, seconds)], timeout=seconds + 20, env=client_environment())
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command(name: str, rdtype: str, rate: float, seconds: float) -> list[str]:
    return [sys.executable, "-m", "scripts.labkit.dns_load", name, rdtype, str(rate), str(seconds)]


def client_environment() -> dict[str, str]:
    return environment(PYTHONPATH=str(ROOT))


if __name__ == "__main__":
    print(json.dumps(load(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
