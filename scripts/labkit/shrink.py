"""The path MTU falls to 1280 under a TCP stream: how long until it has its full speed again, and what it was meanwhile.

The link has a rate, so that full speed means the same before and after. It falls at our own device, where the system
refuses what is too large, and as a black hole: at the other end, without a word.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, Node
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.numbered import Streaming

RATE = 50.0  # Mbit/s
_FULL, _FALLEN = 1500, 1280
_WINDOW, _STEP, _WATCHED = 0.25, 0.05, 6.0
_SHARES = (0.5, 0.8, 0.9)  # the smaller datagrams and what repair adds for a while take a tenth and more


def measure_mtu(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A tenth of `tries` times (2) each kind."""
    found: dict[str, list[dict[str, float]]] = {"local": [], "black hole": []}
    with Lab(2, delay_ms=5, rate_mbit=RATE, fast=True, seed=1) as lab:
        near, far = lab.node(2), lab.node(1)
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
        traffic.first_answer(near, "10.1.0.1", "edgevpn0", 30)
        traffic.wait_for(lambda: all(v.json("peers")[0]["path"] == "datagram" for v in nodes), 10, what="datagrams")
        stream = Streaming(near, far, "10.1.0.1")
        time.sleep(4)
        for turn in range(max(1, tries // 10)):
            for kind, node in (("local", near), ("black hole", far)):
                full = _rates(far, 2.0)[-1][1]
                moment = time.monotonic()
                node.run(["ip", "link", "set", "eth0", "mtu", str(_FALLEN)])
                rates = [(at - moment, rate) for at, rate in _rates(far, _WATCHED)]
                node.run(["ip", "link", "set", "eth0", "mtu", str(_FULL)])
                took = {
                    f"to_{round(100 * share)}_percent_s": next(
                        (at for at, rate in rates if at > _WINDOW and rate >= share * full), _WATCHED
                    )
                    for share in _SHARES
                }
                after = rates[-1][1]
                slowest = min(rate for _, rate in rates)
                found[kind].append({"full_mbit": full, **took, "slowest_mbit": slowest, "then_mbit": after})
                say(f"mtu {turn + 1}, {kind}: " + ", ".join(f"{k} {v:.2f}" for k, v in found[kind][-1].items()))
                time.sleep(4)
        seen = stream.finish()
        for vpn in nodes:
            vpn.close()
    return {**found, "longest_silence_s": round(seen.longest_s, 3), "wrong": seen.wrong}


def _rates(node: Node, seconds: float) -> list[tuple[float, float]]:
    """When, and the Mbit/s of the window before: of what the VPN gave this node's machine."""
    program = f"""
import time
path = "/sys/class/net/edgevpn0/statistics/rx_bytes"
until = time.monotonic() + {seconds}
while (now := time.monotonic()) < until:
    print(now, open(path).read().strip())
    time.sleep({_STEP})
"""
    lines = node.run(["python3", "-c", program], timeout=seconds + 10).stdout.split("\n")
    seen = [(float(at), int(count)) for at, count in (line.split() for line in lines if line)]
    rates = []
    for at, count in seen:
        before = next((one for one in reversed(seen) if one[0] <= at - _WINDOW), None)
        if before is not None:
            rates.append((at, (count - before[1]) * 8e-6 / (at - before[0])))
    return rates
