"""The lab itself: what tests and figures stand on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, LabError, is_running
from scripts.labkit.nodes import ROOT
from scripts.labkit.relay import finds_neighbours

MakeLab = Callable[..., Lab]

# A program that makes a lab with a relay, starts a process in it, and tells of both.
HOLD = """
import json, sys, time
from scripts.labkit.namespaces import Lab
with Lab(2, delay_ms=1) as lab:
    held = lab.node(1).popen(["sleep", "300"])
    lab.node(2).run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo"])
    print(json.dumps([node.netns for node in lab.nodes]), flush=True)
    time.sleep(300)
"""


def namespaces_of(pid: int) -> list[str]:
    return sorted(path.name for path in Path("/run/netns").glob(f"evlab{pid}x*"))


def processes_in(names: list[str]) -> set[int]:
    found: set[int] = set()
    for name in names:
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
        found |= {int(word) for word in listed.stdout.split()}
    return found


def ends_soon(pids: set[int], timeout: float = 5) -> bool:
    deadline = time.monotonic() + timeout
    while any(map(is_running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def hold() -> tuple[subprocess.Popen[str], set[int]]:
    """A program that holds a lab, and the processes in it."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert program.stdout is not None
    assert len(json.loads(program.stdout.readline())) == 2
    inside = processes_in(namespaces_of(program.pid))
    assert len(inside) == 3  # two sleeps and the relay
    return program, inside


