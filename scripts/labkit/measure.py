"""scripts/measure: what a person waits for, in figures: min, median, max, and every worst case.

With EDGEVPN_GO_BIN naming the Go program, join, ping and throughput are measured with it too, in the same lab.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from scripts.labkit import traffic
from scripts.labkit.dhcp import measure_dhcp
from scripts.labkit.disk import measure_disk
from scripts.labkit.dns_load import measure_dns
from scripts.labkit.garbage import measure_flood
from scripts.labkit.hostile import measure_hostile
from scripts.labkit.idle import measure_idle
from scripts.labkit.namespaces import Lab, LabError, Node
from scripts.labkit.nodes import Vpn, environment, new_token
from scripts.labkit.rekey import measure_rekey
from scripts.labkit.restarts import measure_restarts
from scripts.labkit.shrink import measure_mtu
from scripts.labkit.spread import measure_quiet, measure_spread
from scripts.labkit.tunnels import measure_files, measure_tunnels

ACTORS = ("sealer", "host", "discovery", "gossip", "ledger", "tun")
NOBODY = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
_EPILOG = """examples:
  scripts/measure                          all of it, about 8 minutes
  scripts/measure join --tries 5
  EDGEVPN_GO_BIN=/path/to/edgevpn scripts/measure join speed --json
"""


def summary(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    return {
        "n": len(values),
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }


def measure_join(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Start of the second node to its first answered ping, on one LAN by mDNS."""
    times = []
    for number in range(1, tries + 1):
        with Lab(2) as lab:
            token = new_token()
            one = Vpn(lab.node(1), token, "10.1.0.1/24", "--dht=false")
            one.wait_for_state("joining")
            time.sleep(1.5)  # the first node's own announcements are over
            began = time.monotonic()
            two = Vpn(lab.node(2), token, "10.1.0.2/24", "--dht=false")
            traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
            times.append(time.monotonic() - began)
            for vpn in (one, two):
                vpn.close()
        say(f"join {number}: {times[-1]:.2f} s")
    return summary(times)


def measure_bootstrap(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Two nodes that share a bootstrap peer of another network: start of the second to the first answered ping."""
    times = []
    for number in range(1, tries + 1):
        with Lab(3) as lab:
            listen = "--listen-maddrs=/ip4/0.0.0.0/tcp/4001"
            nobody = f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/9/p2p/{NOBODY}"
            middle = Vpn(lab.node(1), new_token(), None, "--mdns=false", listen, nobody)
            peer_id = middle.wait_for_state("joining")["peer_id"]
            flags = (
                "--mdns=false",
                f"--discovery-bootstrap-peers=/ip4/{lab.node(1).address}/tcp/4001/p2p/{peer_id}",
            )
            token = new_token()
            one = Vpn(lab.node(2), token, "10.1.0.1/24", *flags)
            one.wait_for_state("joining")
            time.sleep(2)
            began = time.monotonic()
            two = Vpn(lab.node(3), token, "10.1.0.2/24", *flags)
            traffic.first_answer(lab.node(3), "10.1.0.1", "edgevpn0", 60)
            times.append(time.monotonic() - began)
            for vpn in (middle, one, two):
                vpn.close()
        say(f"bootstrap {number}: {times[-1]:.2f} s")
    return summary(times)


def measure_speed(_tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Pings and one TCP stream through a clean lab."""
    with Lab(2) as lab:
        token = new_token()
        nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in (1, 2)]
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        found = _speed(lab.node(1), lab.node(2), say)
        for vpn in nodes:
            vpn.close()
    return found


def _speed(one: Node, two: Node, say: Callable[[str], None]) -> dict[str, Any]:
    time.sleep(2)
    pings = traffic.ping(two, "10.1.0.1", 100, 0.1, "edgevpn0")
    say(f"ping: median {pings.median_ms:.2f} ms")
    speeds = []
    for number in range(1, 4):
        speeds.append(traffic.iperf3(one, two, "10.1.0.1", 3))
        say(f"iperf3 {number}: {speeds[-1]:.0f} Mbit/s")
    lost = pings.sent - pings.received
    return {"ping_ms": summary(pings.rtts_ms), "pings_lost": lost, "tcp_mbit": summary(speeds, 1)}


