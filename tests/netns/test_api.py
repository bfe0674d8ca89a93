"""The HTTP API of real nodes: over real sockets, with the network behind it, and through the death of its actor."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgevpn.web.app import OPERATIONS
from scripts.labkit import traffic
from scripts.labkit.browser import inside
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, Vpn, environment, new_token
from scripts.labkit.traffic import wait_for

PORT = 8080
pytestmark = pytest.mark.timeout(120)
MakeLab = Callable[..., Lab]


class Answer(NamedTuple):
    status: int
    text: str
    seconds: float

    @property
    def value(self) -> Any:
        return json.loads(self.text)


def ask(vpn: Vpn, method: str, path: str, headers: dict[str, str] | None = None, body: str | None = None) -> Answer:
    """A request from the node's own namespace."""

    def go() -> Answer:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        try:
            connection.request(method, path, body=body, headers=authorized(vpn) if headers is None else headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode(), time.monotonic() - began)
        finally:
            connection.close()

    return inside(vpn.node.netns, go)


def authorized(vpn: Vpn) -> dict[str, str]:
    return {"Authorization": f"Bearer {(vpn.run_dir / 'api-token').read_text().strip()}"}


def actors(vpn: Vpn) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in vpn.json("actors")}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Vpn, Vpn]]:
    """Two nodes in one network, both with the API."""
    with Lab(2) as lab:
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", "--api") for k in (1, 2)]
        try:
            for vpn in nodes:
                vpn.wait_for_state("up", 40)
            traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 20)
            yield nodes[0], nodes[1]
        finally:
            for vpn in nodes:
                print(f"--- {vpn.tail(30)}")
                vpn.close()


Pair = tuple[Vpn, Vpn]


def test_the_token_is_for_the_nodes_user_alone_and_shown_by_api_url(pair: Pair) -> None:
    one, _ = pair
    path = one.run_dir / "api-token"
    assert path.stat().st_mode & 0o777 == 0o600
    token = path.read_text().strip()
    assert len(token) >= 43
    assert one.ask("api-url").stdout == f"http://127.0.0.1:{PORT}/app#token={token}\n"
    assert one.json("api-url")["auth"] == "token"
    assert token not in one.log.read_text()
    assert token not in one.ask("logs", "-n", "1000").stdout
    assert token not in one.ask("repl", "api", "-c", "server, source, actor.secrets, vars(server)").stdout


def test_both_nodes_tell_the_same_and_who_is_connected(pair: Pair) -> None:
    one, two = pair
    machines = {found["Address"]: found for found in ask(one, "GET", "/api/machines").value}
    assert set(machines) == {"10.1.0.1", "10.1.0.2"}
    assert all(found["Connected"] and found["Online"] for found in machines.values())
    assert machines["10.1.0.2"]["OnChain"]
    assert ask(one, "GET", "/api/ledger/machines").value == ask(two, "GET", "/api/ledger/machines").value
    summary = ask(one, "GET", "/api/summary").value
    assert (summary["Machines"], summary["Peers"], summary["OnChainNodes"]) == (2, 2, 1)
    counted = ask(one, "GET", "/api/metrics").value
    assert counted["TotalIn"] > 0
    assert counted["TotalOut"] > 0

    def paths() -> list[tuple[str, list[str]]]:
        return [(peer["path"], peer["addresses"]) for peer in ask(one, "GET", "/api/v1/overview").value["peers"]]

    wait_for(lambda: paths() == [("datagram", ["10.1.0.2"])], 10, what="the path's kind")


def test_a_delete_right_after_a_put_holds(pair: Pair) -> None:
    one, two = pair
    for number in range(5):
        assert ask(one, "PUT", f"/api/ledger/vec/k{number}/v").value == {"State": "Announcing"}
        assert ask(one, "DELETE", f"/api/ledger/vec/k{number}").value == {"State": "Announcing"}
    ask(one, "PUT", "/api/ledger/vec/last/v")
    wait_for(lambda: ask(two, "GET", "/api/ledger/vec").value == {"last": '"v"'}, 15, what="the other node's ledger")
    time.sleep(1)
    assert ask(one, "GET", "/api/ledger/vec").value == {"last": '"v"'}


def test_a_change_elsewhere_is_an_event_here_within_a_second(pair: Pair) -> None:
    one, two = pair

    def listen() -> list[float]:
        took = []
        with socket.create_connection(("127.0.0.1", PORT), 10) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in authorized(one).items())
            connection.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n".encode())
            seen = ""
            for number in range(5):
                name = f"live-{time.monotonic_ns()}"
                began = time.monotonic()
                ask(two, "PUT", f"/api/ledger/events/{name}/{number}")
                while f'"{name}"' not in seen:
                    seen += connection.recv(65536).decode()
                took.append(time.monotonic() - began)
        return took

    took = inside(one.node.netns, listen)
    print("event after", [f"{seconds * 1000:.0f} ms" for seconds in took])
    assert max(took) < 1


def test_every_route_of_a_running_node_is_closed_to_strangers(pair: Pair) -> None:
    one, _ = pair
    paths = sorted({re.sub(r"\{\w+(:\w+)?\}", "x", operation.path) for operation in OPERATIONS})
    good = authorized(one)
    strangers: list[tuple[dict[str, str], int]] = [
        ({}, 401),
        ({"Authorization": "Bearer x"}, 401),
        (good | {"Host": "evil.example"}, 403),
        (good | {"Origin": "http://evil.example"}, 403),
    ]
    refused = total = 0
    for path in paths:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            for headers, status in strangers:
                total += 1
                refused += ask(one, method, path, headers).status == status
    print(f"refused {refused} of {total}")
    assert refused == total


