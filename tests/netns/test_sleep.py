"""Time that goes on without a node: its machine sleeps, its processes are stopped, its clock is set, its link is cut.

Each time it must be back within 15 s, and nobody who lives may be taken for dead: no tombstone, no lost route.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scripts.labkit import traffic
from scripts.labkit.clocks import LabClock
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.processes import children_of
from scripts.labkit.traffic import wait_for
from tests.netns.marks import long

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]

EIGHT_HOURS = 8 * 3600.0
BACK = 15.0  # s
EVERYBODY = {"10.1.0.1", "10.1.0.2", "10.1.0.3"}
HEARTBEAT = "--aliveness-healthcheck-interval=12"  # each leads to a clean-up, if one is due: every 6 to 18 s
LEASE = 4 * 12.0  # s
STOPPED = float(os.environ.get("STOPPED_SECONDS", "35"))  # longer than connections live without a word

pytestmark = pytest.mark.timeout(180 + STOPPED)

# Run in a ledger actor: has any machine been deleted, or lost its route, since this was first run?
_WATCH = """
import builtins
if not hasattr(builtins, "evg_gone"):
    builtins.evg_gone = []
    _show = ledger.views.show
    def show():
        _show()
        machines = state.storage.get("machines", {})
        dead = sorted(key for key, entry in machines.items() if entry.deleted)
        routes = set(ledger.views._routes.items)
        if dead or not routes >= set(EVERYBODY):
            builtins.evg_gone.append((dead, sorted(routes)))
    ledger.views.show = show
print(builtins.evg_gone)
"""


def three(lab: Lab, start: MakeNode, clocks: Sequence[LabClock]) -> list[Vpn]:
    token = new_token()
    nodes = [
        start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false", HEARTBEAT, env=clock.environment)
        for k, clock in enumerate(clocks, 1)
    ]
    for vpn in nodes:
        vpn.wait_for_state("up", 20)
        wait_for(lambda vpn=vpn: set(vpn.json("ledger", "machines")) == EVERYBODY, 20, what="the whole ledger")
        assert gone(vpn) == "[]"
    return nodes


def gone(vpn: Vpn) -> str:
    done = vpn.ask("repl", "ledger", "-c", f"EVERYBODY = {EVERYBODY}\n" + _WATCH)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def all_answer(nodes: Sequence[Vpn], within: float = BACK, also: Sequence[str] = ()) -> float:
    """Until each has an answer from each, and all know what each writes now, and `also` what was written; seconds."""
    began = time.monotonic()
    for vpn in nodes:
        for k in range(1, len(nodes) + 1):
            if nodes[k - 1] is not vpn:
                left = within - (time.monotonic() - began)
                traffic.first_answer(vpn.node, f"10.1.0.{k}", "edgevpn0", max(left, 0.1))
    names = [f"n{number}.lan." for number in range(len(nodes))]
    for name, vpn in zip(names, nodes, strict=True):
        vpn.ask("dns-add", name, "A", "10.1.0.9")
    names += also
    for vpn in nodes:
        left = within - (time.monotonic() - began)
        wait_for(lambda vpn=vpn: set(vpn.json("ledger", "dns")) == set(names), max(left, 0.1), what="what each wrote")
    took = time.monotonic() - began
    print(f"all answer after {took:.1f} s")
    return took


def test_a_clock_that_goes_on_by_8_hours_everywhere_makes_nobody_dead(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    """As when machines that live on one host were suspended with it."""
    clock = LabClock(tmp_path)
    nodes = three(make_lab(3), start, [clock] * 3)
    clock.go_on(EIGHT_HOURS)
    all_answer(nodes)
    time.sleep(19)  # all had their heartbeats
    assert [gone(vpn) for vpn in nodes] == ["[]"] * 3
    assert all("went on by 28800 s" in vpn.log.read_text() for vpn in nodes)


@long
@pytest.mark.parametrize("by", [EIGHT_HOURS, -EIGHT_HOURS])
def test_a_node_whose_clock_is_wrong_for_a_while_is_back_when_it_is_right(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path, by: float
) -> None:
    right, wrong = LabClock(tmp_path / "right"), LabClock(tmp_path / "wrong")
    nodes = three(make_lab(3), start, [right, right, wrong])
    wrong.go_on(by)
    time.sleep(20)
    wrong.go_on(-by)
    all_answer(nodes)
    time.sleep(3)
    assert [gone(vpn) for vpn in nodes] == ["[]"] * 3


@long
def test_a_machine_that_sleeps_for_8_hours_is_back_in_15_s(make_lab: MakeLab, start: MakeNode, tmp_path: Path) -> None:
    clock = LabClock(tmp_path)
    lab = make_lab(3)
    nodes = three(lab, start, [clock] * 3)
    sleeper = nodes[2]
    with stopped(sleeper):
        sleeper.node.run(["ip", "link", "set", "eth0", "down"])
        time.sleep(30)  # the others notice
        clock.go_on(EIGHT_HOURS)
        time.sleep(5)
        cut_back_in(sleeper)
    all_answer(nodes)
    assert [gone(vpn) for vpn in nodes] == ["[]"] * 3


@long
def test_a_node_that_was_stopped_is_back_in_15_s(make_lab: MakeLab, start: MakeNode, tmp_path: Path) -> None:
    """STOPPED_SECONDS=600 LONG_TESTS=1 for ten minutes."""
    clock = LabClock(tmp_path)
    nodes = three(make_lab(3), start, [clock] * 3)
    with stopped(nodes[2]):
        time.sleep(STOPPED)
    all_answer(nodes)
    time.sleep(19)
    found = [gone(vpn) for vpn in nodes]
    assert found[2] == "[]", "it takes others for dead"
    if STOPPED < LEASE:
        assert found == ["[]"] * 3


@long
def test_a_node_that_lost_all_its_peers_for_a_minute_is_back_in_10_s_and_nothing_written_is_lost(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path
) -> None:
    clock = LabClock(tmp_path)
    nodes = three(make_lab(3), start, [clock] * 3)
    nodes[0].ask("dns-add", "old.lan.", "A", "10.1.0.9")
    wait_for(lambda: "old.lan." in nodes[2].json("ledger", "dns"), 10, what="the name")
    nodes[2].node.run(["ip", "link", "set", "eth0", "down"])
    wait_for(lambda: nodes[2].json("peers") == [], 40, what="the loss of all peers")
    nodes[0].ask("dns-remove", "old.lan.")
    nodes[1].ask("dns-add", "here.lan.", "A", "10.1.0.9")
    nodes[2].ask("dns-add", "there.lan.", "A", "10.1.0.9")
    time.sleep(20)
    cut_back_in(nodes[2])
    all_answer(nodes, 10.0, also=("here.lan.", "there.lan."))
    assert [gone(vpn) for vpn in nodes] == ["[]"] * 3


class stopped:  # noqa: N801 - reads as a context
    """All processes of a node stand still."""

    def __init__(self, vpn: Vpn) -> None:
        self._pids = [vpn.process.pid]
        for pid in self._pids:  # it grows meanwhile
            self._pids += children_of(pid)

    def __enter__(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)


def cut_back_in(vpn: Vpn) -> None:
    """The kernel forgets IPv6 addresses and routes of a link that goes down."""
    vpn.node.run(["ip", "link", "set", "eth0", "up"])
    vpn.node.run(["ip", "addr", "replace", f"{vpn.node.address6}/64", "dev", "eth0", "nodad"])
    vpn.node.run(["ip", "route", "replace", "default", "dev", "eth0"])
