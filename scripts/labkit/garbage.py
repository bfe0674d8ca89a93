"""A flood of garbage at a node's datagram port, from a third machine, while a TCP stream runs to that node.

Two kinds, in turn with none: what anybody can send, and what somebody can who sees the path and puts the session's own
number before three of four datagrams, so that each has to be tried with the key.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, compiled
from scripts.labkit.nodes import Vpn, new_token

RATE = 10_000  # datagrams a second
_SECONDS = 4
_PORT = 4500


def measure_flood(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A quarter of `tries` turns (5), each of a stream without garbage and with either kind."""
    program = str(compiled("garbage.c"))
    speeds: dict[str, list[float]] = {"none": [], "any": [], "with the session's number": []}
    with Lab(3) as lab:
        token = new_token()
        flags = ("--dht=false", f"--datagram-port={_PORT}", "--mtu=1420")
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", *flags) for k in (1, 2)]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        traffic.wait_for(lambda: all(v.json("peers")[0]["path"] == "datagram" for v in nodes), 10, what="datagrams")
        sent = 0
        for turn in range(max(1, tries // 4)):
            for kind, values in speeds.items():
                session = 0
                if kind.startswith("with"):
                    session = int(nodes[0].ask("repl", "tun", "-c", "max(datagrams.engine.sessions)").stdout)
                words = [program, lab.node(1).address, str(_PORT), str(RATE), str(_SECONDS + 2), f"{session:x}", "7"]
                process = lab.node(3).popen(words, stdout=subprocess.PIPE) if kind != "none" else None
                time.sleep(0.5)
                values.append(traffic.iperf3(lab.node(1), lab.node(2), "10.1.0.1", _SECONDS))
                if process is not None:
                    output = process.communicate(timeout=10)[0]
                    lab.node(3).processes.remove(process)
                    sent = int(output)
                time.sleep(0.3)
            say(f"flood {turn + 1}: " + ", ".join(f"{kind} {values[-1]:.0f}" for kind, values in speeds.items()))
        counted = "{k: v for k, v in datagrams.engine.opener.counters.items()}"
        refused = nodes[0].ask("repl", "tun", "-c", counted).stdout.strip()
        for vpn in nodes:
            vpn.close()
    shares = {
        kind: statistics.median(one / clean for one, clean in zip(values, speeds["none"], strict=True))
        for kind, values in speeds.items()
    }
    return {
        "garbage_a_second": round(sent / (_SECONDS + 2)),
        "mbit": {kind: [round(value) for value in values] for kind, values in speeds.items()},
        "share_of_the_same_turn": {kind: round(value, 3) for kind, value in shares.items()},
        "refused": refused,
    }
