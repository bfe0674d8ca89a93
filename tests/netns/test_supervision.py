"""Actors that die too often: what goes on without them, and how they come back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, new_token

MakeLab = Callable[..., Lab]

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def pair(make_lab: MakeLab) -> Iterator[tuple[Vpn, Vpn]]:
    """Two nodes between which packets go."""
    lab, token = make_lab(2), new_token()
    nodes = [Vpn(lab.node(n), token, f"10.1.0.{n}/24", "--dht=false") for n in (1, 2)]
    try:
        traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 20)
        traffic.wait_for(
            lambda: any(row["path"] == "datagram" for row in nodes[0].json("peers")), 10, what="a datagram path"
        )
        yield nodes[0], nodes[1]
    finally:
        for vpn in nodes:
            vpn.close()


def states(vpn: Vpn) -> dict[str, str]:
    return {row["name"]: row["state"] for row in vpn.json("actors")}


def wear_out(vpn: Vpn, actor: str) -> None:
    """Kill each new process of an actor as soon as it is there, until the supervisor gives the actor up."""
    deadline, killed = time.monotonic() + 120, set[int]()
    while time.monotonic() < deadline:
        row = next((row for row in vpn.json("actors") if row["name"] == actor), None)
        if row is None or row["state"] == "failed":
            return
        if row["pid"] and row["pid"] not in killed:
            killed.add(row["pid"])
            with suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)
    raise AssertionError(f"{actor} was not given up after {len(killed)} kills")


def test_packets_go_on_without_a_host_and_a_person_brings_all_back(pair: tuple[Vpn, Vpn]) -> None:
    one, _ = pair
    wear_out(one, "host")
    found = states(one)
    assert found["host"] == "failed"
    assert one.json("status")["state"] == "degraded"
    assert (found["gossip"], found["discovery"]) == ("held", "held")
    assert (found["tun"], found["ledger"], found["sealer"]) == ("ready", "ready", "ready")
    assert traffic.ping(one.node, "10.1.0.2", 20, 0.05).received == 20

    lacking = next(row for row in one.json("actors") if row["name"] == "gossip")
    assert lacking["lacks"] == "host"
    refused = one.ask("actors", "restart", "gossip", check=False)
    assert refused.returncode == 1
    assert "can't work without the host actor" in refused.stderr
    prompt = one.ask("repl", "gossip", "-c", "1", check=False)
    assert prompt.returncode == 3
    assert "is held" in prompt.stderr

    one.ask("actors", "restart", "host")
    traffic.wait_for(lambda: set(states(one).values()) == {"ready"}, 15, what="all actors ready again")
    traffic.wait_for(lambda: len(one.json("status")["peers"]) == 1, 15, what="the peer again")


def test_a_node_whose_tun_can_not_live_ends_and_says_why(pair: tuple[Vpn, Vpn]) -> None:
    one, _ = pair
    with suppress(Exception):  # the node may end while it is asked
        wear_out(one, "tun")
    assert one.process.wait(20) == 6
    assert "the tun actor died too often" in one.tail()
    assert "of no use" in one.tail()
    assert not [name for name in os.listdir(one.home) if name.endswith(".sock")]


def test_a_service_manager_hears_of_a_nodes_start_life_hang_and_end(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        vpn = Vpn(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false", env=env)

        def heard(wanted: bytes) -> None:
            while wanted not in manager.recv(4096).splitlines():
                pass

        try:
            heard(b"READY=1")
            assert vpn.json("status")["state"] == "joining"
            for _ in range(4):
                heard(b"WATCHDOG=1")
            os.kill(vpn.process.pid, signal.SIGSTOP)
            time.sleep(0.5)  # what was under way
            manager.setblocking(False)
            with suppress(BlockingIOError):
                while manager.recv(4096):
                    pass
            time.sleep(1)
            with pytest.raises(BlockingIOError):
                manager.recv(4096)
            manager.settimeout(10)
            os.kill(vpn.process.pid, signal.SIGCONT)
            heard(b"WATCHDOG=1")
            vpn.process.send_signal(signal.SIGTERM)
            heard(b"STOPPING=1")
            assert vpn.process.wait(10) == 0
        finally:
            vpn.close()


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze: the Debian package systemd has it")
    unit = tmp_path / "edgevpn@.service"
    unit.write_text(subprocess.run([EDGEVPN, "unit"], capture_output=True, text=True, check=True).stdout)
    instance = tmp_path / "edgevpn@edgevpn0.service"
    instance.symlink_to(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(instance)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_node_that_ends_has_its_address_again_at_its_next_start(
    make_lab: MakeLab, tmp_path: Path, number: signal.Signals
) -> None:
    """Without a kept key: stopped, it gave the address free; killed, it is the same peer again."""
    lab, token = make_lab(2), new_token()
    other = Vpn(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    run_dir = f"--run-dir={tmp_path}/r"
    vpn = Vpn(lab.node(2), token, "10.1.0.2/24", "--dht=false", run_dir)
    vpn.run_dir = tmp_path / "r"
    try:
        traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 20)
        before = vpn.json("status")["peer_id"]
        vpn.process.send_signal(number)
        vpn.process.wait(10)
        assert (tmp_path / "r" / "privkey").exists() == (number == signal.SIGKILL)
        again = Vpn(lab.node(2), token, "10.1.0.2/24", "--dht=false", run_dir)
        again.run_dir = vpn.run_dir
        try:
            traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 15)
            assert (again.json("status")["peer_id"] == before) == (number == signal.SIGKILL)
        finally:
            again.close()
    finally:
        vpn.close()
        other.close()
