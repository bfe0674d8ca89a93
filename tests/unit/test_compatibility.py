"""docs/compatibility.md has a row for each flag, command and route, each row names tests that exist; and flags arrive.

What a flag does is shown by the tests that the table names; that it gets as far as the node, by the last ones here.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgevpn.cli import flags, launch, tunnel_commands
from edgevpn.cli.commands import ALIASES, COMMANDS
from edgevpn.cli.flags import COMMON, HELP, ROOT, VERSION, Flag
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.web import go_routes

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "compatibility.md"
GO_COMMANDS = {"api", "dns", "file-receive", "file-send", "help", "peergater", "proxy", "start"}
GO_COMMANDS |= {"service-add", "service-connect"}
RELAY = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWMbbPVGsZYh3ChQjue712NHHGNybRRXwnuSpezYjGbCDS"
_REFERENCE = re.compile(r"`([\w/]+\.py)::(\w+)(?:\[\w+\])?`")


class Row(NamedTuple):
    what: str
    here: str
    shown_by: str


def rows_of(text: str) -> list[Row]:
    """The rows of all tables without their heads."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    rows = [Row(*(cell.strip("| ") for cell in row)) for row in cells if not row[0].startswith("---")]
    return [row for row in rows if row.shown_by != "shown by"]


@cache
def names_in(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def without_test(rows: list[Row]) -> list[str]:
    """Rows that name no test, or one that is not there."""
    bad = []
    for row in rows:
        named = _REFERENCE.findall(row.shown_by)
        if not named or any(not name.startswith("test_") or name not in names_in(TESTS / path) for path, name in named):
            bad.append(row.what)
    return bad


def words_of(rows: list[Row]) -> set[str]:
    """What the first cells have between backticks, and each word of it alone."""
    spans = [span for row in rows for span in re.findall(r"`([^`]+)`", row.what)]
    return {word for span in spans for word in (span, *span.split())}


def without_row(rows: list[Row], table: tuple[Flag, ...]) -> list[str]:
    return [flag.dashed for flag in table if flag.dashed not in words_of(rows)]


ROWS = rows_of(PAGE.read_text())


def test_every_row_names_a_test_that_is_there() -> None:
    assert len(ROWS) > 120
    assert without_test(ROWS) == []


def test_every_mend_of_the_base_names_a_test_and_a_module_that_are_there() -> None:
    rows = [row for row in rows_of((PAGE.parent / "base.md").read_text()) if row.what != "in py-libp2p"]
    assert len(rows) > 40
    assert without_test(rows) == []
    package = TESTS.parent / "edgevpn"
    modules = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row.here)}
    assert [name for name in modules if not (package / name).is_file()] == []


def test_a_row_without_a_test_or_with_one_that_is_gone_is_found() -> None:
    good = ROWS[0].shown_by
    rows = [
        Row("right", "", good),
        Row("none", "", ""),
        Row("gone", "", "`unit/test_flags.py::test_that_never_was`"),
        Row("no file", "", "`unit/test_never.py::test_x`"),
        Row("one of two", "", f"{good}, `unit/test_flags.py::test_that_never_was`"),
        Row("no test", "", "`unit/test_flags.py::read`"),
    ]
    assert without_test(rows) == ["none", "gone", "no file", "one of two", "no test"]


def test_every_flag_has_a_row() -> None:
    tables = [flag for command in NODE_COMMANDS.values() for flag in command.flags]
    assert without_row(ROWS, (*ROOT, HELP, VERSION, *tables)) == []
    fewer = [row for row in ROWS if row.what != "`--egress-announce-time`"]
    assert without_row(fewer, ROOT) == ["--egress-announce-time"]


def test_a_flag_without_effect_is_said_to_have_none_and_why_and_no_other_is() -> None:
    said = {row.what: row.here for row in ROWS if row.here.startswith("nothing yet")}
    assert said == {f"`{flag.dashed}`": f"nothing yet: {flag.nothing_yet}" for flag in ROOT if flag.nothing_yet}


