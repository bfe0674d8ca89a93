"""The command scripts/simulate."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence

from scripts.simkit.nodes import remember_signatures
from scripts.simkit.runs import Report, percentile, split, steady, wild

EPILOG = """examples:
  scripts/simulate network --nodes 10,100,1000
  scripts/simulate network --nodes 10,100 --rule go
  scripts/simulate split --nodes 10 --times 20
  scripts/simulate campaign --runs 10000 --json
  scripts/simulate campaign --runs 1 --seed 4711

Times are seconds of the virtual clock; rates count what the ledger's gossip costs on the wire, with TCP's headers and
acknowledgements. Every run prints its seed: the same seed gives the same run. Exit code 1 when a rule was broken.
"""
COLUMNS = (
    ("rule", "rule"),
    ("nodes", "nodes"),
    ("equal p50 s", "equal_p50_s"),
    ("p99 s", "equal_p99_s"),
    ("join p99 s", "join_p99_s"),
    ("heartbeat p99 s", "heartbeat_p99_s"),
    ("heal max s", "heal_max_s"),
    ("idle kbit/s", "idle_kbit_s"),
    ("most", "idle_most_kbit_s"),
    ("churn kbit/s", "churn_kbit_s"),
    ("most", "churn_most_kbit_s"),
    ("broken", "broken"),
    ("seed", "seed"),
    ("took s", "took_s"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"seed {seed}", file=sys.stderr)
    remember_signatures()
    if args.what == "campaign":
        return _campaign(args, seed)
    reports = []
    for count in args.nodes:
        for rule in ("ours", "go") if args.rule == "both" else (args.rule,):
            if args.what == "network":
                reports.append(steady(rule, count, seed, idle=args.idle, churn=args.churn, tell=_progress))
            else:
                reports.append(split(rule, count, seed, times=args.times, tell=_progress))
            _progress("")
    if args.json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        _table(reports)
    return int(any(report.broken for report in reports))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Simulate networks of nodes on a virtual clock: the cores that decide what a node says, in one "
        "process, with delay, loss, churn, partitions and wrong clocks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="what", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--seed", type=int, help="repeat the run with this seed (default: a new one)")
    common.add_argument("--json", action="store_true", help="print JSON")
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument("--nodes", type=_counts, default=[10], metavar="N,...", help="how many nodes (default: 10)")
    sized.add_argument("--rule", choices=("ours", "go", "both"), default="ours", help="whose rule (default: ours)")
    network = commands.add_parser("network", parents=[common, sized], help="a network that is idle, and then churns")
    network.add_argument("--idle", type=float, default=300.0, metavar="S", help="idle for so long (default: 300)")
    network.add_argument("--churn", type=float, default=300.0, metavar="S", help="1 %% a minute, so long (300)")
    halves = commands.add_parser("split", parents=[common, sized], help="partitions of 60 s, both halves write")
    halves.add_argument("--times", type=int, default=20, metavar="N", help="how many partitions (default: 20)")
    campaign = commands.add_parser("campaign", parents=[common], help="many short runs in which everything goes wrong")
    campaign.add_argument("--runs", type=int, default=10_000, metavar="N", help="how many (default: 10000)")
    campaign.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (one a core)")
    campaign.add_argument("--rule", choices=("ours", "go"), default="ours", help="whose rule (default: ours)")
    return parser


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, as 10,100") from None
    if not all(2 <= count <= 60_000 for count in counts):
        raise argparse.ArgumentTypeError("from 2 to 60000 nodes")
    return counts


def _progress(text: str) -> None:
    """One line on a terminal that is written over; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _table(reports: Sequence[Report]) -> None:
    rows = [[title for title, _ in COLUMNS]]
    for report in reports:
        values = report.as_dict()
        values["broken"] = len(report.broken)
        rows.append(["-" if values[name] is None else str(values[name]) for _, name in COLUMNS])
    shown = [n for n in range(len(COLUMNS)) if any(row[n] != "-" for row in rows[1:])]
    widths = [max(len(row[n]) for row in rows) for n in shown]
    for row in rows:
        print("  ".join(row[n].rjust(width) for n, width in zip(shown, widths, strict=True)).rstrip())
    for report in reports:
        for text in report.broken:
            print(f"broken with {report.nodes} nodes, seed {report.seed}: {text}")


def _one(rule: str, seed: int) -> Report:
    remember_signatures()
    return wild(rule, seed)


def _campaign(args: argparse.Namespace, seed: int) -> int:
    began = time.monotonic()
    reports: list[Report] = []
    broken: list[Report] = []
    with concurrent.futures.ProcessPoolExecutor(max(1, args.jobs)) as pool:
        running = {pool.submit(_one, args.rule, seed + number) for number in range(min(args.runs, 4 * args.jobs))}
        following = iter(range(len(running), args.runs))
        try:
            while running:
                done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    reports.append(future.result())
                    if reports[-1].broken:
                        broken.append(reports[-1])
                    number = next(following, None)
                    if number is not None:
                        running.add(pool.submit(_one, args.rule, seed + number))
                _progress(f"{len(reports)} of {args.runs} runs, {len(broken)} broken")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    _progress("")
    return _tell_campaign(args, seed, reports, broken, time.monotonic() - began)


def _tell_campaign(
    args: argparse.Namespace, seed: int, reports: list[Report], broken: list[Report], took: float
) -> int:
    heals = [report.heal_max_s for report in reports if report.heal_max_s is not None]
    summary = {
        "rule": args.rule,
        "seed": seed,
        "runs": len(reports),
        "writes": sum(report.writes for report in reports),
        "virtual_s": round(sum(report.seconds for report in reports)),
        "equal_after_p50_s": percentile(heals, 50),
        "equal_after_p99_s": percentile(heals, 99),
        "equal_after_max_s": percentile(heals, 100),
        "broken": len(broken),
        "took_s": round(took, 1),
        "failures": [{"seed": report.seed, "broken": report.broken[:3]} for report in broken[:20]],
    }
    if args.json:
        print(json.dumps(summary, indent=2))
        return int(bool(broken))
    for name, value in summary.items():
        if name != "failures":
            print(f"{name.replace('_', ' '):20} {value}")
    for report in broken[:20]:
        print(f"seed {report.seed}: {'; '.join(report.broken[:3])}")
    return int(bool(broken))


def run(work: Callable[[], int]) -> int:
    try:
        return work()
    except KeyboardInterrupt:
        _progress("")
        return 130


if __name__ == "__main__":
    sys.exit(run(main))
