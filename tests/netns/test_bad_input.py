"""What a machine or a person can do wrong: one clear line, an exit code, nothing lost. And where secrets are not."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevpn.proto.network_config import parse_token
from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import EDGEVPN, environment, new_token
from tests.netns.test_node import MakeNode
from tests.unit.test_cli_main import memory_holds

MakeLab = Callable[..., Lab]


def refuse(lab: Lab, tmp_path: Path, *flags: str, code: int = 4) -> str:
    """The one line with which a node refuses to start."""
    done = subprocess.run(
        lab.node(1).command([EDGEVPN, f"--run-dir={tmp_path}/r", "--address=10.1.0.1/24", *flags]),
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(EDGEVPNTOKEN=new_token()),
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("edgevpn: ")
    assert not (tmp_path / "r").exists()
    assert lab.node(1).run(["ip", "link", "show", "edgevpn0"], check=False).returncode != 0
    return line


def test_an_interface_that_exists_is_left_alone(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    assert "eth0 exists already" in refuse(lab, tmp_path, "--interface=eth0")
    assert "10.99.0.1/24" in lab.node(1).run(["ip", "addr", "show", "eth0"]).stdout


def test_a_port_in_use_is_named(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    hold = "import socket,time;s=socket.create_server(('0.0.0.0',4711));print('held',flush=True);time.sleep(30)"
    holder = lab.node(1).popen(["python3", "-c", hold], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert "4711 is in use" in refuse(lab, tmp_path, "--listen-maddrs=/ip4/0.0.0.0/tcp/4711")
    holder.stdout.close()


def test_a_state_directory_that_cannot_be_written_is_named(make_lab: MakeLab, tmp_path: Path) -> None:
    assert "--ledger-state" in refuse(make_lab(1), tmp_path, "--ledger-state=/proc/nowhere")


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"edgevpn ledger 2\nshort", "cut short"), (b"{}", "not a ledger"), (b"edgevpn ledger 9\n", "another version")],
)
def test_a_torn_or_foreign_ledger_is_set_aside_and_the_node_starts(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path, content: bytes, what: str
) -> None:
    kept = tmp_path / "edgevpn-ledger"
    kept.mkdir()
    (kept / "ledger.snapshot").write_bytes(content)
    vpn = start(make_lab(1).node(1), new_token(), "10.1.0.1/24", "--dht=false", f"--ledger-state={tmp_path}")
    vpn.wait_for_state("joining")
    [aside] = kept.glob("*set-aside*")
    assert aside.read_bytes() == content
    [line] = [line for line in vpn.log.read_text().splitlines() if "set-aside" in line]
    assert what in line
    traffic.wait_for((kept / "ledger.snapshot").exists, 5, what="a new snapshot")


def test_what_was_written_just_before_the_end_is_there_after_a_restart(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    lab = make_lab(1)
    token = new_token()
    flags = ("--dht=false", f"--ledger-state={tmp_path}")
    vpn = start(lab.node(1), token, "10.1.0.1/24", *flags)
    vpn.wait_for_state("joining")
    code = """import time; state.announce("notes", "k", "\\"v\\"", time.time()) and ledger._show()"""
    vpn.ask("repl", "ledger", "-c", code)
    assert vpn.stop() == 0
    again = start(lab.node(1), token, "10.1.0.1/24", *flags)
    again.wait_for_state("joining")
    assert again.json("ledger", "notes")["k"]["value"] == "v"


def test_only_the_sealer_has_the_secrets(make_lab: MakeLab, start: MakeNode) -> None:
    token = new_token()
    network = parse_token(token)
    secrets = [network.otp_crypto.key.encode(), network.otp_dht.key.encode(), network.room.encode(), token.encode()]
    lab = make_lab(2)
    one = start(lab.node(1), token, "10.1.0.1/24", "--dht=false")
    start(lab.node(2), token, "10.1.0.2/24", "--dht=false")
    traffic.first_answer(lab.node(1), "10.1.0.2", "edgevpn0", 20)
    found = {actor["name"]: actor["pid"] for actor in one.json("actors")}
    holders = {name for name, pid in found.items() if any(memory_holds(pid, secret) for secret in secrets)}
    assert holders == {"sealer"}
    for pid in found.values():
        shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert not any(secret in shown for secret in secrets)


def test_nothing_but_libp2p_listens_on_tcp_and_the_run_directory_is_private(make_lab: MakeLab, start: MakeNode) -> None:
    lab = make_lab(1)
    vpn = start(lab.node(1), new_token(), "10.1.0.1/24", "--dht=false", "--listen-maddrs=/ip4/0.0.0.0/tcp/4001")
    vpn.wait_for_state("joining")
    listening = lab.node(1).run(["ss", "-Hltn"]).stdout.split()
    assert [word for word in listening if word.endswith((":4001",))] == ["0.0.0.0:4001"]
    assert listening.count("LISTEN") == 1
    assert oct(vpn.run_dir.stat().st_mode & 0o777) == "0o710"
    assert oct((vpn.run_dir / "tractor").stat().st_mode & 0o7777) == "0o3730"
    pid = os.fork()
    if pid == 0:  # a process of another user is not let in
        try:
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(vpn.run_dir / "ledger.sock"))
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