def test_nodes_reach_each_other_by_ipv4_and_ipv6_and_nobody_else(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    one, two, three = lab.nodes
    assert traffic.ping(one, two.address, 3, 0.01).received == 3
    assert traffic.ping(two, three.address6, 3, 0.01).received == 3
    assert traffic.ping(one, "192.0.2.1", 1, 0.01, wait=0.2).received == 0
    links = json.loads(one.run(["ip", "-json", "link"]).stdout)
    assert {link["ifname"] for link in links} == {"lo", "eth0"}


def test_multicast_reaches_every_node(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    listen = (
        "import socket,struct\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('224.0.0.251',5353))\n"
        "s.setsockopt(0,socket.IP_ADD_MEMBERSHIP,socket.inet_aton('224.0.0.251')+struct.pack('=I',0))\n"
        "print('ready',flush=True); s.settimeout(10); print(*s.recvfrom(100)[1],flush=True)"
    )
    heard = [node.popen(["python3", "-c", listen], stdout=subprocess.PIPE) for node in lab.nodes[1:]]
    for process in heard:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    send = (
        "import socket;s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.bind(('',5353))\n"
        "s.sendto(b'hello',('224.0.0.251',5353))"
    )
    lab.node(1).run(["python3", "-c", send])
    for process in heard:
        assert process.communicate(timeout=10)[0] == f"{lab.node(1).address} 5353\n".encode()


def test_a_delay_is_added_each_way(make_lab: MakeLab) -> None:
    lab = make_lab(2, delay_ms=30)
    result = traffic.ping(lab.node(1), lab.node(2).address, 5, 0.05)
    assert result.received == 5
    assert min(result.rtts_ms) >= 60


def lost_of(seed: int) -> list[int]:
    with Lab(2, loss=0.5, seed=seed) as lab:
        done = lab.node(1).run(["ping", "-n", "-c", "40", "-i", "0.01", "-W", "0.3", lab.node(2).address], check=False)
    seen = {int(word.split("=")[1]) for word in done.stdout.split() if word.startswith("icmp_seq=")}
    return [number for number in range(1, 41) if number not in seen]


def test_losses_are_random_but_the_same_with_the_same_seed() -> None:
    lost = lost_of(7)
    assert 20 < len(lost) < 38  # 30 expected: on the way there or back
    assert lost_of(7) == lost
    assert lost_of(8) != lost


def test_what_finds_neighbours_is_spared_from_loss(make_lab: MakeLab) -> None:
    assert finds_neighbours(bytes(12) + b"\x08\x06" + bytes(28))
    advertisement = bytes(12) + b"\x86\xdd" + bytes(6) + b"\x3a" + bytes(33) + bytes([136]) + bytes(23)
    assert finds_neighbours(advertisement)
    assert not finds_neighbours(advertisement[:54] + bytes([128]))  # an echo request
    assert not finds_neighbours(advertisement[:54])
    assert not finds_neighbours(bytes(12) + b"\x08\x00" + bytes(50))
    lab = make_lab(2, loss=1.0)
    assert traffic.ping(lab.node(1), lab.node(2).address, 2, 0.05, wait=0.2).received == 0
    neighbours = json.loads(lab.node(1).run(["ip", "-json", "neigh", "show", lab.node(2).address]).stdout)
    assert neighbours[0]["lladdr"]


def test_a_rate_limits_what_gets_through(make_lab: MakeLab) -> None:
    lab = make_lab(2, rate_mbit=20)
    got = traffic.iperf3(lab.node(1), lab.node(2), lab.node(1).address, 1, "-u", "-b", "40M", "-l", "1400")
    assert got < 21


def test_two_labs_do_not_see_each_other(make_lab: MakeLab) -> None:
    first, second = make_lab(2), make_lab(3)
    assert not {node.netns for node in first.nodes} & {node.netns for node in second.nodes}
    assert traffic.ping(first.node(1), second.node(3).address, 1, 0.01, wait=0.2).received == 0
    assert traffic.ping(second.node(1), second.node(3).address, 1, 0.01).received == 1


def test_a_lab_leaves_nothing_behind_even_after_an_exception() -> None:
    before = namespaces_of(os.getpid())
    inside: set[int] = set()
    with pytest.raises(ZeroDivisionError), Lab(2, delay_ms=1) as lab:  # noqa: PT012 - what happens in it is the point
        lab.node(1).popen(["sleep", "300"])
        lab.node(1).run(["sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & echo"])  # one that got away
        inside = processes_in([name for name in namespaces_of(os.getpid()) if name not in before])
        raise ZeroDivisionError
    assert len(inside) == 3
    assert ends_soon(inside)
    assert namespaces_of(os.getpid()) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_lab_goes_with_a_program_that_is_told_to_end(number: int) -> None:
    program, inside = hold()
    with program:
        program.send_signal(number)
        assert program.wait(10) != 0
    assert namespaces_of(program.pid) == []
    assert ends_soon(inside)


def test_what_a_killed_program_left_is_swept_and_a_living_ones_lab_is_not(make_lab: MakeLab) -> None:
    alive = make_lab(1)
    program, inside = hold()
    with program:
        assert not {name for name in Lab.sweep() if name.startswith(f"evlab{program.pid}x")}
        program.kill()
        program.wait(10)
    assert len(namespaces_of(program.pid)) == 3
    Lab.sweep()
    assert namespaces_of(program.pid) == []
    assert ends_soon(inside)
    assert traffic.ping(alive.node(1), "127.0.0.1", 1, 0.01).received == 1


def test_a_relay_ends_with_its_killed_maker() -> None:
    program, inside = hold()
    with program:
        relay = {pid for pid in inside if b"relay.py" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert len(relay) == 1
        program.kill()
    assert ends_soon(relay)
    Lab.sweep()


def test_a_command_that_fails_or_hangs_says_so(make_lab: MakeLab) -> None:
    node = make_lab(1).node(1)
    with pytest.raises(LabError, match="ended with 3: broken"):
        node.run(["sh", "-c", "echo broken >&2; exit 3"])
    assert node.run(["false"], check=False).returncode == 1
    with pytest.raises(LabError, match="did not end"):
        node.run(["sh", "-c", "sleep 300 & sleep 300"], timeout=0.2)
    assert ends_soon(processes_in([node.netns]))


def test_the_command_runs_in_each_node_and_gives_its_exit_code_back() -> None:
    words = [str(ROOT / "scripts" / "lab"), "-n", "2", "--each", "--json", "--"]
    done = subprocess.run([*words, "ip", "-json", "addr", "show", "eth0"], capture_output=True, text=True, check=True)
    described, *shown = done.stdout.splitlines()
    addresses = [node["address"] for node in json.loads(described)["nodes"]]
    assert addresses == [json.loads(line)[0]["addr_info"][0]["local"] for line in shown]
    assert subprocess.run([*words, "sh", "-c", "exit 4"], capture_output=True, check=False).returncode == 4
    assert subprocess.run([*words, "sh", "-c", "kill -9 $$"], capture_output=True, check=False).returncode == 137


@pytest.mark.parametrize(
    "flags", [["--loss", "101"], ["--loss", "nan"], ["--delay", "-1"], ["--rate", "0"], ["-n", "0"]]
)
def test_a_lab_that_makes_no_sense_is_refused_in_one_line(flags: list[str]) -> None:
    words = [str(ROOT / "scripts" / "lab"), *flags, "--", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"lab: a lab.*\n", done.stderr)


@pytest.mark.parametrize(("missing", "options"), [("ip", {}), ("ethtool", {"delay_ms": 1})])
def test_a_program_that_a_lab_needs_and_does_not_find_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str, options: dict[str, float]
) -> None:
    def which(name: str, path: str | None = None) -> str | None:
        return None if name == missing else f"/usr/bin/{name}"

    monkeypatch.setattr("shutil.which", which)
    with pytest.raises(LabError, match=f"there is no {missing}"), Lab(1, **options):  # type: ignore[arg-type]
        pass
    assert namespaces_of(os.getpid()) == []


def test_the_number_of_a_process_that_was_reaped_is_not_killed(
    make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_lab(1).node(1)
    ended = node.popen(["true"])
    ended.wait(5)
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _number: killed.append(pid))
    node.stop(ended)
    assert killed == []


def test_a_pings_longest_gap_is_found() -> None:
    output = (
        "[100.1] 64 bytes from x: icmp_seq=1 ttl=64 time=0.5 ms\n"
        "[100.2] 64 bytes from x: icmp_seq=2 ttl=64 time=1.5 ms\n"
        "[103.2] 64 bytes from x: icmp_seq=9 ttl=64 time=0.7 ms\n"
        "9 packets transmitted, 3 received, 66% packet loss, time 1ms\n"
    )
    result = traffic.parse_ping(output, 100.0)
    assert (result.sent, result.received, result.median_ms) == (9, 3, 0.7)
    assert round(result.longest_gap_s, 3) == 3.0
