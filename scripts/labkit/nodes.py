"""Nodes of edgevpn in a lab: started, asked and stopped as a person would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.labkit.namespaces import LabError, Node
from scripts.labkit.traffic import wait_for

ROOT = Path(__file__).resolve().parents[2]
EDGEVPN = str(ROOT / ".venv" / "bin" / "edgevpn")


def environment(**more: str) -> dict[str, str]:
    """An environment for nodes: compiled modules may be kept, nothing of a caller's settings goes with it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGEVPN", "PYTHON"))}
    return kept | more


def new_token() -> str:
    """A fresh network."""
    done = subprocess.run([EDGEVPN, "-g", "-b"], capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        raise LabError(f"edgevpn -g -b ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


class Vpn:
    """One running node."""

    def __init__(
        self,
        node: Node,
        token: str,
        address: str | None,
        *flags: str,
        env: Mapping[str, str] | None = None,
        directory: Path | None = None,
        command: str = "start",
        hostname: str = "",
    ) -> None:
        """`address`: CIDR, or None for `command`. The token goes by the environment. `hostname`: this node's own."""
        self.node = node
        self.home = Path(tempfile.mkdtemp(prefix="evn-", dir=directory))
        self.run_dir = self.home / "r"
        self.log = self.home / "log"
        # unshare(1) makes way for what it runs, as `ip netns exec` does: the process stays edgevpn itself.
        words = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', hostname] if hostname else []
        words += [EDGEVPN]
        words += [command] if address is None else []
        words += [f"--run-dir={self.run_dir}", *flags]
        words += [] if address is None else [f"--address={address}"]
        self.command = words
        self._environment = environment(EDGEVPNTOKEN=token, **(env or {}))
        self.process = node.popen(words, log=self.log, env=self._environment)

    def start_again(self) -> None:
        """After its end: the same command in the same place."""
        self.node.stop(self.process)
        self.process = self.node.popen(self.command, log=self.log, env=self._environment)

    def ask(self, *words: str, check: bool = True, timeout: float = 15) -> subprocess.CompletedProcess[str]:
        """A command to this node, e.g. ask("status")."""
        return self.node.run(
            [EDGEVPN, words[0], f"--run-dir={self.run_dir}", *words[1:]],
            env=environment(),
            check=check,
            timeout=timeout,
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.ask(words[0], "--json", *words[1:]).stdout)

    def status(self) -> dict[str, Any] | None:
        """The status, or None while the node does not answer yet."""
        if self.process.poll() is not None:
            raise LabError(f"the node ended with {self.process.returncode}: {self.tail()}")
        done = self.ask("status", "--json", check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def wait_for_state(self, state: str = "up", timeout: float = 15) -> dict[str, Any]:
        found = wait_for(
            lambda: (s := self.status()) and s["state"] == state and s,
            timeout,
            what=f"state {state} of {self.node.netns}",
        )
        assert isinstance(found, dict)  # noqa: S101 - what the lambda returns when it is true
        return found

    def pid_of(self, actor: str) -> int:
        return next(int(one["pid"]) for one in self.json("actors") if one["name"] == actor)

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, number: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            # `ip netns exec` has become the node: the process is edgevpn itself.
            self.process.send_signal(number)
        self.process.wait(timeout)
        return self.process.returncode

    def close(self) -> None:
        """End it, and remove its files."""
        self.node.stop(self.process)
        shutil.rmtree(self.home, ignore_errors=True)