def test_every_command_and_route_has_a_row() -> None:
    words = words_of(ROWS)
    assert {*COMMANDS, *NODE_COMMANDS, *ALIASES, *GO_COMMANDS} - words == set()
    for operation in go_routes.OPERATIONS:
        path = re.sub(r"\{(\w+)(:rest)?\}", r":\1", operation.path)
        assert f"{operation.method} {path}" in words


# --- flags arrive


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--timeout=3s", "timeout", 3.0),
        ("--mtu=1300", "mtu", 1300),
        ("--bootstrap-iface=false", "bootstrap_iface", False),
        ("--discovery-interval=60", "discovery_interval", 60.0),
        ("--ledger-announce-interval=7", "ledger_announce_interval", 7.0),
        ("--ledger-synchronization-interval=8", "ledger_sync_interval", 8.0),
        ("--max-connections=50", "max_connections", 50),
        ("--max-connections=-1", "max_connections", 0),
        ("--connection-high-water=96", "connection_high_water", 96),
        ("--mdns=false", "mdns", False),
        ("--dht=false", "dht", False),
        ("--aliveness-healthcheck-interval=30", "heartbeat_interval", 30.0),
        ("--aliveness-healthcheck-scrub-interval=31", "scrub_interval", 31.0),
        ("--aliveness-healthcheck-max-interval=32", "max_heartbeat_age", 32.0),
        ("--log-level=WARN", "log_level", "warn"),
        ("--peergate-autoclean", "peergate_autoclean", True),
        ("--peergate-interval=9", "peergate_interval", 9.0),
        ("--ownership-ttl=100", "ownership_ttl", 100.0),
        ("--autorelay=false", "autorelay", False),
        ("--autorelay-discovery-interval=1m", "autorelay_interval", 60.0),
        ("--autorelay-static-only", "autorelay_static_only", True),
        (f"--autorelay-static-peer={RELAY}", "static_relays", (RELAY,)),
        ("--holepunch=false", "holepunch", False),
        ("--relay-service=false", "relay_service", False),
        ("--relay-service-network-only=false", "relay_network_only", False),
        ("--relay-service-acl-refresh=5s", "relay_acl_refresh", 5.0),
        ("--relay-service-max-data=1000", "relay_max_data", 1000),
        ("--relay-service-max-duration=1m", "relay_max_duration", 60.0),
        ("--relay-service-max-circuits=3", "relay_max_circuits", 3),
        ("--relay-service-reservation-ttl=10m", "relay_reservation_ttl", 600.0),
        ("--relay-service-buffer-size=4096", "relay_buffer_size", 4096),
        ("--router=10.1.0.9", "router", "10.1.0.9"),
        ("--datagram-port=4711", "datagram_port", 4711),
        ("--dns-cache-size=5", "dns_cache_size", 5),
        ("--dns-forward-server=9.9.9.9", "dns_forward_servers", ("9.9.9.9",)),
    ],
)
def test_a_flag_is_what_the_node_is_told(flag: str, field: str, value: Any) -> None:
    args = [flag, "--peerguard", "--dns=10.1.0.1:53"]
    given, _ = flags.parse(args, ROOT)
    config, _ = launch.node_config(flags.settle(ROOT, given, {}), vpn=True, run_dir="/x")
    assert getattr(config, field) == value
    name = flag.lstrip("-").partition("=")[0]
    if name in {flag.name for flag in COMMON} and name not in ("mtu",):
        given, _ = flags.parse([flag, "--peerguard"], COMMON)
        config, _ = launch.node_config(flags.settle(COMMON, given, {}), vpn=False, run_dir="/x")
        assert getattr(config, field) == value


def test_a_flag_of_the_root_is_what_the_node_is_told() -> None:
    given, _ = flags.parse(["--egress", "--egress-announce-time=30", "--egress-allow=10.0.0.0/8"], ROOT)
    fields = tunnel_commands.root_fields(flags.settle(ROOT, given, {}))
    assert (fields["egress"], fields["egress_announce_interval"]) == (True, 30.0)
    assert fields["egress_allow"] == ("10.0.0.0/8",)
