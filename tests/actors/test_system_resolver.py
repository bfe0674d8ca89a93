"""Making a machine ask us, and undoing it, on files of the test's own."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevpn.actors import system_resolver
from edgevpn.actors.system_resolver import asks_us, recover
from edgevpn.config import NodeConfig
from edgevpn.errors import SetupError
from edgevpn.names.resolv_conf import maker

BEFORE = "nameserver 192.168.1.1\nsearch lan\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_text(BEFORE)
    return etc / "resolv.conf"


def config(tmp_path: Path, way: str = "resolv.conf", **more: object) -> NodeConfig:
    return NodeConfig(run_dir=str(tmp_path / "run"), dns="10.1.0.1:53", dns_system=way, **more)  # type: ignore[arg-type]


def files(path: Path) -> list[str]:
    return sorted(one.name for one in path.parent.iterdir())


def test_while_the_node_runs_its_server_is_asked_and_then_as_before(tmp_path: Path, path: Path) -> None:
    with asks_us(config(tmp_path), path):
        assert path.read_text().splitlines()[1:] == [
            "nameserver 10.1.0.1",
            "nameserver 192.168.1.1",
            "search edgevpn.internal lan",
        ]
        assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text() == BEFORE
    assert files(path) == ["resolv.conf"]


def test_a_link_is_a_link_again(tmp_path: Path, path: Path) -> None:
    target = tmp_path / "stub"
    path.rename(target)
    path.symlink_to("../stub")
    with asks_us(config(tmp_path), path):
        assert not path.is_symlink()
        assert "192.168.1.1" in path.read_text()
    assert os.readlink(path) == "../stub"
    assert target.read_text() == BEFORE


def test_a_node_that_fails_undoes_it_too(tmp_path: Path, path: Path) -> None:
    with pytest.raises(RuntimeError), asks_us(config(tmp_path), path):
        raise RuntimeError
    assert path.read_text() == BEFORE


def test_what_a_killed_node_left_is_undone_by_the_next_one_even_if_it_wants_nothing(tmp_path: Path, path: Path) -> None:
    left = asks_us(config(tmp_path), path)
    left.__enter__()
    assert maker(path.read_text())
    with asks_us(NodeConfig(run_dir=str(tmp_path / "other")), path):
        assert path.read_text() == BEFORE
    assert files(path) == ["resolv.conf"]


def test_what_a_running_node_made_is_not_touched_and_a_second_one_is_refused(tmp_path: Path, path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = os.open(tmp_path / "run" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with asks_us(config(tmp_path), path):
        made = path.read_text()
        recover(path)
        assert path.read_text() == made
        other = NodeConfig(run_dir=str(tmp_path / "other"), dns="10.1.0.2", dns_system="resolv.conf")
        with pytest.raises(SetupError, match="already: use"), asks_us(other, path):
            pass
        assert path.read_text() == made
    os.close(lock)


def test_what_somebody_else_wrote_meanwhile_stays(tmp_path: Path, path: Path) -> None:
    with asks_us(config(tmp_path), path):
        path.write_text("nameserver 9.9.9.9\n")
    assert path.read_text() == "nameserver 9.9.9.9\n"
    assert files(path) == ["resolv.conf"]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A resolvectl that writes down how it is called: the real one would change this machine."""
    log = tmp_path / "calls"
    program = tmp_path / "bin" / "resolvectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{log}\n[ "$3" != refuse.me ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return log


def test_systemd_resolved_is_told_the_vpns_domains_only(tmp_path: Path, path: Path, recorded: Path) -> None:
    with asks_us(config(tmp_path, "resolved", addresses=("10.1.0.1/24",)), path):
        assert recorded.read_text().splitlines() == [
            "dns edgevpn0 10.1.0.1",
            "domain edgevpn0 edgevpn.internal ~0.1.10.in-addr.arpa",
            "default-route edgevpn0 false",
        ]
    assert recorded.read_text().splitlines()[-1] == "revert edgevpn0"
    assert path.read_text() == BEFORE


def test_where_resolvectl_fails_the_user_hears_what_to_do(tmp_path: Path, path: Path, recorded: Path) -> None:
    refused = config(tmp_path, "resolved", dns_domain="refuse.me")
    with pytest.raises(SetupError, match="use --dns-system resolv"), asks_us(refused, path):
        pass


def test_auto_takes_resolved_where_it_runs(
    tmp_path: Path, path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_resolver, "_RESOLVED", tmp_path)
    with asks_us(config(tmp_path, "auto"), path):
        assert path.read_text() == BEFORE
    assert recorded.exists()
    monkeypatch.setattr(system_resolver, "_RESOLVED", tmp_path / "nothing")
    with asks_us(config(tmp_path, "auto"), path):
        assert maker(path.read_text())


def test_a_directory_that_can_not_be_written_is_said_and_nothing_is_left(tmp_path: Path, path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system_resolver, "_write", refuse)
        with pytest.raises(SetupError, match="ReadWritePaths"), asks_us(config(tmp_path), path):
            pass
    assert path.read_text() == BEFORE
    assert files(path) == ["resolv.conf"]
