"""`edgevpn logs`: which lines, in which form, with and without a node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from edgevpn.actors.log_store import LogStore
from edgevpn.cli import main
from edgevpn.cli.logs import parse_since
from edgevpn.errors import UsageError
from edgevpn.proto.log_lines import LogLine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    """The log of a node that was killed: five lines, half a minute apart, the newest of now."""
    store, now = LogStore(tmp_path), time.time()
    for number, (actor, level) in enumerate(
        [("host", "info"), ("ledger", "debug"), ("ledger", "error"), ("supervisor", "warning"), ("ledger", "info")]
    ):
        facts = {"traceback": "Traceback:\n  here\nOops"} if level == "error" else {"number": number}
        store.append(LogLine(now - 30 * (4 - number), level, actor, f"event {number}", facts))
    yield store
    store.close()


def logs(capsys: pytest.CaptureFixture[str], run_dir: Path, *args: str) -> tuple[int, str, str]:
    code = main.main(["logs", f"--run-dir={run_dir}", *args])
    said = capsys.readouterr()
    return code, said.out, said.err


def events(out: str) -> list[int]:
    return [int(row.split("event ")[1].split()[0]) for row in out.splitlines() if "event " in row]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("-n", "2"), [3, 4]),
        (("-n", "0"), []),
        (("ledger",), [1, 2, 4]),
        (("ledger", "-n", "1"), [4]),
        (("--level", "warning"), [2, 3]),
        (("ledger", "--level", "info"), [2, 4]),
        (("--since", "75s"), [2, 3, 4]),
        (("--since", "75s", "-n", "1"), [4]),
    ],
)
def test_only_what_is_asked_for_is_shown_in_its_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: LogStore, args: tuple[str, ...], expected: list[int]
) -> None:
    code, out, err = logs(capsys, tmp_path, *args)
    assert (code, events(out)) == (0, expected)
    assert "no node runs there now" in err
    code, out, _ = logs(capsys, tmp_path, "--json", *args)
    assert [json.loads(row)["event"] for row in out.splitlines()] == [f"event {number}" for number in expected]


def test_people_get_the_traceback_below_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: LogStore
) -> None:
    _, out, _ = logs(capsys, tmp_path, "--level", "error")
    said = datetime.fromisoformat(json.loads(logs(capsys, tmp_path, "--level", "error", "--json")[1])["time"])
    clock = time.strftime("%H:%M:%S", said.astimezone().timetuple())
    assert out == f"{clock} ledger: error: event 2\n    Traceback:\n      here\n    Oops\n"


def test_lines_of_another_day_have_their_date(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    store.append(LogLine(1_700_000_000.0, "info", "host", "long ago"))
    store.close()
    assert time.strftime("%Y-%m-%d ", time.localtime(1_700_000_000)) in logs(capsys, tmp_path)[1]


def test_without_a_log_the_error_says_where_it_looked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = logs(capsys, tmp_path / "none")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert str(tmp_path / "none") in err
    assert "--run-dir" in err


def test_an_actor_that_has_said_nothing_is_told_from_one_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: LogStore
) -> None:
    with socket.socket(socket.AF_UNIX) as supervisor:  # a node runs
        supervisor.bind(os.fspath(tmp_path / "supervisor.sock"))
        supervisor.listen()
        code, out, err = logs(capsys, tmp_path, "gossip")
    assert (code, out) == (0, "")
    assert "nothing from gossip in the log; there is something from host, ledger, supervisor" in err


def test_following_shows_what_comes_and_ends_with_ctrl_c(tmp_path: Path, store: LogStore) -> None:
    words = ["logs", f"--run-dir={tmp_path}", "-n", "1", "--follow", "ledger"]
    code = f"import sys; from edgevpn.cli.main import main; sys.exit(main({words!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert b"event 4" in process.stdout.readline()
            store.append(LogLine(time.time(), "info", "host", "not for us"))
            store.append(LogLine(time.time(), "info", "ledger", "event 5"))
            assert b"event 5" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=10)
            assert (rest, process.returncode) == (b"", 0)
            assert b"Traceback" not in err
        finally:
            process.kill()


def test_since_understands_durations_clocks_and_dates() -> None:
    noon = datetime(2025, 1, 31, 12, 0, 0).timestamp()
    assert parse_since("10m", noon) == noon - 600
    assert parse_since("1h30m", noon) == noon - 5400
    assert parse_since("11:30", noon) == noon - 1800
    assert parse_since("11:30:30", noon) == noon - 1770
    assert parse_since("12:30", noon) == datetime(2025, 1, 30, 12, 30).timestamp()  # the last such
    assert parse_since("2025-01-31T09:00", noon) == noon - 3 * 3600
    assert parse_since("2025-01-31", noon) == noon - 12 * 3600
    assert parse_since("2025-01-31T12:00+00:00", noon) == 1738324800


@pytest.mark.parametrize("text", ["yesterday", "25:00", "2025-13-01", "-", ":", "9" * 30 + "-1-1"])
def test_since_refuses_what_it_does_not_understand(text: str) -> None:
    with pytest.raises(UsageError, match="10m, 1h30m, 14:05"):
        parse_since(text, time.time())
