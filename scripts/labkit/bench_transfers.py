"""scripts/bench transfers: does what goes through arrive as it was? Over IPv4 and IPv6, with nothing and 1 % lost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from scripts.labkit import hashed, traffic
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token

ROWS = {f"IPv{version}-{100 * loss:g}%": (version, loss) for version in (4, 6) for loss in (0.0, 0.01)}
UDP_COUNT, UDP_RATE = 100_000, 8000.0
RTT_MS = 4.0
_ADDRESS = "10.15.0"
_SLOWEST = 20.0  # Mbit/s


def bench_transfers(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Raises LabError when anything arrived altered or twice."""
    rows = []
    for name, (version, loss) in ROWS.items():
        if not options.rows or name in options.rows:
            row = one_way(version, loss, options.megabytes)
            rows.append({"row": name} | row)
            udp = row["udp"]
            say(
                f"{name:<8} {options.megabytes} MB by TCP as they were sent, {row['mbit']:.0f} Mbit/s;"
                f"  of {udp['sent']} UDP packets {udp['came']} came, {udp['wrong']} altered, {udp['twice']} twice;"
                f"  repaired {row['repaired']}"
            )
            if udp["wrong"] or udp["twice"]:
                raise LabError(f"{name}: packets were altered or came twice")
    return rows


def one_way(version: int, loss: float, megabytes: int) -> dict[str, Any]:
    """A stream and packets from the second node to the first, which reach each other by IPv4 or IPv6 alone."""
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(2, delay_ms=RTT_MS / 2, loss=loss, fast=True, seed=1))
        pair, token = [], new_token()
        for k, node in enumerate(lab.nodes, 1):
            if version == 6:
                node.run(["ip", "-4", "addr", "flush", "dev", "eth0"])
            vpn = Vpn(node, token, f"{_ADDRESS}.{k}/24", "--dht=false", "--mtu=1420")
            stack.callback(vpn.close)
            pair.append(vpn)
        one, two = pair
        server, client = lab.nodes
        traffic.first_answer(client, f"{_ADDRESS}.1", "edgevpn0", 30)
        by_datagrams = traffic.wait_for(
            lambda: [peer for peer in two.json("peers") if peer["path"] == "datagram"], 20, what="the datagram path"
        )
        if (by_datagrams[0]["path_address"].count(":") > 1) != (version == 6):
            raise LabError(f"the way is {by_datagrams[0]['path_address']}, which is not IPv{version}")
        patience = megabytes * hashed.MEGABYTE * 8 / 1e6 / _SLOWEST + 10
        mbit = hashed.transfer(server, client, f"{_ADDRESS}.1", megabytes, patience)
        seen = hashed.packets(server, client, f"{_ADDRESS}.1", UDP_COUNT, UDP_RATE)
        counted = one.json("peers")[0]["repair"]
        return {
            "mbit": round(mbit, 1),
            "udp": {"sent": seen.sent, "came": seen.came, "wrong": seen.wrong, "twice": seen.twice},
            "repaired": counted.get("repaired_by_parity", 0) + counted.get("repaired_by_copy", 0),
        }
