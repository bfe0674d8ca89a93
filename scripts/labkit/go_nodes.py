"""Nodes of the Go program EdgeVPN in a lab, beside ours; its program is at EDGEVPN_GO_BIN."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevpn.identity import load_or_create
from scripts.labkit.namespaces import LabError, Node
from scripts.labkit.nodes import environment
from scripts.labkit.traffic import wait_for

GO = os.environ.get("EDGEVPN_GO_BIN", "")
API = "127.0.0.1:8080"

# Prints the time and the keys of a bucket each time these are others than before.
_WATCH = """
import http.client, json, sys, time
before = None
while True:
    try:
        asked = http.client.HTTPConnection(sys.argv[1], timeout=5)
        asked.request("GET", "/api/ledger/" + sys.argv[2])
        keys = sorted(json.loads(asked.getresponse().read()) or {})
        if keys != before:
            print(json.dumps([time.time(), keys]), flush=True)
            before = keys
        asked.close()
    except (OSError, http.client.HTTPException):
        pass
    time.sleep(0.02)
"""


class GoVpn:
    """One running node with its API. Its key is known before it starts: `peer_id`."""

    def __init__(
        self,
        node: Node,
        token: str,
        address: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        hostname: str = "",
        key_dir: Path | None = None,
    ) -> None:
        """`address`: CIDR. The token goes by the environment. `hostname`: this node's own. `key_dir`: its key's."""
        self.node = node
        self.address = address.partition("/")[0]
        self.home = Path(tempfile.mkdtemp(prefix="evg-"))
        self.log = self.home / "log"
        key_dir = key_dir or self.home / "key"
        self.peer_id = load_or_create(key_dir).peer_id
        # unshare(1) makes way for what it runs, as `ip netns exec` does: the process stays the Go program itself.
        words = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', hostname] if hostname else []
        words += [GO, f"--address={address}", "--api", f"--api-listen={API}", "--log-level=warn"]
        words += ["--privkey-cache", f"--privkey-cache-dir={key_dir}", *flags]
        settings = environment(EDGEVPNTOKEN=token, HOME=str(self.home), **(env or {}))
        self.process = node.popen(words, log=self.log, env=settings)

    def get(self, path: str) -> Any:
        """What its API answers, or None while it does not."""
        if self.process.poll() is not None:
            raise LabError(f"the Go node ended with {self.process.returncode}: {self.tail()}")
        done = self.node.run(["curl", "-s", "-m", "3", f"http://{API}/api/{path}"], check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None

    def send(self, method: str, path: str, body: str = "") -> None:
        """A write by its API. Raises LabError."""
        words = ["curl", "-s", "-f", "-m", "3", "-X", method, f"http://{API}/api/{path}"]
        self.node.run([*words, *(("-H", "Content-Type: application/json", "-d", body) if body else ())])

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Its buckets that are not empty; values as the network has them, read."""
        found = self.get("ledger") or {}
        return {bucket: {key: json.loads(v) for key, v in rows.items()} for bucket, rows in found.items() if rows}

    def wait_until_it_answers(self, timeout: float = 15) -> None:
        # Other routes panic while it joins its network.
        wait_for(lambda: self.get("ledger") is not None, timeout, what=f"the API of {self.node.netns}")

    def watch(self, bucket: str) -> GoWatch:
        return GoWatch(self.node, bucket, self.home / f"watch-{bucket}")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End it, and remove its files."""
        self.node.stop(self.process)
        shutil.rmtree(self.home, ignore_errors=True)


class GoWatch:
    """When each key of a bucket was first seen in the API of the Go node there, asked every 20 ms."""

    def __init__(self, node: Node, bucket: str, file: Path) -> None:
        self._file = file
        self._node = node
        with file.open("wb") as output:
            self._process = node.popen(
                [sys.executable, "-c", _WATCH, API, bucket], stdout=output, stderr=subprocess.DEVNULL
            )

    def seen(self) -> dict[str, float]:
        """Unix time by key."""
        found: dict[str, float] = {}
        for line in self._file.read_text().splitlines():
            at, keys = json.loads(line)
            for key in keys:
                found.setdefault(key, at)
        return found

    def stop(self) -> dict[str, float]:
        self._node.stop(self._process, grace=0.5)
        return self.seen()