def test_the_api_actor_comes_back_and_its_listener_never_went(pair: Pair) -> None:
    one, _ = pair
    token = authorized(one)
    before = actors(one)
    gaps = []
    for number in range(1, 6):
        pid = actors(one)["api"]["pid"]
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        answer = ask(one, "GET", "/api/summary", token)  # connects at once, and waits in the socket's queue
        gaps.append(time.monotonic() - began)
        assert answer.status == 200
        assert wait_for(lambda number=number: actors(one)["api"]["restarts"] == number, 5, what="its restart")
        time.sleep(1.1)  # ready for so long, it is started again at once
    print("answered after", [f"{gap * 1000:.0f} ms" for gap in gaps])
    after = actors(one)
    assert {name: (found["pid"], found["restarts"]) for name, found in after.items() if name != "api"} == {
        name: (found["pid"], found["restarts"]) for name, found in before.items() if name != "api"
    }
    assert max(gaps) < 1


def run_to_its_end(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.node(1).run([EDGEVPN, *words], env=environment(EDGEVPNTOKEN=new_token()), check=False, timeout=30)


def test_the_api_actor_has_no_rights_and_no_way_out(pair: Pair) -> None:
    one, _ = pair
    assert int(one.ask("repl", "api", "-c", "__import__('os').getuid()").stdout) != 0
    for attempt in ("import socket; socket.socket(socket.AF_INET)", "import os; os.execv('/bin/true', ['true'])"):
        tried = one.ask("repl", "api", "-c", attempt, check=False)
        assert (tried.returncode, "PermissionError" in tried.stderr) == (1, True), attempt
    assert ask(one, "GET", "/health").status == 200


def test_what_cannot_be_served_ends_the_start_with_one_line(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    flags = ("api", f"--run-dir={tmp_path}/r")
    with inside(lab.node(1).netns, lambda: socket.create_server(("127.0.0.1", 8081))):
        taken = run_to_its_end(lab, *flags, "--listen=127.0.0.1:8081")
    assert (taken.returncode, taken.stderr.count("\n")) == (4, 1)
    assert "Address already in use" in taken.stderr
    open_ = run_to_its_end(lab, *flags, "--listen=:8081", "--api-auth=off")
    assert (open_.returncode, open_.stderr.count("\n")) == (2, 1)
    assert "for this machine alone" in open_.stderr
    wrong = run_to_its_end(lab, *flags, "--listen=nowhere")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert not Path(f"{tmp_path}/r").exists()


def test_old_scripts_may_be_let_in_without_a_token_which_is_said(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    vpn = Vpn(lab.node(1), new_token(), None, "--dht=false", "--api-auth=off", command="api")
    try:
        vpn.wait_for_state("joining", 30)
        assert ask(vpn, "GET", "/api/ledger", {}).value == {}  # no heartbeat either: nothing was asked of it
        assert ask(vpn, "GET", "/api/ledger", {"Host": "evil.example"}).status == 403
        assert "asks for no credentials" in vpn.log.read_text()
        assert not (vpn.run_dir / "api-token").exists()
        assert ask(vpn, "POST", "/api/dns", {"Content-Type": "application/json"}, '{"Regex":"a.b."}').status == 200
        assert set(ask(vpn, "GET", "/api/ledger", {}).value) == {"dns", "healthcheck"}  # its lease needs the heartbeat
    finally:
        vpn.close()


def test_the_peer_gate_is_seen_and_set(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    flags = ("--dht=false", "--peerguard", "--peergate", "--peergate-relaxed")
    vpn = Vpn(lab.node(1), new_token(), None, *flags, command="api")
    try:
        vpn.wait_for_state("joining", 30)
        wait_for(lambda: ask(vpn, "GET", "/api/peergate").status == 200, 10, what="the gate")
        told = [ask(vpn, "PUT", f"/api/peergate/{word}").text for word in ("bogus", "disable", "enable", "bogus")]
        assert told == ["true\n", "false\n", "true\n", "true\n"]
        assert ask(vpn, "PUT", "/api/peergate/disable").value is False
        time.sleep(0.5)
        assert ask(vpn, "GET", "/api/peergate").value is False
    finally:
        vpn.close()


def test_a_unix_socket_is_for_root_and_the_nodes_user(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    path = tmp_path / "api.sock"
    vpn = Vpn(lab.node(1), new_token(), None, "--dht=false", f"--listen=unix://{path}", command="api")
    request = (
        "import socket,sys,os\n"
        "if len(sys.argv) > 2: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
        "s.sendall(b'GET /api/summary HTTP/1.1\\r\\nHost: unix\\r\\n\\r\\n'); print(s.recv(4096).decode())"
    )

    def as_(*user: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["python3", "-c", request, str(path), *user], capture_output=True, text=True, timeout=20)

    try:
        vpn.wait_for_state("joining", 30)
        assert path.stat().st_mode & 0o777 == 0o600
        assert "HTTP/1.1 200" in as_().stdout
        for parent in (tmp_path, *tmp_path.parents[:3]):
            if str(parent) not in ("/", "/tmp"):
                parent.chmod(0o755)
        assert "PermissionError" in as_("nobody").stderr
        path.chmod(0o666)  # even then: the kernel says who it is
        assert "HTTP/1.1 401" in as_("nobody").stdout
        assert vpn.ask("api-url", check=False).returncode == 1
    finally:
        vpn.close()
    assert not path.exists()
