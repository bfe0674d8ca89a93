"""What doctor makes of what it found."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgevpn.cli import doctor, netcheck
from edgevpn.cli.checks import FAIL, OK, SKIP, WARN
from edgevpn.cli.net_probe import Udp, split_host
from edgevpn.errors import UsageError
from edgevpn.proto.network_config import generate

NOW = 1_800_000_000.0
ADMIN, BIND = 1 << 12, 1 << 10


@pytest.mark.parametrize(
    ("now", "synchronised", "skew", "state"),
    [
        (NOW, True, None, OK),
        (NOW, None, 3.0, OK),
        (NOW, False, None, WARN),
        (NOW, True, 3600.0, FAIL),
        (NOW, True, -3600.0, OK),
        (86400.0, True, None, FAIL),
    ],
)
def test_the_clock(now: float, synchronised: bool | None, skew: float | None, state: str) -> None:
    check = doctor.clock_check(now, synchronised, skew)
    assert check.state == state
    assert bool(check.do) == (state != OK)


@pytest.mark.parametrize("way", ["behind", "ahead of"])
def test_what_the_node_says_of_the_clock_is_told(way: str) -> None:
    text = f"this machine's clock is 13 s {way} the other nodes: is NTP running?"
    check = doctor.clock_check(NOW, True, 0.0, text)
    assert (check.state, check.found) == (WARN, text)
    assert "NTP" in check.do
    assert doctor.clock_check(NOW, True, 3600.0, text).state == FAIL


@pytest.mark.parametrize(
    ("capabilities", "tun", "states"),
    [
        (ADMIN | BIND, "", [OK]),
        (ADMIN | BIND, "No such file", [FAIL]),
        (BIND, "", [FAIL]),
        (ADMIN, "", [OK, WARN]),
        (0, "Permission denied", [FAIL, WARN]),
    ],
)
def test_rights(capabilities: int, tun: str, states: list[str]) -> None:
    checks = doctor.rights_checks(capabilities, tun)
    assert [check.state for check in checks] == states
    assert all(check.do for check in checks if check.state != OK)


@pytest.mark.parametrize(
    ("why_not", "several", "state"), [("", True, OK), ("refused", True, WARN), ("only one", False, OK)]
)
def test_who_may_not_have_real_time_is_told_why_and_what_to_do(why_not: str, several: bool, state: str) -> None:
    check = doctor.priority_check(why_not, several=several)
    assert check.state == state
    assert check.found.endswith(why_not)
    assert bool(check.do) == (state == WARN)


def test_a_token_is_good_readable_by_others_wrong_or_not_given(tmp_path: Path) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(generate(360).to_yaml())
    path.chmod(0o600)
    assert doctor.token_check(str(path), {}, is_running=False).state == OK
    path.chmod(0o644)
    check = doctor.token_check(str(path), {}, is_running=False)
    assert (check.state, check.do) == (WARN, f"chmod 600 {path}")
    token = generate(360).to_token()
    assert doctor.token_check("", {"EDGEVPNTOKEN": token}, is_running=False).state == OK
    wrong = doctor.token_check("", {"EDGEVPNTOKEN": token[:40]}, is_running=False)
    assert wrong.state == FAIL
    assert token[:40] not in wrong.found + wrong.do
    assert doctor.token_check("", {}, is_running=False).state == SKIP
    assert doctor.token_check("", {}, is_running=True).state == OK


def test_a_port_that_is_taken_is_told_with_its_protocol() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        [check] = doctor.port_checks((port,), is_running=False)
        assert check.state == FAIL
        assert "UDP" in check.found
        assert "TCP" not in check.found
        assert doctor.port_checks((port,), is_running=True)[0].state == OK
    assert [check.state for check in doctor.port_checks((), is_running=False)] == [OK]


@pytest.mark.parametrize(
    ("resolvers", "made_by", "running", "state"),
    [
        ({"1.1.1.1": 5.0}, "", False, OK),
        ({"1.1.1.1": 5.0, "2.2.2.2": None}, "", False, WARN),
        ({"1.1.1.1": None}, "", False, WARN),
        ({}, "", False, WARN),
        ({"10.1.0.1": None, "1.1.1.1": 5.0}, "/run/edgevpn/edgevpn0", False, FAIL),
        ({"10.1.0.1": 2.0, "1.1.1.1": 5.0}, "/run/edgevpn/edgevpn0", True, OK),
    ],
)
def test_the_resolver(resolvers: dict[str, float | None], made_by: str, running: bool, state: str) -> None:
    assert doctor.resolver_check(resolvers, made_by, is_ours_running=running).state == state


@pytest.mark.parametrize(
    ("outer", "inner", "state"),
    [(1500, 1200, OK), (1486, 1420, OK), (1485, 1420, WARN), (1265, 1200, WARN), (None, 1200, SKIP)],
)
def test_the_mtu(outer: int | None, inner: int, state: str) -> None:
    assert doctor.mtu_check(outer, inner).state == state


def test_udp_and_nat_are_told_by_family() -> None:
    four = Udp("IPv4", local="192.0.2.9", asked=["a", "b"], seen={"a": ("198.51.100.1", 7), "b": ("198.51.100.1", 7)})
    six = Udp("IPv6")
    checks = netcheck.nat_checks([four, six], asked=True)
    assert [(check.name, check.state) for check in checks] == [("UDP IPv4", OK), ("UDP IPv6", SKIP)]
    assert "198.51.100.1:7" in checks[0].found
    four.seen["b"] = ("198.51.100.1", 8)
    assert netcheck.nat_checks([four], asked=True)[0].state == WARN
    four.seen.clear()
    assert "no UDP answer" in netcheck.nat_checks([four], asked=True)[0].found
    assert netcheck.nat_checks([four], asked=False)[0].state == SKIP


def test_a_peer_by_stream_is_told_with_its_reason() -> None:
    peer = {"direction": "outbound", "remotes": [], "path": "stream", "why": "no datagrams: blocked"}
    facts = {"state": "up", "waiting_for": "", "members": ["A"], "peers": {"A": peer}}
    [check] = netcheck.peer_checks(facts)
    assert (check.state, "no datagrams: blocked" in check.found) == (WARN, True)
    assert netcheck.peer_checks(None)[0].state == SKIP
    waiting = {"state": "joining", "waiting_for": "a node", "members": [], "peers": {}}
    assert netcheck.peer_checks(waiting)[0].do == "a node"


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:x", "host:99999"])
def test_a_stun_server_has_a_host_and_a_port(text: str) -> None:
    with pytest.raises(UsageError):
        split_host(text)
