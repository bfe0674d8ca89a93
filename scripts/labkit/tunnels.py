"""What tunnels and files cost: throughput of one TCP stream, a thousand tunnels at once, a file of 1 GB, also broken
off five times, and how long a killed tunnels actor is away."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.labkit.namespaces import Lab, LabError, Node
from scripts.labkit.nodes import EDGEVPN, ROOT, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

ENDPOINTS = [sys.executable, str(ROOT / "scripts" / "labkit" / "endpoints.py")]
TUNNELS = 1000
FILE_SIZE = 1_000_000_000
BREAKS = 5
ECHO, IPERF = 7001, 5201
Say = Callable[[str], None]


def _summary(values: Sequence[float], digits: int) -> dict[str, Any]:
    return {
        "n": len(values),
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }


def measure_tunnels(tries: int, say: Say) -> dict[str, Any]:
    """Two nodes, a service through a tunnel."""
    with Lab(2) as lab:
        token = new_token()
        here, there = lab.node(1), lab.node(2)
        here.popen([*ENDPOINTS, "echo", "127.0.0.1", str(ECHO)])
        here.popen(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(IPERF)])
        offers = (f"--service=echo=127.0.0.1:{ECHO}", f"--service=perf=127.0.0.1:{IPERF}")
        one = Vpn(here, token, "10.1.0.1/24", "--dht=false", *offers)
        wants = ("--connect=echo=127.0.0.1:6001", "--connect=perf=127.0.0.1:6201")
        two = Vpn(there, token, "10.1.0.2/24", "--dht=false", *wants)
        try:
            for vpn in (one, two):
                vpn.wait_for_state("up")
            time.sleep(2)
            found: dict[str, Any] = {}
            for name, flags in (("to_service_mbit", []), ("from_service_mbit", ["-R"])):
                speeds = [_iperf3(there, flags) for _ in range(min(tries, 3))]
                say(f"{name}: " + ", ".join(f"{speed:.0f}" for speed in speeds))
                found[name] = _summary(speeds, 1)
            found["at_once"] = _thousand(there, (one, two), say)
            found["killed_s"] = _summary([_kill(there, two, say) for _ in range(5)], 3)
        finally:
            for vpn in (one, two):
                vpn.close()
    return found


def _iperf3(client: Node, flags: Sequence[str]) -> float:
    words = ["iperf3", "-J", "-c", "127.0.0.1", "-p", "6201", "-t", "4", *flags]
    ended: dict[str, Any] = json.loads(client.run(words, timeout=30).stdout)["end"]
    return float(ended["sum_received"]["bits_per_second"]) / 1e6


def _thousand(client: Node, nodes: Sequence[Vpn], say: Say) -> dict[str, Any]:
    before = [_memory(vpn) for vpn in nodes]
    words = [*ENDPOINTS, "many", "127.0.0.1", "6001", str(TUNNELS)]
    with client.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdin is None:
            raise LabError("no pipes to the client")
        opened = json.loads(process.stdout.readline() or "{}")
        each = [round((_memory(vpn) - size) / TUNNELS) for vpn, size in zip(nodes, before, strict=True)]
        used = json.loads(process.communicate(b"\n", timeout=90)[0] or "{}")
    say(f"{TUNNELS} at once: {opened}, used again: {used}; bytes a tunnel: {each}")
    return {"opened": opened, "used_again": used, "bytes_a_tunnel": each}


def _memory(vpn: Vpn) -> int:
    """PSS of the two processes that tunnels go through."""
    return sum(int(row["pss_bytes"]) for row in vpn.json("actors") if row["name"] in ("host", "tunnels"))


def _kill(client: Node, vpn: Vpn, say: Say) -> float:
    """kill -9 of the tunnels actor: seconds until its listener has served a connection again."""
    time.sleep(1.5)
    pid = vpn.pid_of("tunnels")
    code = (
        "import os,signal,socket,time,sys\n"
        "os.kill(int(sys.argv[1]), signal.SIGKILL); began = time.monotonic()\n"
        "s = socket.create_connection(('127.0.0.1', 6001), 20); s.sendall(b'x'); assert s.recv(1) == b'x'\n"
        "print(time.monotonic() - began)"
    )
    took = float(client.run([sys.executable, "-c", code, str(pid)]).stdout)
    say(f"tunnels actor killed: served again after {took:.3f} s")
    return took


def measure_files(tries: int, say: Say) -> dict[str, Any]:
    """A file of 1 GB from one node to another: whole, and broken off."""
    home = Path(tempfile.mkdtemp(prefix="evf-"))
    try:
        digest = _make_file(home / "file")
        broken = _transfer(home, digest, BREAKS, say)
        plain = [_transfer(home, digest, 0, say) for _ in range(min(tries, 3))]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"mbit": _summary([one["mbit"] for one in plain], 1), "broken_off": broken}


def _make_file(path: Path) -> str:
    chance, digest = random.Random(1), hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(FILE_SIZE // 1_000_000):
            data = chance.randbytes(1_000_000)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _transfer(home: Path, digest: str, breaks: int, say: Say) -> dict[str, Any]:
    target = home / "in"
    target.mkdir()
    env = environment(EDGEVPNTOKEN=new_token())
    with Lab(2) as lab:
        words = [EDGEVPN, "file-send", f"--run-dir={home}/s", "--dht=false", "--once", "it", str(home / "file")]
        lab.node(1).popen(words, env=env)
        words = [EDGEVPN, "file-receive", f"--run-dir={home}/r", "--dht=false", "--json", "it", str(target / "out")]
        with lab.node(2).popen(words, env=env, stdout=subprocess.PIPE) as receiver:
            for number in range(1, breaks + 1):
                wait_for(lambda n=number: _parts(target) > n * FILE_SIZE / (breaks + 1), 60, 0.005, "its progress")  # type: ignore[misc]
                _kill_host(lab.node(2), home / "r")
            output, _ = receiver.communicate(timeout=120)
        if receiver.returncode:
            raise LabError(f"file-receive ended with {receiver.returncode}")
    found = json.loads(output)
    right = hashlib.sha256((target / "out").read_bytes()).hexdigest() == digest
    shutil.rmtree(target)
    mbit = found["transferred"] * 8 / 1e6 / found["transfer_seconds"]
    say(f"file: {mbit:.0f} Mbit/s, {found['seconds']} s in all, {found['breaks']} breaks, right: {right}")
    return {"mbit": round(mbit, 1), "seconds": found["seconds"], "breaks": found["breaks"], "sha256_right": right}


def _parts(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob(".*.edgevpn-part"))


def _kill_host(node: Node, run_dir: Path) -> None:
    """The connection breaks."""
    found = json.loads(node.run([EDGEVPN, "actors", f"--run-dir={run_dir}", "--json"], env=environment()).stdout)
    os.kill(next(int(row["pid"]) for row in found if row["name"] == "host"), signal.SIGKILL)
