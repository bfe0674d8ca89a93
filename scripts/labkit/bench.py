"""scripts/bench: throughput and latency of the datagram path beside the raw link and other VPNs, in one run.

Each row is a lab of its own (namespaces.py, the relay in C). In it all contestants stand at the same time and take
turns, so that what drifts drifts for all. A turn is one TCP stream (cubic) with 200 pings a second beside it,
or nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.labkit import bench_detail, traffic
from scripts.labkit.bench_transfers import ROWS as TRANSFERS, bench_transfers
from scripts.labkit.namespaces import Lab, LabError, Node
from scripts.labkit.nodes import Vpn, new_token
from scripts.labkit.others import OTHERS

_EPILOG = """examples:
  scripts/bench repair                            the table of losses, about 8 minutes
  scripts/bench repair --rows 20ms-1% --tries 3
  scripts/bench repair --rows 80ms-1% --only auto --detail
  scripts/bench transfers --megabytes 200         whether what goes through is what arrives
  scripts/bench fair clean --json
  scripts/bench memory --minutes 10
  scripts/bench --realtime repair                 before everything else on this machine, which may be busy

Others that run when they are here: wireguard-go, and on the clean veth nebula, openvpn and tinc (apt-get install
--no-install-recommends wireguard-go wireguard-tools nebula openvpn tinc, or paths in WIREGUARD_GO_BIN, NEBULA_BIN,
OPENVPN_BIN, TINCD_BIN), and the Go program EdgeVPN (its path in EDGEVPN_GO_BIN).
"""
SECONDS = 6.0
LONG = 12.0  # of a turn where slow start alone takes seconds
BUFFER = 16 << 20  # bytes that TCP may have in flight: twice a round trip and a queue of the largest way, and more
UDP_BUFFER = 1 << 20
ALONE = "one stream, nothing beside"
RAW, OURS, WIREGUARD = "raw", ("auto", "off"), "wireguard-go"
STREAM = "stream"  # ours where UDP does not pass


@dataclass(frozen=True)
class Way:
    """A path: round trip in ms, loss as a fraction, a burst lost of so many."""

    name: str
    rtt_ms: float
    loss: float
    burst: tuple[int, int] = (0, 0)
    rate_mbit: float | None = 200.0
    goal: float = 0.0
    seconds: float = SECONDS


WAYS = (
    Way("20ms-0%", 20, 0.0),
    Way("20ms-0.1%", 20, 0.001, goal=150),
    Way("20ms-0.5%", 20, 0.005, goal=150),
    Way("20ms-1%", 20, 0.01, goal=150),
    Way("20ms-2%", 20, 0.02, goal=130),
    Way("80ms-0%", 80, 0.0, seconds=LONG),
    Way("80ms-0.5%", 80, 0.005, goal=130, seconds=LONG),
    Way("80ms-1%", 80, 0.01, goal=130, seconds=LONG),
    Way("20ms-burst", 20, 0.0, (5, 200), goal=100),
)


@dataclass
class Contestant:
    """Something that carries packets from the second node to the address on the first. `pids`: whose CPU counts."""

    name: str
    address: str
    pids: Callable[[], list[int]] = list
    vpns: Sequence[Vpn] = ()  # when it is ours: receiver and sender
    mbit: list[float] = field(default_factory=list)
    pings: list[traffic.PingResult] = field(default_factory=list)
    cpu_s_per_gb: list[float] = field(default_factory=list)
    relay_late_ms: list[float] = field(default_factory=list)  # by turn: the lab's own fault


def percentile(values: Sequence[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] if ordered else float("inf")


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    if not values:
        return {}
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of processes that run: user and system."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


# --- contestants


def title(kind: str) -> str:
    return "ours, by stream" if kind == STREAM else f"ours, repair {kind}"


def ours(stack: ExitStack, lab: Lab, number: int, kind: str) -> Contestant:
    """Two of our nodes, in a network of their own: repair "auto" or "off", or where UDP does not pass ("stream")."""
    token, name = new_token(), f"evb{number}"
    pair = []
    for k in (1, 2):
        way = "--path=stream" if kind == STREAM else "--path=datagram"
        repair = "off" if kind == STREAM else kind
        flags = ("--dht=false", f"--repair={repair}", "--mtu=1420", f"--interface={name}", way)
        vpn = Vpn(lab.node(k), token, f"10.{number}.0.{k}/24", *flags)
        stack.callback(vpn.close)
        pair.append(vpn)
    address = f"10.{number}.0.1"
    traffic.first_answer(lab.node(2), address, name, 30)
    return Contestant(title(kind), address, lambda: [vpn.pid_of("tun") for vpn in pair], pair)


def wireguard(lab: Lab, number: int) -> Contestant | None:
    """wireguard-go, if it is here."""
    program = os.environ.get("WIREGUARD_GO_BIN") or shutil.which("wireguard-go")
    if not program or shutil.which("wg") is None:
        return None
    keys = [subprocess.run(["wg", "genkey"], capture_output=True, check=True).stdout for _ in (1, 2)]
    publics = [subprocess.run(["wg", "pubkey"], input=key, capture_output=True, check=True).stdout for key in keys]
    name = f"evw{os.getpid() % 10000}"
    processes = []
    for k in (1, 2):
        node = lab.node(k)
        device = f"{name}x{k}"
        processes.append(node.popen([program, "-f", device], env=os.environ | {"LOG_LEVEL": "silent"}))
        wait_for_device(node, device)
        private = f"/dev/shm/{device}"  # noqa: S108 - the name is ours, and it goes at once
        descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, keys[k - 1])
            other = lab.node(3 - k)
            words = ["wg", "set", device, "listen-port", "51820", "private-key", private]
            words += ["peer", publics[2 - k].decode().strip(), "allowed-ips", f"10.{number}.0.0/24"]
            node.run([*words, "endpoint", f"{other.address}:51820"])
        finally:
            os.close(descriptor)
            os.unlink(private)
        node.run(["ip", "addr", "add", f"10.{number}.0.{k}/24", "dev", device])
        node.run(["ip", "link", "set", device, "mtu", "1420", "up"])
    traffic.first_answer(lab.node(2), f"10.{number}.0.1", f"{name}x2", 10)
    return Contestant("wireguard-go", f"10.{number}.0.1", lambda: [one.pid for one in processes])


def wait_for_device(node: Node, device: str) -> None:
    def is_there() -> bool:
        return device in node.run(["ip", "-br", "link"]).stdout

    traffic.wait_for(is_there, 5, what=f"the device {device}")


@contextlib.contextmanager
def contest(
    way: Way, only: Sequence[str] | None = None, *, everybody: bool = False
) -> Iterator[tuple[Lab, list[Contestant]]]:
    """A lab with those of the contestants that are wanted. `everybody`: not only wireguard-go of the others."""
    wanted = only or (RAW, *OURS, WIREGUARD, *((STREAM, *OTHERS) if everybody else ()))
    with ExitStack() as stack:
        lab = stack.enter_context(
            Lab(2, delay_ms=way.rtt_ms / 2, loss=way.loss, rate_mbit=way.rate_mbit, burst=way.burst, fast=True, seed=1)
        )
        for node in lab.nodes:
            prepare(node)
        found = [Contestant(RAW, lab.node(1).address)] if RAW in wanted else []
        found += [ours(stack, lab, 11 + k, repair) for k, repair in enumerate(OURS) if repair in wanted]
        found += [ours(stack, lab, 10, STREAM)] if STREAM in wanted else []
        other = wireguard(lab, 13) if WIREGUARD in wanted else None
        found += [other] if other else []
        for number, (name, start) in enumerate(OTHERS.items(), 14):
            running = start(stack, lab, number) if name in wanted else None
            found += [Contestant(name, *running)] if running else []
        yield lab, found


def prepare(node: Node) -> None:
    """TCP there has room for what the way holds, and no connection knows what an earlier one has learnt."""
    for name, value in (("wmem", f"4096 65536 {BUFFER}"), ("rmem", f"4096 131072 {2 * BUFFER}")):
        node.run(["sh", "-c", f"echo '{value}' > /proc/sys/net/ipv4/tcp_{name}"])
    node.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save"])


# --- turns


def turn(
    lab: Lab,
    one: Contestant,
    seconds: float,
    *options: str,
    say: Callable[[str], None] | None = None,
    pings: bool = True,
) -> None:
    """A stream, and pings beside it. With `say` it tells what happened on the wire, in TCP and to repair."""
    detail = bench_detail.Detail(lab, one.vpns) if say is not None else None
    pinging = traffic.Pinging(lab.node(2), one.address, 0.005) if pings else None
    pids = one.pids()
    before = cpu_seconds(pids)
    if lab.counts and detail is None:
        lab.wire()
    report = traffic.iperf3_report(lab.node(1), lab.node(2), one.address, seconds, "-C", "cubic", *options)
    mbit = traffic.received_mbit(report)
    used = cpu_seconds(pids) - before
    if pinging is not None:
        one.pings.append(pinging.finish())
    one.mbit.append(mbit)
    if lab.counts and detail is None:
        one.relay_late_ms.append(round(lab.wire().late_us / 1000, 1))
    if pids:
        one.cpu_s_per_gb.append(used / max(1e-9, mbit * seconds / 8000))
    if detail is not None and say is not None and pinging is not None:
        for line in detail.lines(one.name, report, one.pings[-1]):
            say(line)


def described(one: Contestant) -> dict[str, Any]:
    found: dict[str, Any] = {"name": one.name, "mbit": spread(one.mbit)}
    if one.pings:
        rtts = [rtt for result in one.pings for rtt in result.rtts_ms]
        found["ping_ms"] = {"median": round(statistics.median(rtts), 2), "p99": round(percentile(rtts, 0.99), 2)}
        sent, received = sum(p.sent for p in one.pings), sum(p.received for p in one.pings)
        if one.relay_late_ms:
            found["ping_p99_ms_by_turn"] = [round(percentile(result.rtts_ms, 0.99), 1) for result in one.pings]
            found["relay_late_ms_by_turn"] = one.relay_late_ms
        found["pings_lost"] = round(1 - received / max(1, sent), 4)
    if one.cpu_s_per_gb:
        found["cpu_s_per_gb"] = spread(one.cpu_s_per_gb, 2)
    return found


def bench_repair(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The table of losses."""
    rows = []
    for way in WAYS:
        if options.rows and way.name not in options.rows:
            continue
        with contest(way, options.only) as (lab, contestants):
            for _ in range(options.tries):
                for one in contestants:
                    turn(lab, one, options.seconds or way.seconds, say=say if options.detail else None)
            row = {"row": way.name, "goal_mbit": way.goal, "found": [described(one) for one in contestants]}
        rows.append(row)
        show(row, say)
    return rows


