"""A network that falls into two, writes on both sides and is joined again: nothing is lost, nothing deleted is back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import pytest

from scripts.labkit import spread
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.traffic import wait_for
from tests.netns.marks import long

MakeLab = Callable[..., Lab]

SPLIT = float(os.environ.get("SPLIT_SECONDS", "60"))
TIMES = int(os.environ.get("SPLIT_TIMES", "2"))
EQUAL = 10.0  # s after it is joined again

pytestmark = pytest.mark.timeout(90 + TIMES * (SPLIT + 30))


def names(vpn: Vpn) -> dict[str, object]:
    return {name: entry["value"] for name, entry in vpn.json("ledger", "dns").items()}


@long
def test_two_halves_that_wrote_for_a_minute_are_one_within_10_s_with_all_that_either_wrote(make_lab: MakeLab) -> None:
    """SPLIT_TIMES=20 for as many."""
    lab = make_lab(4)
    nodes = spread.up(lab, 4, new_token())
    kept: dict[str, str] = {}
    took = []
    try:
        for number in range(TIMES):
            old = [f"old{number}-{k}.lan." for k in range(len(nodes))]
            for vpn, name in zip(nodes, old, strict=True):
                vpn.ask("dns-add", name, "A", "10.1.0.8")
            wait_for(lambda old=old: all(set(old) <= set(names(vpn)) for vpn in nodes), 10, what="the names")
            lab.split((3, 4))
            end = time.monotonic() + SPLIT
            time.sleep(SPLIT / 2)
            kept.update(write(nodes, number))
            for vpn, name in zip(nodes, old, strict=True):
                vpn.ask("dns-remove", name)
            wait_for(lambda: apart(nodes), max(end - time.monotonic(), 1.0), 0.5, what="the loss of the other half")
            time.sleep(max(0.0, end - time.monotonic()))
            assert not apart_knows(nodes, number)
            lab.heal()
            began = time.monotonic()
            wait_for(lambda: all(set(names(vpn)) == set(kept) for vpn in nodes), EQUAL, 0.1, "equal ledgers")
            took.append(time.monotonic() - began)
            time.sleep(3)
            assert all(set(names(vpn)) == set(kept) for vpn in nodes), "something came back"
            assert all(len(vpn.json("ledger", "machines")) == len(nodes) for vpn in nodes)
            assert all(kept[name] in str(value) for vpn in nodes for name, value in names(vpn).items())
    finally:
        print("equal after", [round(one, 1) for one in took], "s")
        for vpn in nodes:
            vpn.close()


def write(nodes: Sequence[Vpn], number: int) -> dict[str, str]:
    """Each writes a name of its own."""
    found = {}
    for k, vpn in enumerate(nodes):
        found[f"new{number}-{k}.lan."] = f"10.1.0.{k + 1}"
        vpn.ask("dns-add", f"new{number}-{k}.lan.", "A", f"10.1.0.{k + 1}")
    return found


def apart(nodes: Sequence[Vpn]) -> bool:
    return all(len(vpn.json("peers")) == 1 for vpn in nodes)


def apart_knows(nodes: Sequence[Vpn], number: int) -> bool:
    """Whether one half has heard of what the other wrote: then it was no split."""
    return f"new{number}-3.lan." in names(nodes[0]) or f"new{number}-0.lan." in names(nodes[3])