def measure_go(tries: int, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Join and speed of the Go program, if EDGEVPN_GO_BIN names it."""
    program = os.environ.get("EDGEVPN_GO_BIN")
    if not program:
        say("go: skipped, EDGEVPN_GO_BIN names no program")
        return None
    joins = []
    speed: dict[str, Any] = {}
    for number in range(1, tries + 1):
        with Lab(2) as lab:
            env = environment(EDGEVPNTOKEN=new_token())
            lab.node(1).popen([program, "--address", "10.1.0.1/24", "--dht=false"], env=env)
            time.sleep(3)
            began = time.monotonic()
            lab.node(2).popen([program, "--address", "10.1.0.2/24", "--dht=false"], env=env)
            traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 60)
            joins.append(time.monotonic() - began)
            say(f"go join {number}: {joins[-1]:.2f} s")
            if number == tries:
                speed = _speed(lab.node(1), lab.node(2), say)
    return {"join_s": summary(joins), **speed}


def measure_kills(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """kill -9 of each actor in turn: the longest time without an answered ping."""
    outages: dict[str, list[float]] = {name: [] for name in ACTORS}
    with Lab(2) as lab:
        token = new_token()
        one = Vpn(lab.node(1), token, "10.1.0.1/24", "--dht=false")
        two = Vpn(lab.node(2), token, "10.1.0.2/24", "--dht=false")
        traffic.first_answer(lab.node(2), "10.1.0.1", "edgevpn0", 30)
        for number in range(1, rounds + 1):
            for actor in ACTORS:
                pid = two.pid_of(actor)
                pinging = traffic.Pinging(lab.node(2), "10.1.0.1", 0.02, "edgevpn0")
                time.sleep(0.3)
                os.kill(pid, signal.SIGKILL)
                time.sleep(2.5)
                outages[actor].append(pinging.finish().longest_gap_s)
            say(f"kills, round {number}: " + ", ".join(f"{a} {v[-1]:.2f}" for a, v in outages.items()) + " s")
        entries = len(two.json("ledger", "machines"))
        restarts = {a["name"]: a["restarts"] for a in two.json("actors") if a["name"] in ACTORS}
        codes = [vpn.stop() for vpn in (two, one)]
        for vpn in (one, two):
            vpn.close()
    return {
        "longest_gap_s": {name: summary(values) for name, values in outages.items()},
        "machines_known_after": entries,
        "restarts": restarts,
        "exit_codes": codes,
    }


def measure_five(tries: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Five nodes started at once: all five ledgers equal, every pair answers."""
    equal, pairs = [], []
    for number in range(1, max(1, tries // 4) + 1):
        with Lab(5) as lab:
            token = new_token()
            began = time.monotonic()
            nodes = [Vpn(lab.node(k), token, f"10.1.0.{k}/24", "--dht=false") for k in range(1, 6)]

            def agreed(nodes: list[Vpn] = nodes) -> bool:
                found = [vpn.ask("ledger", "--json", check=False).stdout for vpn in nodes]
                return len(set(found)) == 1 and len(json.loads(found[0] or "{}").get("machines", {})) == len(nodes)

            traffic.wait_for(agreed, 60, what="equal ledgers")
            equal.append(time.monotonic() - began)
            for one in range(1, 6):
                for two in range(1, 6):
                    if one != two:
                        traffic.first_answer(lab.node(one), f"10.1.0.{two}", "edgevpn0", 10)
            pairs.append(time.monotonic() - began)
            for vpn in nodes:
                vpn.close()
        say(f"five {number}: equal after {equal[-1]:.1f} s, all pairs after {pairs[-1]:.1f} s")
    return {"equal_s": summary(equal), "all_pairs_s": summary(pairs)}


WHAT: dict[str, Callable[[int, Callable[[str], None]], dict[str, Any] | None]] = {
    "join": measure_join,
    "bootstrap": measure_bootstrap,
    "speed": measure_speed,
    "five": measure_five,
    "kills": measure_kills,
    "dns": measure_dns,
    "restarts": measure_restarts,
    "idle": measure_idle,
    "disk": measure_disk,
    "dhcp": measure_dhcp,
    "tunnels": measure_tunnels,
    "files": measure_files,
    "quiet": measure_quiet,
    "spread": measure_spread,
    "hostile": measure_hostile,
    "rekey": measure_rekey,
    "flood": measure_flood,
    "mtu": measure_mtu,
    "go": measure_go,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/measure",
        description="Measure nodes in a lab of network namespaces.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(WHAT)} (all)")
    parser.add_argument(
        "--tries",
        type=int,
        default=20,
        help="of join, bootstrap, restarts; rekey x 5, flood / 4; how long for spread and hostile (20)",
    )
    parser.add_argument("--rounds", type=int, default=10, help="of kills (10)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout, progress on stderr")
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in WHAT]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}: choose from {', '.join(WHAT)}")

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    found = {}
    try:
        for name in options.what or WHAT:
            found[name] = WHAT[name](options.rounds if name == "kills" else options.tries, say)
    except LabError as exc:
        print(f"measure: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
