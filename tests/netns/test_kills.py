"""What the death of an actor costs, under a thousand echo requests a second and a TCP stream.

`scripts/chaos table` measures the same at length.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from edgevpn.cli import direct
from edgevpn.proto.messages import Announce, Done, LedgerReply, LedgerRequest
from scripts.labkit.bed import INTERFACE, PATIENCE, TEMPLATE, Bed, Hurt
from scripts.labkit.chaos import endure, plan
from scripts.labkit.chaos_table import NOTICED, STREAMS_AGAIN, TUN_AGAIN
from scripts.labkit.flood import Span
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.processes import set_soft_limit
from scripts.labkit.traffic import wait_for
from scripts.labkit.ways import WAYS

MakeLab = Callable[..., Lab]
pytestmark = pytest.mark.timeout(180)

CONTROL = ("discovery", "gossip", "host", "ledger", "sealer")  # no packet passes through them


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Two nodes on the datagram path; the first one is hurt."""
    with Lab(2) as lab:
        bed = Bed(lab, 2)
        try:
            bed.settle()
            bed.flood(1)
            bed.start_load(2, 1, 10)
            time.sleep(1)
            yield bed
        finally:
            for vpn in bed.nodes:
                print(f"--- {vpn.node.netns}\n{vpn.tail(40)}")
            bed.close()


def hurt(bed: Bed, actor: str, way: str) -> tuple[Hurt, Span]:
    """Hurt it; what that cost until a moment after its successor was ready."""
    chance = random.Random(1)
    hurt = bed.hurt(1, actor, way, chance)
    until = time.monotonic() + 0.3
    time.sleep(0.3 + PATIENCE)
    span = bed.packets(hurt, until)
    print(hurt, span)
    assert (hurt.wrong, hurt.entries_lost, hurt.zombies) == ("", (), 0)
    assert span.sent > 200
    assert bed.load_lives
    return hurt, span


@pytest.mark.parametrize("actor", CONTROL)
def test_kill_9_of_an_actor_beside_the_packets_loses_none(bed: Bed, actor: str) -> None:
    assert hurt(bed, actor, "kill")[1].lost == 0


@pytest.mark.parametrize("actor", CONTROL)
def test_a_hung_actor_beside_the_packets_is_replaced_and_loses_none(bed: Bed, actor: str) -> None:
    done, span = hurt(bed, actor, "stop")
    assert span.lost == 0
    assert done.ended_after is not None
    assert done.ended_after <= NOTICED


def test_kill_9_of_tun_costs_half_a_second_and_no_connection(bed: Bed) -> None:
    index = bed.lab.node(1).run(["cat", f"/sys/class/net/{INTERFACE}/ifindex"]).stdout
    for _ in range(3):
        assert hurt(bed, "tun", "kill")[1].longest_gap_s <= TUN_AGAIN
    assert bed.lab.node(1).run(["cat", f"/sys/class/net/{INTERFACE}/ifindex"]).stdout == index


def test_a_hung_tun_is_replaced(bed: Bed) -> None:
    done, span = hurt(bed, "tun", "stop")
    assert done.ended_after is not None
    assert done.ended_after <= NOTICED
    assert span.longest_gap_s <= NOTICED + TUN_AGAIN


def test_on_streams_the_death_of_host_or_tun_costs_a_second_at_most(make_lab: MakeLab) -> None:
    bed = Bed(make_lab(2), 2, "--path=stream")
    try:
        bed.settle()
        bed.flood(1)
        time.sleep(1)
        for actor in ("host", "tun"):
            assert hurt_alone(bed, actor).longest_gap_s <= STREAMS_AGAIN, actor
    finally:
        bed.close()


def hurt_alone(bed: Bed, actor: str) -> Span:
    done = bed.hurt(1, actor, "kill", random.Random(1))
    until = time.monotonic() + 1
    time.sleep(1 + PATIENCE)
    assert done.wrong == ""
    return bed.packets(done, until)


def test_random_hurts_of_all_kinds_leave_the_node_whole(make_lab: MakeLab) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    bed = Bed(make_lab(3), 3)
    try:
        bed.settle()
        bed.flood(1)
        bed.start_load(3, 1, 10)
        hurts = plan(12, chance, [1], [*bed.actor_names(1), TEMPLATE], list(WAYS.values()))
        outcomes, _ = endure(bed, hurts, 12, 0.2, chance, print)
        for outcome in outcomes:
            print(outcome)
        assert len(outcomes) == 12
        assert [outcome.hurt for outcome in outcomes if outcome.hurt.wrong or outcome.hurt.entries_lost] == []
        assert max(outcome.hurt.zombies for outcome in outcomes) == 0
        assert bed.load_lives
        wait_for(lambda: not bed.lacking_anywhere(), 10, what="all entries at all nodes")
        held = [outcome.hurt.supervisor_descriptors for outcome in outcomes]
        assert max(held) - min(held) <= 8  # those of an actor that is being started
    finally:
        for vpn in bed.nodes[:1]:
            print(f"--- {vpn.node.netns}\n{vpn.tail(60)}")
        bed.close()


@pytest.fixture
def alone(make_lab: MakeLab) -> Iterator[Vpn]:
    """A node without any other, so that nobody can tell it again what it forgot."""
    vpn = Vpn(make_lab(1).node(1), new_token(), "10.1.0.1/24", "--dht=false")
    try:
        vpn.wait_for_state("joining")
        yield vpn
    finally:
        print(f"--- {vpn.tail(40)}")
        vpn.close()


def test_what_the_ledger_answered_for_outlives_kill_9_at_once(alone: Vpn) -> None:
    for number in range(8):
        pid = alone.pid_of("ledger")
        direct.ask(alone.run_dir, "ledger", Announce("kept", str(number), f'"{number}"'), Done)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: alone.pid_of("ledger") not in (0, pid), 5, what="another ledger")
        kept = direct.ask(alone.run_dir, "ledger", LedgerRequest("kept"), LedgerReply).entries
        assert [entry.key for entry in kept] == [str(one) for one in range(number + 1)]


def test_an_actor_that_has_no_descriptor_left_is_replaced(alone: Vpn) -> None:
    pid = alone.pid_of("sealer")
    set_soft_limit(pid, "nofile", "3")

    def replaced() -> bool:
        now = next(one for one in alone.json("actors") if one["name"] == "sealer")  # which asks it, in vain
        return now["state"] == "ready" and now["pid"] != pid and "no descriptor was free" in now["last_exit"]

    wait_for(replaced, 15, what="another sealer")
