"""Labs for tests: they need root, and say so where they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from scripts.labkit.namespaces import Lab, why_not
from scripts.labkit.nodes import EDGEVPN, Vpn


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    if not reason and (shutil.which("ip") is None or shutil.which("ping") is None):
        reason = "there is no ip or no ping: scripts/test installs them"
    if not reason and not Path(EDGEVPN).exists():
        reason = "there is no .venv/bin/edgevpn: scripts/test makes it"
    for item in items:
        if reason and "tests/netns" in str(item.path):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """Labs that go with the test."""
    with ExitStack() as stack:

        def make(n: int = 2, **options: float) -> Lab:
            return stack.enter_context(Lab(n, **options))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def start() -> Iterator[Callable[..., Vpn]]:
    """Nodes that end with the test; their logs are shown when it fails."""
    nodes: list[Vpn] = []

    def make(*args: object, **more: object) -> Vpn:
        vpn = Vpn(*args, **more)  # type: ignore[arg-type]
        nodes.append(vpn)
        return vpn

    yield make
    for vpn in nodes:
        if vpn.log.exists():
            print(f"--- {vpn.node.netns}\n{vpn.tail(40)}")
        vpn.close()
