"""`python -m tests.vectors DIR`: check every vector file (*.json) in DIR.

A vector file is {"source": ..., "about": ..., "cases": [...]}; its stem says which format it is of and so which
checker judges its cases. A checker takes a case and returns None, or in one line what was expected and what came.
Failing cases are printed; the last line is "N passed, M failed"; the exit code is 1 if any failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.vectors import cases_api, cases_ledger, cases_proto

Case = dict[str, Any]
Checker = Callable[[Case], str | None]

CHECKERS: dict[str, Checker] = {**cases_proto.CHECKERS, **cases_ledger.CHECKERS, **cases_api.CHECKERS}
_SHOWN = 400  # characters of a failure


def judge(check: Checker, case: Case) -> str | None:
    """Why `case` fails, None if it passes. An exception that the checker did not expect is a failure too."""
    try:
        return check(case)
    except Exception as error:  # noqa: BLE001  one broken case must not hide the others
        return f"{type(error).__name__}: {error}"


def shorten(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN else f"{one_line[:_SHOWN]}... ({len(one_line)} characters)"


def run_file(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each case's name, and why it fails or None."""
    check = CHECKERS[path.stem]
    for number, case in enumerate(json.loads(path.read_text(encoding="utf-8"))["cases"]):
        yield str(case.get("name", f"#{number}")), judge(check, case)


def run(directory: Path) -> tuple[int, int]:
    """Run all files of a directory, print the failures; how many cases passed and failed."""
    passed = failed = 0
    for path in sorted(directory.glob("*.json")):
        if path.stem not in CHECKERS:
            print(f"{path.name}: not a format, skipped", file=sys.stderr)
            continue
        for name, why in run_file(path):
            if why is None:
                passed += 1
            else:
                failed += 1
                print(f"{path.name}: {name}: {shorten(why)}")
    return passed, failed


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m tests.vectors DIR", file=sys.stderr)
        return 2
    passed, failed = run(Path(arguments[0]))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
