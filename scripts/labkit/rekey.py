"""Changing keys under load: numbered packets both ways and a thousand echo requests a second, while one of two nodes
makes new keys again and again. What was lost, and the longest time in which nothing came."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.flood import PATIENCE, Flood
from scripts.labkit.namespaces import Lab
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.numbered import Numbered

RATE = 1000.0
_PAUSE = 0.1
_AGAIN_AND_AGAIN = """
import trio
async def _rekey(count, pause):
    link = next(iter(datagrams.engine.links.values()))
    changed, slowest = 0, 0.0
    for _ in range(count):
        before, began = link.sending, trio.current_time()
        datagrams.renew()
        with trio.move_on_after(5):
            while link.sending is before:
                await trio.sleep(0.002)
            changed += 1
            slowest = max(slowest, trio.current_time() - began)
        await trio.sleep(pause)
    return f"{{changed}} {{slowest:.4f}}"
await _rekey({count}, {pause})
"""


def measure_rekey(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Five times `tries` changes of keys (100)."""
    with Lab(2) as lab:
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        traffic.wait_for(lambda: all(v.json("peers")[0]["path"] == "datagram" for v in nodes), 10, what="datagrams")
        found = rekey(lab, nodes[1], 5 * tries, RATE)
        for vpn in nodes:
            vpn.close()
    say(f"rekey: {found}")
    return found


def rekey(lab: Lab, vpn: Vpn, count: int, rate: float) -> dict[str, Any]:
    """`vpn` is node 2's of two that reach each other by datagrams."""
    one, two = lab.node(1), lab.node(2)
    loads = [Numbered(two, one, "10.1.0.1", rate), Numbered(one, two, "10.1.0.2", rate)]
    flood = Flood(two, "10.1.0.1", "edgevpn0")
    time.sleep(1)
    began = time.monotonic()
    source = _AGAIN_AND_AGAIN.format(count=count, pause=_PAUSE)
    told = vpn.ask("repl", "tun", "-c", source, timeout=10 + count * (_PAUSE + 5)).stdout
    changed, slowest = told.strip().strip("'").split()
    ended = time.monotonic()
    time.sleep(PATIENCE)
    pings = flood.span(began, ended)
    flood.stop()
    there, back = (load.finish() for load in loads)
    return {
        "changes": int(changed),
        "slowest_change_s": float(slowest),
        "seconds": round(ended - began, 1),
        "packets": there.received + back.received,
        "packets_lost": there.lost + back.lost,
        "packets_twice": there.twice + back.twice,
        "longest_silence_ms": [round(1e3 * one.longest_s, 1) for one in (there, back)],
        "pings": pings.sent,
        "pings_lost": pings.lost,
        "longest_ping_silence_ms": round(1e3 * pings.longest_gap_s, 1),
    }
