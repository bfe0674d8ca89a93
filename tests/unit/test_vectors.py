"""The Go program's answers, checked in, against ours; and the runner that checks any other folder of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vectors import __main__ as runner

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "vectors" / "data"
FILES = sorted(DATA.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_we_agree_with_every_vector_of(path):
    assert [f"{name}: {why}" for name, why in runner.run_file(path) if why is not None] == []


def test_there_are_vectors_for_each_of_our_formats():
    assert {path.stem for path in FILES} >= {"token", "otp", "seal", "message", "rendezvous", "peerguard"}


def spoil(stem, name, **changes):
    """The named case of a checked-in file, with fields changed, judged."""
    cases = json.loads((DATA / f"{stem}.json").read_text())["cases"]
    case = next(case for case in cases if case["name"] == name)
    return runner.judge(runner.CHECKERS[stem], {**case, **changes})


@pytest.mark.parametrize(
    ("stem", "name", "changes"),
    [
        ("otp", "len43-iv60-t0-efdc", {"totp": "x"}),
        ("otp", "len43-iv60-t0-efdc", {"counter": 1}),
        ("otp", "len43-iv60-t0-efdc", {"panics": True}),
        ("otp", "len45-iv360-t1786442400-efdc", {"panics": False}),
        ("token", "generated-day", {"error": True}),
        ("token", "generated-day", {"yaml": "room: x"}),
        ("token", "bad-base64", {"error": False, "fields": {}}),
        ("seal", "text", {"plaintext": "AAAA"}),
        ("seal", "text", {"opens": False}),
        ("seal", "wrong-key", {"opens": True, "plaintext": ""}),
        ("seal", "zeros-1MiB", {"sealed_sha256": "0"}),
        ("message", "machine", {"accepted": False}),
        ("message", "machine", {"block": "{}"}),
        ("message", "machine", {"seal_key": "0" * 32}),
        ("message", "gzip-truncated", {"accepted": True}),
        ("message", "envelope-array", {"accepted": True}),
        ("message", "envelope-lower-case", {"message": "x"}),
        ("rendezvous", "cid-1", {"multihash": "00"}),
        ("rendezvous", "names-1-1-1786442401", {"public_topic": "x"}),
        ("rendezvous", "ring", {"steps": [{"add": "a", "ring": []}]}),
        ("peerguard", "sign-0", {"message": "x"}),
        ("peerguard", "wrong-key", {"valid": True}),
        ("peerguard", "another-text", {"valid": False}),
        ("peerguard", "auth-no-keys", {"accepted": True}),
        ("peerguard", "auth-second-key", {"panics": True}),
        ("peerguard", "sign-0", {"kind": "new"}),
    ],
)
def test_a_spoiled_case_fails(stem, name, changes):
    assert spoil(stem, name, **changes)


def test_a_lenient_case_may_be_refused_but_not_be_answered_wrongly():
    assert spoil("otp", "len45-iv360-t1786442400-efdc", panics=False, lenient=True) is None
    assert spoil("otp", "len1-iv360-t1786442400-efdc", totp="x", lenient=True)


def test_an_exception_of_a_checker_is_a_failed_case(tmp_path, capsys):
    (tmp_path / "otp.json").write_text(json.dumps({"cases": [{"name": "odd"}, {}]}))
    assert runner.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("otp.json: odd: KeyError")
    assert lines[1].startswith("otp.json: #1: KeyError")
    assert lines[-1] == "0 passed, 2 failed"


def test_a_file_of_no_format_is_skipped_aloud(tmp_path, capsys):
    (tmp_path / "recipes.json").write_text("{}")
    assert runner.main([str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == "recipes.json: not a format, skipped\n"
    assert captured.out == "0 passed, 0 failed\n"


def test_a_long_failure_is_shortened():
    assert len(runner.shorten("x\n" * 5000)) < 500


def test_the_runner_is_a_command():
    def run(directory):
        command = [sys.executable, "-m", "tests.vectors", str(directory)]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)

    result = run(DATA)
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")
    assert run("nowhere").returncode == 2
