"""A quiet network: changes reach all at once, around changes of windows and with wrong clocks; Go nodes hear all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.labkit import spread
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, environment
from scripts.labkit.traffic import wait_for

MakeLab = Callable[..., Lab]
MakeNode = Callable[..., Vpn]
GO = os.environ.get("EDGEVPN_GO_BIN", "")

pytestmark = pytest.mark.timeout(200)

# A module that Python imports at its start: the clock of such a process is wrong by so many seconds.
WRONG_CLOCK = """
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + ({offset})
time.time_ns = lambda: _time_ns() + int(({offset}) * 1e9)
"""


def counters(vpn: Vpn) -> dict[str, int]:
    found: dict[str, int] = json.loads(
        vpn.ask("repl", "ledger", "-c", "import json; print(json.dumps(actor.counters))").stdout
    )
    return found


def test_no_change_is_lost_or_late_over_rotations_and_no_block_is_published(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    nodes = spread.up(lab, 3, spread.short_token())
    try:
        rotations = [counter_of_rotations(vpn) for vpn in nodes]
        found = spread.changes(nodes, 65.0)
        assert all(counter_of_rotations(vpn) >= before + 2 for vpn, before in zip(nodes, rotations, strict=True))
        assert all("blocks_published" not in counters(vpn) for vpn in nodes)
        assert all("parts_published" not in counters(vpn) for vpn in nodes)
    finally:
        for vpn in nodes:
            vpn.close()
    near = [took for wall, took in found if spread.near_rotation(wall)]
    print("all", spread.milliseconds([took for _, took in found if took is not None]))
    print("near", spread.milliseconds([took for took in near if took is not None]))
    assert len(near) > 10
    assert [wall for wall, took in found if took is None or took > 1.0] == []


def counter_of_rotations(vpn: Vpn) -> int:
    return int(vpn.ask("repl", "gossip", "-c", "actor.counters.get('rotations', 0)").stdout)


@pytest.mark.parametrize("offset", [-13.0, 13.0])
def test_a_node_whose_clock_is_off_by_almost_half_a_window_takes_part_and_says_so(
    make_lab: MakeLab, start: MakeNode, tmp_path: Path, offset: float
) -> None:
    lab = make_lab(3)
    token = spread.short_token()
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK.format(offset=offset))
    right = [start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
    wrong = start(lab.node(3), token, "10.1.0.3/24", "--dht=false", env={"PYTHONPATH": str(tmp_path)})
    nodes = [*right, wrong]
    everybody = {"10.1.0.1", "10.1.0.2", "10.1.0.3"}
    for vpn in nodes:
        vpn.wait_for_state("up", 30)
        wait_for(lambda vpn=vpn: set(vpn.json("ledger", "machines")) == everybody, 30, what="the whole ledger")
    began = float(wrong.ask("repl", "ledger", "-c", "import time; time.time()").stdout)
    assert abs(began - time.time() - offset) < 3, "the clock is not wrong"
    found = spread.changes(nodes, 35.0, pause=0.5)
    assert [wall for wall, took in found if took is None] == []
    way = "ahead of" if offset > 0 else "behind"
    status = wait_for(lambda: (s := wrong.status()) and s["clock"] and s, 15, what="word of the clock")
    assert f"this machine's clock is 13 s {way} the other nodes" in status["clock"]  # type: ignore[index]
    assert abs(status["clock_offset_s"] - offset) < 1  # type: ignore[index]
    assert f"clock is 13 s {way} the other nodes" in wrong.log.read_text()
    assert "the clock of" in (right[0].status() or {})["clock"]
    for vpn, said in ((wrong, f"this machine's clock is 13 s {way} the other nodes"), (right[0], "the clock of")):
        checks = json.loads(vpn.ask("doctor", "--stun-server=", "--json", check=False).stdout)["checks"]
        clock = next(one for one in checks if one["name"] == "clock")
        assert (clock["state"], said in clock["found"]) == ("warn", True), clock


@pytest.mark.skipif(not GO, reason="EDGEVPN_GO_BIN does not name the Go program")
def test_a_go_node_gets_all_and_hears_each_change_at_once(make_lab: MakeLab, start: MakeNode, tmp_path: Path) -> None:
    lab = make_lab(3)
    token = spread.short_token(360)
    words = [GO, "--address=10.1.0.9/24", "--api", "--api-listen=127.0.0.1:8080", "--log-level=error"]
    lab.node(3).popen(words, log=tmp_path / "go.log", env=environment(EDGEVPNTOKEN=token, HOME=str(tmp_path)))
    ours = [start(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
    everybody = {"10.1.0.1", "10.1.0.2", "10.1.0.9"}
    began = time.monotonic()

    def go_has() -> dict[str, object]:
        done = lab.node(3).run(["curl", "-s", "http://127.0.0.1:8080/api/ledger"], check=False)
        return json.loads(done.stdout or "{}") or {}

    wait_for(lambda: set(go_has().get("machines") or {}) == everybody, 25, what="Go's ledger")  # type: ignore[call-overload]
    for vpn in ours:
        vpn.wait_for_state("up", 20)
        wait_for(lambda vpn=vpn: set(vpn.json("ledger", "machines")) == everybody, 20, what="ours")
    print("same ledger after", time.monotonic() - began)
    found = spread.changes(ours, 10.0)
    assert [wall for wall, took in found if took is None] == []
    addresses = set(ours[0].json("ledger", "machines"))
    began = time.monotonic()
    wait_for(lambda: set(go_has().get("machines") or {}) == addresses, 15, what="all of it")  # type: ignore[call-overload]
    print("Go had all changes after", time.monotonic() - began)
    assert counters(ours[0])["parts_published"] > 0
