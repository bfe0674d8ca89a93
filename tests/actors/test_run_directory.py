"""The run directory and what the supervisor hands to actors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgevpn.actors import run_directory
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.secret_store import SecretStore
from edgevpn.errors import SetupError, UsageError
from edgevpn.proto.messages import Grant
from edgevpn.sealed_memory import sealed_memfd


def test_the_directory_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "a" / "node"
    with run_directory.hold(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "host.sock").touch()
        (path / "tractor").mkdir()
    assert not path.exists()


def test_a_start_that_fails_leaves_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SetupError), run_directory.hold(tmp_path / "node"):
        raise SetupError("no device")
    assert not (tmp_path / "node").exists()


def test_a_second_node_is_refused_and_the_first_is_left_alone(tmp_path: Path) -> None:
    with run_directory.hold(tmp_path):
        (tmp_path / "host.sock").touch()
        with pytest.raises(SetupError, match=r"running in .* already"), run_directory.hold(tmp_path):
            pass
        assert (tmp_path / "host.sock").exists()


def test_what_a_killed_node_left_is_cleared_but_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "ledger.sock").touch()
    (tmp_path / "notes.txt").touch()
    with run_directory.hold(tmp_path):
        assert not (tmp_path / "ledger.sock").exists()
    assert (tmp_path / "notes.txt").exists()


def test_a_path_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"), run_directory.hold(tmp_path / ("x" * 100)):
        pass


def test_a_path_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="can't use the run directory"), run_directory.hold(tmp_path / "file" / "x"):
        pass


def test_a_ticket_opens_only_what_its_actor_may_have() -> None:
    token = sealed_memfd("token", b"secret")
    store = SecretStore({"token": token})
    sealer, host = store.issue("sealer"), store.issue("host")
    assert store.grant(Grant(sealer, "token"))[1] == [token]
    for ticket, what in ((host, "token"), (sealer, "identity"), ("guess", "token"), (host, "identity")):
        with pytest.raises(RequestError):
            store.grant(Grant(ticket, what))
    os.close(token)


def test_a_ticket_dies_with_the_start_it_was_made_for() -> None:
    token = sealed_memfd("token", b"secret")
    store = SecretStore({"token": token})
    first = store.issue("sealer")
    store.issue("sealer")
    with pytest.raises(RequestError):
        store.grant(Grant(first, "token"))
    os.close(token)


def test_a_secret_memfd_cannot_be_changed() -> None:
    descriptor = sealed_memfd("token", b"secret")
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(descriptor, b"x", 0)
    assert os.pread(descriptor, 10, 0) == b"secret"
    os.close(descriptor)
