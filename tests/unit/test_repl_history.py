"""What of the typed lines is kept, and how the file is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgevpn.cli import history
from edgevpn.proto import network_config
from edgevpn.proto.peer_key import PrivateKey


@pytest.mark.parametrize(
    "line",
    [
        "len(state.entries('machines'))",
        "await tap(peer='gossip')",
        "    return some_quite_long_name_of_a_function_here",
        "actor.mailbox.subscriptions_of_something_long",
        "from edgevpn.proto.messages import LedgerRequest",
        f"host.peers()['{PrivateKey(bytes(32)).peer_id}']",
        "1 + 1",
    ],
)
def test_ordinary_lines_are_kept(line: str) -> None:
    assert history.may_keep(line)


@pytest.mark.parametrize("turn", range(20))
def test_lines_with_what_looks_like_a_secret_are_not(turn: int) -> None:
    network = network_config.generate()
    seed = os.urandom(32)
    for secret in (*network.secrets(), seed.hex(), f"{seed!r}", PrivateKey(seed).marshal().hex()):
        assert not history.may_keep(f"x = '{secret}'"), turn


def test_a_key_that_begins_like_a_peer_id_is_not_kept() -> None:
    assert not history.may_keep(f"x = 'Qm{'aB1x' * 10}z'")
    assert history.may_keep(f"x = 'Qm{'aB1x' * 11}'")


@pytest.mark.parametrize("line", ["", "   ", " x = 'between us'"])
def test_empty_lines_and_those_after_a_space_are_not(line: str) -> None:
    assert not history.may_keep(line)


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = history.path({"XDG_STATE_HOME": str(tmp_path)})
    assert file == tmp_path / "edgevpn" / "repl_history"
    assert history.path({"HOME": "/home/one", "XDG_STATE_HOME": "not/absolute"}) == Path(
        "/home/one/.local/state/edgevpn/repl_history"
    )
    assert history.prepare(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o077 == 0
    file.chmod(0o644)
    assert history.prepare(file)
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_files_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert not history.prepare(tmp_path / "link")
