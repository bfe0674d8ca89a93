"""Tests with the Go program: they need it, at EDGEVPN_GO_BIN, and a lab, and say so where they are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.labkit.go_nodes import GoVpn
from scripts.labkit.namespaces import Lab, why_not
from scripts.labkit.nodes import EDGEVPN
from tests.interop.table import Table


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    program = os.environ.get("EDGEVPN_GO_BIN", "")
    reason = why_not()
    if not program or shutil.which(program) is None:
        reason = "EDGEVPN_GO_BIN names no Go program EdgeVPN to test with"
    elif not reason and not Path(EDGEVPN).exists():
        reason = "there is no .venv/bin/edgevpn: scripts/test makes it"
    for item in items:
        if reason and "tests/interop" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Labs that go with the test."""
    with ExitStack() as stack:
        yield lambda n=2: stack.enter_context(Lab(n))


@pytest.fixture
def make_table(make_lab: Callable[..., Lab]) -> Iterator[Callable[..., Table]]:
    """Mixed networks that end with the test; their logs are shown when it fails."""
    tables: list[Table] = []

    def make(count: int, token: str = "") -> Table:
        table = Table(make_lab(count), token)
        tables.append(table)
        return table

    yield make
    for node in [node for table in tables for node in table.nodes]:
        kind = "Go" if isinstance(node, GoVpn) else "ours"
        if node.log.exists():
            print(f"--- {kind} in {node.node.netns}\n{node.tail(40)}")
        node.close()
