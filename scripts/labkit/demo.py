"""scripts/demo: the main job, before your eyes, in two network namespaces of this machine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.nodes import Vpn, new_token

_EPILOG = """example:
  scripts/demo           watch it
  scripts/demo --json    the figures only
It contacts nobody outside: the two nodes find each other by mDNS on a bridge of their own.
"""


class Progress:
    """Lines with the time since the start; nothing with --json."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        if not self._quiet:
            print(f"[{time.monotonic() - self._began:5.1f} s] {text}", flush=True)

    def show(self, text: str) -> None:
        if not self._quiet:
            print("".join(f"          {line}\n" for line in text.splitlines()), end="", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Bring up two nodes by one token, ping both ways, show the ledger, measure, take all down.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, nothing else")
    options = parser.parse_args()
    progress = Progress(options.json)
    nodes: list[Vpn] = []
    try:
        with Lab(2) as lab:
            figures = demonstrate(lab, nodes, progress)
            progress.say("taking everything down")
    except (LabError, OSError, ValueError, subprocess.SubprocessError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        for number, vpn in enumerate(nodes, 1):
            if vpn.log.exists():
                print(f"demo: the last lines of node {number}:\n{vpn.tail()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for vpn in nodes:
            vpn.close()
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        progress.say("done: all processes, interfaces and namespaces are gone")
    return 0


def demonstrate(lab: Lab, nodes: list[Vpn], progress: Progress) -> dict[str, Any]:
    """The demo; its figures."""
    one, two = lab.nodes
    progress.say("a token for a new network: edgevpn -g -b (it goes to the nodes by their environment, unseen)")
    token = new_token()
    progress.say(f"node 1: edgevpn --address 10.1.0.1/24 in the namespace {one.netns}")
    nodes.append(Vpn(one, token, "10.1.0.1/24", "--dht=false"))
    nodes[0].wait_for_state("joining")
    progress.say(f"node 2: edgevpn --address 10.1.0.2/24 in the namespace {two.netns}")
    began = time.monotonic()
    nodes.append(Vpn(two, token, "10.1.0.2/24", "--dht=false"))
    traffic.first_answer(two, "10.1.0.1", "edgevpn0", 30)
    first_ping = time.monotonic() - began
    progress.say(f"they found each other; node 2's first ping was answered {first_ping:.2f} s after its start")
    pings = {}
    for name, node, target in (("1 to 2", one, "10.1.0.2"), ("2 to 1", two, "10.1.0.1")):
        result = traffic.ping(node, target, 10, 0.1, "edgevpn0")
        if result.received < result.sent:
            raise LabError(f"of {result.sent} pings from {name} only {result.received} were answered")
        pings[name] = {"sent": result.sent, "answered": result.received, "median_ms": round(result.median_ms, 2)}
        progress.say(f"ping {name}: {result.received} of {result.sent} answered, median {result.median_ms:.2f} ms")
    progress.say("the ledger, as node 2 has it (edgevpn ledger):")
    progress.show(_narrow(nodes[1].ask("ledger").stdout))
    ledgers = [vpn.json("ledger") for vpn in nodes]
    if ledgers[0] != ledgers[1]:
        raise LabError("the two ledgers differ")
    progress.say("node 1 has the same one; the processes of node 2 (edgevpn actors):")
    progress.show(nodes[1].ask("actors").stdout)
    speed = traffic.iperf3(one, two, "10.1.0.1", 3)
    progress.say(f"throughput, one TCP stream through the VPN: {speed:.0f} Mbit/s")
    codes = [vpn.stop() for vpn in nodes]
    if any(codes):
        raise LabError(f"the nodes ended with {codes}")
    return {"first_ping_s": round(first_ping, 3), "pings": pings, "throughput_mbit": round(speed, 1)}


def _narrow(table: str, width: int = 110) -> str:
    return "\n".join(line if len(line) <= width else line[: width - 3] + "..." for line in table.splitlines())


if __name__ == "__main__":
    sys.exit(main())
