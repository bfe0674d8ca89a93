"""`edgevpn actors --watch` and `edgevpn logs` against a running node, in a real terminal and in pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.terminal import Terminal
from scripts.labkit.traffic import wait_for

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def vpn() -> Iterator[Vpn]:
    """One node for all tests here. They kill discovery, the last one the node."""
    with Lab(1) as lab:
        vpn = Vpn(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false")
        try:
            vpn.wait_for_state("joining")
            yield vpn
        finally:
            print(f"--- {vpn.tail(40)}")
            vpn.close()


def line_of(screen: str, name: str) -> list[str]:
    return next((line.split() for line in screen.splitlines() if line.startswith(f"{name} ")), [])


def ready_again(vpn: Vpn, old: int) -> Callable[[], int]:
    def look() -> int:
        now = next(one for one in vpn.json("actors") if one["name"] == "discovery")
        return int(now["pid"]) if now["state"] == "ready" and now["pid"] != old else 0

    return look


def test_watching_shows_a_restart_and_leaves_the_terminal_as_it_was(vpn: Vpn, tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("$")
        terminal.type("echo before")
        terminal.wait_for("\nbefore")
        terminal.type(f"{EDGEVPN} actors --watch --run-dir={vpn.run_dir}")
        screen = terminal.wait_for("Ctrl-C ends")
        names = ("supervisor", "host", "discovery", "gossip", "sealer", "ledger", "tun", "template")
        assert [name for name in names if not line_of(screen, name)] == []
        assert line_of(screen, "ledger")[2:4] == ["ready", "0"]
        pid = vpn.pid_of("discovery")
        os.kill(pid, signal.SIGKILL)
        terminal.wait_for(lambda shown: (row := line_of(shown, "discovery")) and row[2:4] == ["ready", "1"])
        screen = terminal.wait_for("killed by SIGKILL")
        assert len([line for line in screen.splitlines() if line.startswith("host ")]) == 1  # drawn over itself
        terminal.press("C-c")
        screen = terminal.wait_for(lambda shown: shown.endswith("\n$"))
        assert "\nbefore" in screen
        assert "supervisor" not in screen


def test_watching_as_json_gives_a_list_a_line_until_ctrl_c(vpn: Vpn) -> None:
    words = [EDGEVPN, "actors", "--watch", "--json", f"--run-dir={vpn.run_dir}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.stdout is not None
            looks = [json.loads(process.stdout.readline()) for _ in range(2)]
            for look in looks:
                ledger = next(one for one in look if one["name"] == "ledger")
                assert ledger["state"] == "ready"
                assert ledger["pss_bytes"] > 1_000_000
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
            assert (process.returncode, err) == (0, b"")
        finally:
            process.kill()


def test_the_log_tells_of_a_crash_with_its_traceback(vpn: Vpn) -> None:
    pid = vpn.pid_of("discovery")
    code = "async def fall():\n    raise ValueError('a fall')\nactor._nursery.start_soon(fall)"
    vpn.ask("repl", "discovery", "-c", code, check=False)
    wait_for(ready_again(vpn, pid), 5, what="another discovery")
    shown = vpn.ask("logs", "discovery", "-n", "5").stdout
    assert "discovery: warning: ended and is started again reason=ValueError: a fall" in shown
    assert "in fall" in shown
    assert "\n    ValueError: a fall" in shown
    lines = [json.loads(line) for line in vpn.ask("logs", "discovery", "--json", "-n", "5").stdout.splitlines()]
    assert any("ValueError: a fall" in line.get("traceback", "") for line in lines)


def test_watching_and_following_outlive_a_node_that_is_killed(vpn: Vpn, tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        terminal.wait_for("$")
        terminal.type(f"{EDGEVPN} actors --watch --run-dir={vpn.run_dir}")
        terminal.wait_for("Ctrl-C ends")
        vpn.process.kill()
        vpn.process.wait(5)
        screen = terminal.wait_for("waiting for it")
        assert not line_of(screen, "ledger")
        vpn.start_again()
        terminal.wait_for(lambda shown: line_of(shown, "ledger")[2:3] == ["ready"], 15)
        terminal.press("C-c")
        terminal.wait_for(lambda shown: shown.endswith("\n$"))
    vpn.process.kill()
    vpn.process.wait(5)
    told = vpn.ask("logs", "supervisor")
    assert "this node is" in told.stdout
    assert "no node runs there now" in told.stderr
