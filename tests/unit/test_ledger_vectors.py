"""The checkers of the ledger's vectors notice what is wrong: cases of the files, with something changed."""

import json
from pathlib import Path

import pytest

from tests.vectors import __main__ as runner

DATA = Path(__file__).parent.parent / "vectors" / "data"


def cases(stem):
    return {case["name"]: case for case in json.loads((DATA / f"{stem}.json").read_text())["cases"]}


@pytest.mark.parametrize(
    ("stem", "name", "changes"),
    [
        ("block", "mixed", {"hash": "0" * 64}),
        ("block", "mixed", {"hash_after_reading": "0" * 64}),
        ("block", "mixed", {"hash_input": "AAAA"}),
        ("block", "next-0", {"timestamp": "t"}),
        ("block", "next-0", {"storage": "{}"}),
        ("block", "read-escapes", {"json": "{}"}),
        ("block", "read-escapes", {"error": True}),
        ("block", "read-true-entry", {"error": False, "json": "null"}),
        ("sign", "machine", {"valid": False}),
        ("sign", "machine", {"canonical": "00"}),
        ("sign", "machine", {"owner": "12D3KooWBSCa9hvh5UwHXdkGLJAzQEoyzKvRQos3iBDgDSXsS3eL"}),
        ("sign", "tampered-value", {"valid": True}),
        ("merge", "update-enforce", {"mode": "off"}),
        ("merge", "rollback-enforce", {"mode": "observe"}),
        ("merge", "heartbeat-age-ttl-enforce", {"ttl": 481}),
        ("merge", "json-number-entry-enforce", {"incoming": "{}"}),
        ("merge", "higher-index-off", {"mode": "enforce"}),
        ("reap", "dead-owner", {"mode": "off"}),
        ("reap", "dead-owner", {"now": 1780315201}),
        ("reap", "tombstone-age-equal", {"tombstone_ttl": 1}),
        ("leader", "random-7", {"leader": "x"}),
        ("leader", "random-7", {"fnv1a32": []}),
        ("dhcp", "gap", {"next": "10.1.0.2"}),
    ],
)
def test_a_case_that_is_wrong_fails(stem, name, changes):
    case = cases(stem)[name]
    check = runner.CHECKERS[stem]
    assert runner.judge(check, case) is None
    assert runner.judge(check, case | changes) is not None


@pytest.mark.parametrize("name", ["rollback-enforce", "bad-signature-enforce", "value-owner-mismatch-enforce"])
def test_a_violation_must_be_of_the_right_entry_and_reason(name):
    case = cases("merge")[name]
    violation = case["expect"]["violations"][0]
    for wrong in ([], [violation | {"key": "x"}], [violation | {"reason": "stale tombstone"}]):
        assert runner.judge(runner.CHECKERS["merge"], case | {"expect": case["expect"] | {"violations": wrong}})