def bench_fair(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """50 Mbit/s without random loss: a stream inside and a raw one beside it."""
    way = Way("50mbit-beside-raw", 20, 0.0, rate_mbit=50.0)
    with contest(way, OURS) as (lab, (with_repair, without)):
        beside: dict[str, list[float]] = {with_repair.name: [], without.name: []}
        for _ in range(options.tries):
            for one in (with_repair, without):
                inside, raw = two_streams(lab, one.address, lab.node(1).address, options.seconds or LONG)
                one.mbit.append(inside)
                beside[one.name].append(raw)
        found = [described(one) | {"raw_beside_mbit": spread(beside[one.name])} for one in (with_repair, without)]
        ratio = statistics.median(with_repair.mbit) / statistics.median(without.mbit)
    row = {"row": way.name, "found": found, "on_to_off": round(ratio, 3), "goal_on_to_off": "<= 1.5"}
    show(row, say)
    return [row]


def two_streams(lab: Lab, first: str, second: str, seconds: float) -> tuple[float, float]:
    """Mbit/s of two streams at the same time, from the second node to two addresses of the first."""
    server, client = lab.node(1), lab.node(2)
    listening, sending = [], []
    for number, address in enumerate((first, second)):
        port = str(5301 + number)
        listening.append(server.popen(["iperf3", "-s", "-1", "-B", address, "-p", port]))
        wait_for_port(server, port)
        words = ["iperf3", "-J", "-c", address, "-p", port, "-t", f"{seconds:g}", "-C", "cubic"]
        sending.append(client.popen(words, stdout=subprocess.PIPE))
    results = []
    for process in sending:
        output = process.communicate(timeout=seconds + 30)[0]
        results.append(float(json.loads(output)["end"]["sum_received"]["bits_per_second"]) / 1e6)
    for process in listening:
        server.stop(process, grace=0.5)
    return results[0], results[1]


def wait_for_port(server: Node, port: str) -> None:
    def listens() -> str:
        return server.run(["ss", "-Hltn", f"sport = :{port}"]).stdout.strip()

    traffic.wait_for(listens, 5, what=f"a server at port {port}")


def bench_clean(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A clean veth: one stream, eight, small packets, pings, CPU and memory."""
    rows = []
    way = Way("clean", 0, 0.0, rate_mbit=None)
    seconds = (options.seconds or SECONDS) / 2
    with contest(way, options.only, everybody=True) as (lab, contestants):
        idle: dict[str, list[float]] = {one.name: [] for one in contestants}
        for _ in range(4):
            for one in contestants:
                idle[one.name] += traffic.ping(lab.node(2), one.address, 30, 0.02).rtts_ms
        for name, words in (
            ("one stream", ()),
            (ALONE, ()),
            ("one stream back", ("-R",)),
            ("eight streams", ("-P", "8")),
        ):
            for one in contestants:
                one.mbit, one.pings, one.cpu_s_per_gb = [], [], []
            for _ in range(options.tries):
                for one in contestants:
                    turn(lab, one, seconds, *words, pings=name != ALONE)
            row: dict[str, Any] = {"row": f"clean, {name}", "found": [described(one) for one in contestants]}
            if name == "one stream":
                for found, one in zip(row["found"], contestants, strict=True):
                    found["idle_ping_ms"] = round(statistics.median(idle[one.name]), 3)
                    found["rss_mb"] = [round(resident(pid) / 1e6, 1) for pid in one.pids()]
            compare(row, contestants)
            rows.append(row)
            show(row, say)
            if options.brief and name == ALONE:
                return rows
        packets: dict[str, list[float]] = {one.name: [] for one in contestants}
        for _ in range(options.tries):
            for one in contestants:
                packets[one.name].append(small_packets(lab, one.address, seconds))
        found = [{"name": name, "packets_per_s": spread(values, 0)} for name, values in packets.items()]
        row = {"row": "clean, UDP of 100 bytes", "found": found}
        rows.append(row)
        show(row, say)
    return rows


def compare(row: dict[str, Any], contestants: Sequence[Contestant]) -> None:
    """Ours against each of the others, by medians; with repair against without, turn by turn."""
    by_name = {one.name: one.mbit for one in contestants}
    with_repair, without = by_name.get(title("auto")), by_name.get(title("off"))
    if with_repair is None:
        return
    ours_median = statistics.median(with_repair)
    for found, one in zip(row["found"], contestants, strict=True):
        if not one.vpns and one.name != RAW:
            found["ours_to_it"] = round(ours_median / max(0.001, statistics.median(one.mbit)), 2)
    if without is not None:
        row["on_to_off"] = round(statistics.median(on / off for on, off in zip(with_repair, without, strict=True)), 3)
        row["goal_on_to_off"] = ">= 0.97"


def bench_memory(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What the tun actors hold while they work: eight streams each way in turn, and small packets."""
    way = Way("memory", 0, 0.0, rate_mbit=None)
    began, samples = time.monotonic(), []
    with contest(way, ("auto",)) as (lab, (one,)):
        while not samples or time.monotonic() < began + options.minutes * 60:
            for words in ((), ("-R",)):
                turn(lab, one, 4, "-P", "8", *words)
            small_packets(lab, one.address, 2)
            held = [round(resident(pid) / 1e6, 2) for pid in one.pids()]
            samples.append({"after_s": round(time.monotonic() - began), "rss_mb": held})
            say("  after {after_s} s: {rss_mb} MB".format(**samples[-1]))
            one.pings.clear()
    # the first third is not counted: tables and buffers are made when they are needed first
    settled = samples[len(samples) // 3 :]
    grown = [round(b - a, 2) for a, b in zip(settled[0]["rss_mb"], settled[-1]["rss_mb"], strict=True)]
    row = {"row": f"memory, {options.minutes:g} minutes of load", "found": [], "samples": samples, "grown_mb": grown}
    say(f"{row['row']}: {samples[0]['rss_mb']} to {samples[-1]['rss_mb']} MB; in the last two thirds {grown} MB")
    return [row]


def small_packets(lab: Lab, address: str, seconds: float) -> float:
    """Packets of 100 bytes a second that arrived, of as many as iperf3 can send.

    The receiver has a buffer of UDP_BUFFER, as one that is for so many would have: with Linux's own, of 277 such
    packets, it loses a quarter of them itself while it waits for a processor.
    """
    server, client = lab.node(1), lab.node(2)
    listening = server.popen(["iperf3", "-s", "-1", "-B", address])
    wait_for_port(server, "5201")
    words = ["iperf3", "-J", "-c", address, "-u", "-b", "0", "-l", "100", "-t", f"{seconds:g}", "-w", str(udp_buffer())]
    done = client.run(words, timeout=seconds + 20, check=False)
    server.stop(listening, grace=0.5)
    try:
        total = json.loads(done.stdout)["end"]["sum"]
        return float(total["packets"] - total["lost_packets"]) / float(total["seconds"])
    except (ValueError, KeyError) as exc:
        raise LabError(f"iperf3 gave no result: {done.stdout[-200:]}") from exc


def udp_buffer() -> int:
    """Bytes: UDP_BUFFER, or what this machine allows."""
    limits = (Path("/proc/sys/net/core", name).read_text("ascii") for name in ("rmem_max", "wmem_max"))
    return min(UDP_BUFFER, *map(int, limits))


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show(row: dict[str, Any], say: Callable[[str], None]) -> None:
    """One row of the table, a line for each contestant."""
    say(row["row"] + (f"   goal: {row['goal_mbit']:g} Mbit/s" if row.get("goal_mbit") else ""))
    for one in row["found"]:
        parts = [f"  {one['name']:<18}"]
        for name, unit in (
            ("mbit", "Mbit/s"),
            ("raw_beside_mbit", "Mbit/s raw beside"),
            ("packets_per_s", "packets/s"),
        ):
            if one.get(name):
                parts.append("{min:>8g} {median:>8g} {max:>8g} ".format(**one[name]) + unit)
        if "ping_ms" in one:
            parts.append(f"ping {one['ping_ms']['median']:g}, p99 {one['ping_ms']['p99']:g} ms")
        if "ping_p99_ms_by_turn" in one:
            turns = zip(one["ping_p99_ms_by_turn"], one["relay_late_ms_by_turn"], strict=True)
            parts.append("by turn, with how late the relay was: " + ", ".join(f"{p:g} ({late:g})" for p, late in turns))
        if "idle_ping_ms" in one:
            parts.append(f"idle {one['idle_ping_ms']:g} ms")
        if one.get("cpu_s_per_gb"):
            parts.append(f"{one['cpu_s_per_gb']['median']:g} CPU s/GB")
        if one.get("rss_mb"):
            parts.append(f"RSS {max(one['rss_mb']):g} MB")
        if one.get("ours_to_it"):
            parts.append(f"ours: {one['ours_to_it']:g}x")
        say("  ".join(parts))
    if "on_to_off" in row:
        say(f"  repair on to off: {row['on_to_off']}   goal: {row['goal_on_to_off']}")


WHAT: dict[str, Callable[[argparse.Namespace, Callable[[str], None]], list[dict[str, Any]]]] = {
    "repair": bench_repair,
    "fair": bench_fair,
    "clean": bench_clean,
    "memory": bench_memory,
    "transfers": bench_transfers,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compare ours, with and without repair, with the raw link and other VPNs, in namespaces.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", help=f"some of {', '.join(WHAT)} (all)")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help=f"of repair and transfers: {', '.join([*(w.name for w in WAYS), *TRANSFERS])}".replace("%", "%%"),
    )
    parser.add_argument("--tries", type=int, default=3, help="turns of each contestant (3)")
    parser.add_argument("--seconds", type=float, help=f"of a turn ({SECONDS:g}; {LONG:g} where a round trip is 80 ms)")
    parser.add_argument("--only", nargs="+", choices=(RAW, *OURS, STREAM, WIREGUARD, *OTHERS), help="who takes part")
    parser.add_argument("--brief", action="store_true", help="of clean: one stream only, with pings and without")
    parser.add_argument("--megabytes", type=int, default=1000, help="of transfers: how many in each (1000)")
    parser.add_argument("--minutes", type=float, default=1.0, help="of memory: how long (1)")
    parser.add_argument("--detail", action="store_true", help="of repair: tell what each turn met, second by second")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="run before everything else on this machine (which Linux lets in for 50 ms a second all the same: pings"
        " are honest only where nothing else runs)",
    )
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout, progress on stderr")
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in WHAT]
    unknown += [name for name in options.rows or () if name not in {way.name for way in WAYS} | set(TRANSFERS)]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    say(f"{os.cpu_count()} cores, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}; min, median, max")
    found = {}
    try:
        for name in options.what or WHAT:
            found[name] = WHAT[name](options, say)
    except LabError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
