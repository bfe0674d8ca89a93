"""Services, files and egress between the Go program and ours, in both roles."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import EDGEVPN, ROOT, environment, new_token
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
GO = os.environ.get("EDGEVPN_GO_BIN", "")
ENDPOINTS = [sys.executable, str(ROOT / "scripts" / "labkit" / "endpoints.py")]
SOON = ("--dht=false", "--ledger-announce-interval", "1", "--ledger-synchronization-interval", "1")

pytestmark = pytest.mark.timeout(180)

GET = """
import http.client, sys, time
proxy, url = sys.argv[1:3]
for _ in range(60):
    try:
        c = http.client.HTTPConnection(proxy, timeout=5)
        c.request("GET", url)
        r = c.getresponse()
        body = r.read().decode()
        if r.status == 200:
            print(r.status, body)
            break
    except (OSError, http.client.HTTPException):
        pass
    time.sleep(0.5)
"""


class Pair:
    """A Go node in namespace 1, one of ours in namespace 2."""

    def __init__(self, lab: Lab, home: Path) -> None:
        self.lab = lab
        self.home = home
        self.env = environment(EDGEVPNTOKEN=new_token(), HOME=str(home))

    def go(self, command: Sequence[str], *words: str) -> subprocess.Popen[bytes]:
        return self.lab.node(1).popen([GO, *command, *SOON, *words], env=self.env, log=self.home / "go.log")

    def ours(self, command: Sequence[str], *words: str) -> subprocess.Popen[bytes]:
        run_dir = f"--run-dir={self.home}/r"
        return self.lab.node(2).popen(
            [EDGEVPN, *command, run_dir, *SOON, *words], env=self.env, log=self.home / "ours.log"
        )

    def show(self) -> None:
        for name in ("go.log", "ours.log"):
            if (self.home / name).exists():
                print(f"--- {name}\n{(self.home / name).read_text(errors='replace')[-3000:]}")


@pytest.fixture
def pair(make_lab: MakeLab, tmp_path: Path) -> Pair:
    return Pair(make_lab(2), tmp_path)


def web(node: Node) -> None:
    node.popen([*ENDPOINTS, "http", "0.0.0.0", "7000"])  # noqa: S104 - in a namespace
    wait_for(lambda: ":7000 " in node.run(["ss", "-Hltn"]).stdout, 10, what="the web server")


def get(node: Node, port: int, url: str) -> dict[str, object]:
    done = node.run([sys.executable, "-c", GET, f"127.0.0.1:{port}", url], timeout=90)
    assert done.stdout.startswith("200 "), done.stdout
    answer: dict[str, object] = json.loads(done.stdout[4:])
    return answer


def test_our_client_uses_a_service_of_a_go_node(pair: Pair) -> None:
    web(pair.lab.node(1))
    pair.go(["service-add"], "web", "127.0.0.1:7000")
    pair.ours(["service-connect"], "web", "127.0.0.1:8000")
    try:
        for number in range(5):
            assert get(pair.lab.node(2), 8000, f"/{number}")["path"] == f"/{number}"
        # A client that says early that it has no more to ask gets its whole answer all the same.
        code = (
            "import socket\ns = socket.create_connection(('127.0.0.1', 8000))\n"
            "s.sendall(b'GET /last HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n"
            "s.shutdown(socket.SHUT_WR)\ndata = b''\n"
            "while more := s.recv(65536): data += more\nprint(data.decode())"
        )
        assert '"/last"' in pair.lab.node(2).run([sys.executable, "-c", code]).stdout
    finally:
        pair.show()


def test_a_go_client_uses_a_service_of_ours(pair: Pair) -> None:
    web(pair.lab.node(2))
    pair.ours(["service-add"], "web", "127.0.0.1:7000")
    pair.go(["service-connect"], "web", "127.0.0.1:8000")
    try:
        for number in range(5):
            assert get(pair.lab.node(1), 8000, f"/{number}")["path"] == f"/{number}"
    finally:
        pair.show()


def make_file(path: Path) -> str:
    data = random.Random(7).randbytes(20_000_000)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_we_receive_a_file_of_a_go_node(pair: Pair) -> None:
    digest = make_file(pair.home / "file")
    pair.go(["file-send"], "--name", "it", "--path", str(pair.home / "file"))
    receiver = pair.ours(["file-receive"], "--name", "it", "--path", str(pair.home / "out"))
    try:
        assert receiver.wait(60) == 0
        assert hashlib.sha256((pair.home / "out").read_bytes()).hexdigest() == digest
    finally:
        pair.show()


def test_a_go_node_receives_a_file_of_ours(pair: Pair) -> None:
    digest = make_file(pair.home / "file")
    sender = pair.ours(["file-send"], "--once", "it", str(pair.home / "file"))
    receiver = pair.go(["file-receive"], "it", str(pair.home / "out"))
    try:
        assert receiver.wait(90) == 0
        assert hashlib.sha256((pair.home / "out").read_bytes()).hexdigest() == digest
        assert sender.wait(70) == 0
    finally:
        pair.show()


def test_our_proxy_uses_a_go_egress(pair: Pair) -> None:
    web(pair.lab.node(1))
    pair.go([], "--egress", "--egress-announce-time", "1", "--address", "10.1.0.1/24")
    pair.ours(["proxy"], "--listen", "127.0.0.1:8080")
    try:
        assert get(pair.lab.node(2), 8080, "http://127.0.0.1:7000/x?y")["path"] == "/x?y"
    finally:
        pair.show()


def test_a_go_proxy_uses_our_egress_and_only_for_what_it_allows(pair: Pair) -> None:
    web(pair.lab.node(2))
    pair.ours([], "--egress", "--egress-allow=127.0.0.1/32", "--address=10.1.0.2/24")
    pair.go(["proxy"], "--listen", "127.0.0.1:8080", "--interval", "1")
    try:
        assert get(pair.lab.node(1), 8080, "http://127.0.0.1:7000/x?y")["path"] == "/x?y"
        code = (
            "import http.client\nc = http.client.HTTPConnection('127.0.0.1:8080', timeout=20)\n"
            "c.request('GET', 'http://10.99.0.2:7000/')\nprint(c.getresponse().status)"
        )
        assert pair.lab.node(1).run([sys.executable, "-c", code]).stdout == "403\n"
    finally:
        pair.show()
