"""tractor over Unix sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from edgevpn.actors import tractor_sockets
from edgevpn.actors.tractor_mends import tractor
from edgevpn.errors import SetupError


def test_the_directory_is_made_private_and_rid_of_dead_sockets(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True, mode=0o755)
    for name in ("99999999", str(os.getpid()), "notes"):
        (directory / name).touch()
    tractor_sockets.prepare_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {entry.name for entry in directory.iterdir()} == {str(os.getpid()), "notes"}


def test_a_directory_that_can_not_be_made_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="can't prepare"):
        tractor_sockets.prepare_directory(tmp_path / "file" / "below")


def test_removing_a_socket_twice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "7").touch()
    tractor_sockets.remove_socket(tmp_path, 7)
    tractor_sockets.remove_socket(tmp_path, 7)
    assert list(tmp_path.iterdir()) == []


async def test_tractor_can_not_be_talked_into_tcp() -> None:
    for call in (
        tractor._ipc.Channel(("127.0.0.1", 1616)).connect(),
        tractor._actor.trio.serve_tcp(lambda _: None, 0, host="127.0.0.1"),
    ):
        with pytest.raises(RuntimeError, match="no socket's path"):
            await call


async def test_the_root_listens_at_its_pid_and_cleans_up(tmp_path: Path) -> None:
    tractor_sockets.prepare_directory(tmp_path)
    path = tmp_path / str(os.getpid())
    left_by_a_former_process = socket.socket(socket.AF_UNIX)
    left_by_a_former_process.bind(str(path))
    left_by_a_former_process.close()
    async with tractor.open_root_actor(arbiter_addr=(str(tmp_path), os.getpid()), loglevel="critical") as actor:
        assert actor.is_arbiter
        assert actor.accept_addr == (str(tmp_path), os.getpid())
        assert stat.S_ISSOCK(path.stat().st_mode)
        async with await trio.open_unix_socket(str(path)):
            pass
    assert not path.exists()
