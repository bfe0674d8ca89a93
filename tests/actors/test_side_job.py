"""Side jobs: what one leaves behind is its outcome, and nothing else.

Each test runs in a process of its own: here, where other tests were, there may still be an idle thread of theirs.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgevpn.actors.side_job import SideJob
from edgevpn.errors import SetupError, UsageError


def alone(test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**given: Any) -> None:
        values = ", ".join(f"{name}={_source(value)}" for name, value in given.items())
        code = (
            "from pathlib import Path; from edgevpn.errors import *; from tests.actors import test_side_job; "
            f"test_side_job.{test.__name__}.__wrapped__({values})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


def _source(value: object) -> str:
    return value.__name__ if isinstance(value, type) else f"Path({os.fspath(value)!r})"  # type: ignore[call-overload]


def write(path: Path) -> None:
    path.write_text(str(os.getpid()))


def fail(error: BaseException) -> None:
    raise error


def import_something() -> None:
    import colorsys  # noqa: F401


def wait_for_ever() -> None:
    signal.pause()


def children() -> list[int]:
    text = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    return [int(pid) for pid in text.split()]


@alone
def test_a_side_job_is_done_by_another_process(tmp_path: Path) -> None:
    side_job = SideJob(write, tmp_path / "done")
    side_job.finish()
    assert int((tmp_path / "done").read_text()) != os.getpid()
    assert children() == []


@alone
def test_what_a_side_job_imports_does_not_stay() -> None:
    sys.modules.pop("colorsys", None)
    SideJob(import_something).finish()
    assert "colorsys" not in sys.modules


@pytest.mark.parametrize("kind", [SetupError, UsageError])
@alone
def test_what_a_person_must_mend_comes_back_as_it_was_raised(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^there is no such device$"):
        SideJob(fail, kind("there is no such device")).finish()


@alone
def test_any_other_failure_comes_back_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in fail.*ZeroDivisionError: of ours$"):
        SideJob(fail, ZeroDivisionError("of ours")).finish()


@alone
def test_a_side_job_whose_process_is_killed_has_failed() -> None:
    side_job = SideJob(wait_for_ever)
    os.kill(children()[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with status -9"):
        side_job.finish()


@alone
def test_an_abandoned_side_job_leaves_no_process_and_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    side_job = SideJob(wait_for_ever)
    side_job.abandon()
    side_job.abandon()
    side_job.finish()
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) == before
