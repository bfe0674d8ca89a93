"""Go nodes and ours find each other: by mDNS, by a DHT whose bootstrap peer is ours, and with static peer tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevpn.identity import load_or_create
from scripts.labkit.nodes import Vpn
from scripts.labkit.traffic import first_answer, wait_for
from tests.interop.table import Table, address, every_pair_pings, exchange

MakeTable = Callable[..., Table]

pytestmark = pytest.mark.timeout(95)


def stream_packets(vpn: Vpn) -> dict[str, int]:
    """What went over `/edgevpn/0.1`."""
    rows = {row["protocol"]: row for row in vpn.json("peers", "--traffic")["protocols"]}
    return rows.get("/edgevpn/0.1", {"sent_bytes": 0, "received_bytes": 0})


def connected(vpn: Vpn) -> set[str]:
    return {peer["peer_id"] for peer in vpn.json("peers")}


@pytest.mark.parametrize("first", ["go", "ours"])
def test_mdns_finds_whoever_came_later_and_packets_go_both_ways(make_table: MakeTable, first: str) -> None:
    table = make_table(2)
    if first == "go":
        go = table.go(1)
        go.wait_until_it_answers()
        time.sleep(6)  # its first questions have been asked
        ours = table.ours(2)
    else:
        ours = table.ours(2)
        ours.wait_for_state("joining")
        time.sleep(6)
        go = table.go(1)
    began = time.monotonic()
    first_answer(ours.node, "10.1.0.1", "edgevpn0", 15)
    print(f"first answer after {time.monotonic() - began:.1f} s")
    first_answer(go.node, "10.1.0.2", "edgevpn0", 15)
    exchange(go, ours)
    used = stream_packets(ours)
    assert used["sent_bytes"] > 10_000
    assert used["received_bytes"] > 10_000
    assert connected(ours) == {go.peer_id}


def test_a_bootstrap_peer_of_ours_brings_go_nodes_and_ours_together(make_table: MakeTable) -> None:
    table = make_table(5)
    bootstrap = Vpn(table.lab.node(5), table.token, None, "--mdns=false")
    try:
        status = bootstrap.wait_for_state("joining")
        listen = next(text for text in status["listen"] if text.startswith(f"/ip4/{table.lab.node(5).address}/tcp/"))
        maddr = listen if "/p2p/" in listen else f"{listen}/p2p/{status['peer_id']}"
        flags = ("--mdns=false", f"--discovery-bootstrap-peers={maddr}")
        began = time.monotonic()
        one, two = table.go(1, *flags), table.go(2, *flags)
        three, four = table.ours(3, *flags), table.ours(4, *flags)
        every_pair_pings(table.nodes, 60)
        print(f"all pairs ping after {time.monotonic() - began:.1f} s")
        everybody = {one.peer_id, two.peer_id, status["peer_id"]}
        everybody |= {vpn.json("status")["peer_id"] for vpn in (three, four)}
        for vpn in (three, four):  # not by way of the bootstrap peer
            others = everybody - {vpn.json("status")["peer_id"]}
            wait_for(lambda vpn=vpn, others=others: connected(vpn) >= others, 20, what="a connection to everybody")  # type: ignore[misc]
        exchange(one, three)
        exchange(three, four)
    finally:
        print(f"--- the bootstrap peer\n{bootstrap.tail(20)}")
        bootstrap.close()


def test_nodes_with_static_peer_tables_exchange_packets_though_go_hears_no_ledger_then(
    make_table: MakeTable, tmp_path: Path
) -> None:
    table = make_table(3)
    keys = {k: tmp_path / str(k) for k in (1, 2, 3)}
    rows = ",".join(f"10.1.0.{k}:{load_or_create(keys[k]).peer_id}" for k in keys)
    flags = ("--dht=false", f"--static-peertable={rows}")
    kept = "--privkey-cache"
    began = time.monotonic()
    one = table.go(1, *flags, key_dir=keys[1])
    two, three = (table.ours(k, *flags, kept, f"--privkey-cache-dir={keys[k]}") for k in (2, 3))
    every_pair_pings(table.nodes, 20)
    print(f"all pairs ping after {time.monotonic() - began:.1f} s")
    exchange(one, two)
    exchange(two, three)
    time.sleep(5)
    # The Go program drops all gossip in this mode; we take what it says all the same.
    print("Go's machines", sorted(one.ledger()["machines"]), "ours", sorted(two.json("ledger", "machines")))
    assert (
        set(two.json("ledger", "machines")) == set(three.json("ledger", "machines")) == set(map(address, table.nodes))
    )
