"""Two Go nodes and two of ours: one ledger, whoever starts first, over changes of windows, and each change at once."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from edgevpn.actors.client import Client
from edgevpn.proto.messages import Announce, Done, LedgerReply, LedgerRequest
from scripts.labkit import spread
from scripts.labkit.go_nodes import GoVpn
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import Pinging, PingResult, wait_for
from tests.interop.table import AnyNode, Table, address, every_pair_pings, same_ledger

MakeTable = Callable[..., Table]
Spread = dict[tuple[str, str], list[tuple[float, float | None]]]
BUCKET = "interop"  # no policy: anybody's, the highest version wins
LATE = 10.0  # s until a change counts as lost
ROTATIONS = int(os.environ.get("ROTATIONS", "5"))  # fewer for a quick look

pytestmark = pytest.mark.timeout(95)


def wait_for_a_fresh_window() -> None:
    """Go nodes that start in the last seconds of a window may not find each other before the next change, if then."""
    time.sleep(spread.INTERVAL - time.time() % spread.INTERVAL + 1.0)


def start(table: Table, order: str, *, pause: float = 0.0) -> None:
    """`G` and `o` for each node, in this order: nodes 1 and 2 are Go, 3 and 4 ours."""
    go, ours = iter((1, 2)), iter((3, 4))
    for kind in order:
        if table.nodes:
            time.sleep(pause)
        if kind == "G":
            table.go(next(go))
        else:
            table.ours(next(ours))


@pytest.mark.parametrize("order", ["GGoo", "ooGG", "GoGo", "oGoG", "all at once"])
def test_a_mixed_network_is_one_within_20_s_of_the_last_start(make_table: MakeTable, order: str) -> None:
    table = make_table(4)
    if order == "all at once":
        start(table, "GoGo")
    else:
        start(table, order, pause=5.0)
    assert table.wait_until_one(20) < 20


async def watch_ours(vpn: Vpn, seen: dict[str, float]) -> None:
    """When each key of BUCKET was first seen in a node of ours, asked every 20 ms."""
    client = Client(vpn.run_dir, "ledger", caller="command")
    while True:
        reply: LedgerReply = await client.call(LedgerRequest(BUCKET), LedgerReply)
        for entry in reply.entries:
            seen.setdefault(entry.key, time.time())
        await trio.sleep(0.02)


async def write(node: AnyNode, key: str) -> None:
    if isinstance(node, GoVpn):
        await trio.to_thread.run_sync(node.send, "PUT", f"ledger/{BUCKET}/{key}/x")
    else:
        await Client(node.run_dir, "ledger", caller="command").call(Announce(BUCKET, key, '"x"'), Done)


def changes(
    nodes: list[AnyNode], seconds: float, pause: float
) -> dict[tuple[str, str], list[tuple[float, float | None]]]:
    """Each node writes in its turn. By kind of writer and of reader: (unix time, seconds until known; None: lost).

    A Go node does what its API is asked for some time later: its writes count from when it shows them itself.
    """
    seen: dict[str, dict[str, float]] = {address(node): {} for node in nodes}
    watches = {address(node): node.watch(BUCKET) for node in nodes if isinstance(node, GoVpn)}
    written: list[tuple[AnyNode, str, float]] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                if isinstance(node, Vpn):
                    nursery.start_soon(watch_ours, node, seen[address(node)])
            await trio.sleep(0.5)
            end = trio.current_time() + seconds
            for node in itertools.cycle(nodes):
                if trio.current_time() > end:
                    break
                key = f"{len(written):03}-{address(node)}"
                written.append((node, key, time.time()))
                await write(node, key)
                await trio.sleep(pause)
            await trio.sleep(LATE)
            nursery.cancel_scope.cancel()

    trio.run(run)
    for name, watch in watches.items():
        seen[name] = watch.stop()
    found: Spread = {}
    for writer, key, at in written:
        began = seen[address(writer)][key] if isinstance(writer, GoVpn) else at
        for reader in nodes:
            if reader is not writer:
                known = seen[address(reader)].get(key)
                took = None if known is None else max(0.0, known - began)
                found.setdefault((kind(writer), kind(reader)), []).append((began, took))
    for (one, other), rows in sorted(found.items()):
        late = [round(took, 1) for _, took in rows if took is not None and took > 1]
        lost = sum(took is None for _, took in rows)
        print(
            f"{one} to {other}", spread.milliseconds([t for _, t in rows if t is not None]), "late", late, "lost", lost
        )
    return found


def kind(node: AnyNode) -> str:
    return "Go" if isinstance(node, GoVpn) else "ours"


def test_each_write_is_heard_by_everybody_at_once(make_table: MakeTable) -> None:
    table = make_table(4)
    start(table, "GoGo")
    table.wait_until_one(20)
    found = changes(table.nodes, 24.0, 0.3)
    for (writer, reader), rows in found.items():
        assert len(rows) >= 12
        if (writer, reader) != ("Go", "Go"):
            assert [took for _, took in rows if took is None or took > 1.0] == [], f"{writer} to {reader}"
    wait_for(lambda: same_ledger(table.nodes), 12, what="one ledger")


@contextmanager
def pinging(nodes: list[AnyNode]) -> Iterator[dict[tuple[str, str], PingResult]]:
    """Pings once a second between all pairs, by addresses; filled at the end."""
    running = {(one, other): Pinging(one.node, address(other), 1.0) for one, other in itertools.permutations(nodes, 2)}
    found: dict[tuple[str, str], PingResult] = {}
    yield found
    for (one, other), process in running.items():
        result = process.finish()
        found[address(one), address(other)] = result
        print(
            f"{kind(one)} {address(one)} to {kind(other)} {address(other)}: {result.received}/{result.sent} answered,"
            f" longest gap {result.longest_gap_s:.1f} s"
        )


def lost(pings: dict[tuple[str, str], PingResult]) -> tuple[int, float]:
    """Pings between the two Go nodes that had no answer, and the longest gap between two that had."""
    between = [result for pair, result in pings.items() if set(pair) == {"10.1.0.1", "10.1.0.2"}]
    return sum(one.sent - one.received for one in between), max(one.longest_gap_s for one in between)


@pytest.mark.timeout(130 + ROTATIONS * 30)
def test_go_nodes_hear_each_other_over_rotations_beside_ours_no_worse_than_alone(make_table: MakeTable) -> None:
    """At the same time on the same machine: two Go nodes with two of ours, and two Go nodes with two more of theirs."""
    mixed, alone = make_table(4, spread.short_token(30)), make_table(4, spread.short_token(30))
    wait_for_a_fresh_window()
    start(mixed, "GoGo")
    for k in (1, 2, 3, 4):
        alone.go(k)
    for table in (mixed, alone):
        every_pair_pings(table.nodes, 40)
    with pinging(mixed.nodes) as beside, pinging(alone.nodes) as among:
        time.sleep(ROTATIONS * 30.0)
    print("Go beside ours (lost, longest gap in s)", lost(beside), "Go with Go", lost(among))
    assert lost(beside)[0] <= lost(among)[0] + 1
    assert lost(beside)[1] <= max(2.5, lost(among)[1] + 1.0)


@pytest.mark.timeout(110 + ROTATIONS * 30)
def test_keys_that_rotate_every_30_s_cost_no_ping_and_no_change(make_table: MakeTable) -> None:
    table = make_table(4, spread.short_token(30))
    wait_for_a_fresh_window()
    start(table, "GoGo")
    table.wait_until_one(20)
    before = time.time() // 30
    with pinging(table.nodes) as pings:
        found = changes(table.nodes, ROTATIONS * 30.0, 0.7)
    print("rotations", time.time() // 30 - before)
    for (one, other), result in pings.items():
        if {one, other} == {"10.1.0.3", "10.1.0.4"}:
            assert result.longest_gap_s < 2.5, (one, other)
    for pair in (("ours", "ours"), ("ours", "Go"), ("Go", "ours")):
        assert [at % 30 for at, took in found[pair] if took is None] == [], pair
    assert [took for _, took in found["ours", "ours"] if took > 1.0] == []  # type: ignore[operator]
    wait_for(lambda: same_ledger(table.nodes), 20, 0.2, "one ledger")
