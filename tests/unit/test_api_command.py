"""From flags to a node with the API: configuration, stages of the template, and what the supervisor opens for it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from edgevpn.actors.api_listener import open_api
from edgevpn.actors.api_source import rates_between, with_datagrams
from edgevpn.actors.secret_store import MAY_HAVE
from edgevpn.actors.stages import NEEDS, STAGES, stages_for
from edgevpn.cli import flags, launch, node_commands
from edgevpn.config import NodeConfig
from edgevpn.errors import SetupError, UsageError
from edgevpn.proto.messages import PathState, PeerState, Route, Traffic
from edgevpn.proto.peer_rows import peer_rows
from edgevpn.web.source import DATAGRAMS, Rates


def config(*args: str, command: str = "") -> NodeConfig:
    table = node_commands.NODE_COMMANDS[command].table if command else flags.ROOT
    settings = flags.settle(table, flags.parse(args, table)[0], {})
    fields = node_commands.api(settings, ()).fields if command else {}
    return launch.node_config(settings, vpn=not command, run_dir="/r", purpose=fields)[0]


def test_the_api_is_off_unless_asked_for() -> None:
    assert config().api == ""
    assert "api" not in config().actors()
    assert config("--api").api == "127.0.0.1:8080"
    assert config("--api", "--api-listen=unix:///a.sock").actors()[-1] == "api"


def test_edgevpn_api_serves_it_and_tells_it_is_alive_only_if_asked() -> None:
    found = config("--listen=:80", "--api-host=a.example", command="api")
    assert (found.api, found.vpn, found.heartbeats, found.api_hosts) == (":80", False, False, ("a.example",))
    assert config("--enable-healthchecks", command="api").heartbeats
    assert config().heartbeats


@pytest.mark.parametrize(
    "args",
    [("--api-listen=x",), ("--api-auth=none",), ("--api-listen=:1", "--api-auth=off"), ("--api-host=http://x",)],
)
def test_a_wrong_api_flag_is_wrong_usage(args: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        config("--api", *args)


def test_only_nodes_with_the_api_import_what_it_needs() -> None:
    assert stages_for(["sealer", "tun"]) == STAGES
    assert NEEDS["api"] not in dict(STAGES)
    assert dict(stages_for(["api", "tun"]))[NEEDS["api"]] == ("edgevpn.actors.api",)


def opened(listen: str, directory: Path, auth: str = "token") -> NodeConfig:
    return NodeConfig(run_dir=str(directory), api=listen, api_auth=auth)


def test_the_supervisor_opens_the_socket_and_a_new_token_each_time(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(3):
        with open_api(opened("127.0.0.1:0", tmp_path), tmp_path) as descriptors:
            assert set(descriptors) == {"api-listener", "api-token"} <= set(MAY_HAVE)
            token = os.pread(descriptors["api-token"], 1000, 0).decode()
            assert (tmp_path / "api-token").read_text() == token + "\n"
            assert stat.S_IMODE((tmp_path / "api-token").stat().st_mode) == 0o600
            assert len(token) >= 43
            tokens.add(token)
            with socket.socket(fileno=os.dup(descriptors["api-listener"])) as listener:
                socket.create_connection(listener.getsockname()).close()
    assert len(tokens) == 3


def test_without_authentication_there_is_no_token(tmp_path: Path) -> None:
    with open_api(opened("127.0.0.1:0", tmp_path, "off"), tmp_path) as descriptors:
        assert set(descriptors) == {"api-listener"}
    assert list(tmp_path.iterdir()) == []


def test_a_unix_socket_is_ours_alone_replaces_a_dead_one_and_goes_with_the_node(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    for _ in range(2):
        with open_api(opened(f"unix://{path}", tmp_path), tmp_path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            with (
                pytest.raises(SetupError, match="somebody listens there"),
                open_api(opened(f"unix://{path}", tmp_path), tmp_path),
            ):
                pass
        assert not path.exists()
    path.write_text("a file of somebody's")
    with pytest.raises(SetupError, match="no socket"), open_api(opened(f"unix://{path}", tmp_path), tmp_path):
        pass
    assert path.read_text() == "a file of somebody's"


# --- what is made of what the actors tell


def path(peer: str, received: int, sent: int, kind: str = "datagram") -> PathState:
    return PathState(peer, kind, 1, sent, 1, received, 0, "192.0.2.1:9", 0.002, "")


def test_datagrams_are_counted_beside_streams_and_streams_once() -> None:
    host = Traffic([1000, 500], {"/meshsub/1.2.0": [900, 400], "/edgevpn/0.1": [100, 100]}, {"a": [1000, 500]})
    found = with_datagrams(host, {"a": path("a", 5100, 100)})
    assert found.by_protocol[DATAGRAMS] == [5000, 0]
    assert found.total == [6000, 500]
    assert found.by_peer == {"a": [6100, 600]}
    assert host.by_peer == {"a": [1000, 500]}
    streams = with_datagrams(host, {"a": path("a", 100, 100, "edgevpn-stream")})
    assert (streams.total, DATAGRAMS in streams.by_protocol) == ([1000, 500], False)


def test_rates_are_growth_and_never_negative() -> None:
    before, now = Traffic([0, 100], {"p": [0, 9]}, {}), Traffic([50, 0], {"p": [10, 9], "q": [1, 1]}, {"a": [1, 1]})
    total, by_protocol, by_peer = rates_between(before, now, 2.0)
    assert total == Rates(25.0, 0.0)
    assert by_protocol == {"p": Rates(5.0, 0.0), "q": Rates(0.0, 0.0)}
    assert by_peer == {"a": Rates(0.0, 0.0)}
    assert rates_between(before, now, 0.0)[0] == Rates(0.0, 0.0)


def test_members_stand_first_and_by_their_address() -> None:
    state = PeerState(["/ip4/192.0.2.1/tcp/1"], [], [], "go", "inbound", 10.4, 0.0)
    rows = peer_rows(
        {"c": state, "b": state, "a": state},
        {"b", "c"},
        {"10.1.0.2": Route("c", "host-c"), "10.1.0.3": Route("b", "host-b")},
        {"c": path("c", 1, 1)},
    )
    assert [(row["peer_id"], row["member"], row["hostname"], row["path"]) for row in rows] == [
        ("c", True, "host-c", "datagram"),
        ("b", True, "host-b", "none"),
        ("a", False, "", "none"),
    ]
