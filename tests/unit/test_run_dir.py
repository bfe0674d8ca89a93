"""Where a node's sockets are."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edgevpn.cli import run_dir
from edgevpn.errors import UsageError


def test_the_default_is_named_after_the_interface() -> None:
    assert run_dir.choose("", "edgevpn0", environ={}, uid=0) == Path("/run/edgevpn/edgevpn0")
    user = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    assert run_dir.choose("", "start", environ=user, uid=1000) == Path("/run/user/1000/edgevpn/start")
    assert run_dir.choose("", "tun1", environ={}, uid=1000) == Path("/tmp/edgevpn-1000/tun1")


def test_a_given_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert run_dir.choose("run/../x", "edgevpn0") == Path("/x")
    assert run_dir.choose("/a/b", "", environ={}, uid=0) == Path("/a/b")


def test_a_name_cannot_lead_out_of_the_directory() -> None:
    for name in ("..", "a/b", "", "x" * 16):
        with pytest.raises(UsageError):
            run_dir.choose("", name, environ={}, uid=0)


def test_sockets_fit_into_the_longest_directory_that_is_taken() -> None:
    longest = run_dir.MAX_SOCKET_PATH - run_dir.ROOM_FOR_SOCKET_NAME
    assert run_dir.choose("/" + "x" * (longest - 1), "")
    with pytest.raises(UsageError, match=r"too long for Unix sockets .* give a shorter one with --run-dir"):
        run_dir.choose("/" + "x" * longest, "")
    with pytest.raises(UsageError):  # bytes count, not letters
        run_dir.choose("/" + "é" * (longest // 2 + 1), "")


def test_the_nodes_of_a_machine_are_found_by_their_sockets(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert run_dir.names_of_nodes(environ=environ, uid=1000) == []
    for name in ("b", "a"):
        (tmp_path / "edgevpn" / name).mkdir(parents=True)
        (tmp_path / "edgevpn" / name / run_dir.SUPERVISOR_SOCKET).touch()
    (tmp_path / "edgevpn" / "empty").mkdir()
    assert run_dir.names_of_nodes(environ=environ, uid=1000) == ["a", "b"]


def test_asking_commands_share_their_options() -> None:
    @click.command()
    @run_dir.node_options
    def show(run_dir: Path, as_json: bool) -> None:
        click.echo(f"{run_dir} {as_json}")

    def output(*args: str, env: dict[str, str] | None = None) -> str:
        result = CliRunner().invoke(show, args, env={"EDGEVPNRUNDIR": None, "IFACE": None} | (env or {}))
        assert result.exit_code == 0, result.output
        return result.output.strip()

    assert output("--run-dir", "/x", "--json") == "/x True"
    assert output("--interface", "tun7").endswith("/tun7 False")
    assert output(env={"EDGEVPNRUNDIR": "/y", "IFACE": "tun8"}) == "/y False"
    assert output().endswith("/edgevpn0 False")
