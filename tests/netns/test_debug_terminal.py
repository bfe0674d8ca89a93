"""`edgevpn --debug` in a real terminal: the crash prompt opens where the node was launched."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, environment, new_token
from scripts.labkit.terminal import Terminal
from scripts.labkit.traffic import wait_for

pytestmark = pytest.mark.timeout(120)
CRASH = """
async def fail():
    wanted_here = 41
    raise RuntimeError("on purpose")
actor._nursery.start_soon(fail)
"""


def test_an_actor_that_crashes_opens_the_crash_prompt_in_the_launching_terminal(tmp_path: Path) -> None:
    run_dir = tmp_path / "r"
    (tmp_path / "token").write_text(new_token())
    with Lab(1) as lab, Terminal(tmp_path, columns=180) as terminal:
        terminal.wait_for("$")
        start = f"ip netns exec {lab.node(1).netns} {EDGEVPN} --debug --dht=false --mdns=false --run-dir={run_dir}"
        terminal.type(f"EDGEVPNTOKEN=$(cat {tmp_path}/token) {start}")
        terminal.wait_for("ready after", 60)
        asked = [
            sys.executable,
            "-m",
            "edgevpn.cli.main",
            "repl",
            f"--run-dir={run_dir}",
            "ledger",
            "-c",
            CRASH.strip(),
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):  # the actor stands at its prompt, and answers nobody
            subprocess.run(asked, env=environment(), capture_output=True, timeout=5)
        screen = terminal.wait_for("(Pdb+)", 30)
        assert "on purpose" in screen
        terminal.type("p wanted_here + 1")
        terminal.wait_for("\n42", 10)
        terminal.type("q")
        terminal.wait_for("ended and is started again", 20)
        terminal.press("C-c")
        terminal.wait_for(lambda screen: screen.endswith("$"), 20)  # the shell again, maybe behind the ^C
        wait_for(lambda: not run_dir.joinpath("supervisor.sock").exists(), 10, what="the node's end")
        assert not os.path.exists(run_dir / "lock")
