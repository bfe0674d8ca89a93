"""scripts/chaos: kills actors of a running node at random, and prints what that cost."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from edgevpn.errors import EdgevpnError
from scripts.labkit import chaos_figures
from scripts.labkit.bed import EVERY_ACTOR, MOST_BEFORE, PATIENCE, TEMPLATE, Bed, Hurt, ways_for
from scripts.labkit.chaos_figures import Outcome
from scripts.labkit.chaos_table import measure_table
from scripts.labkit.namespaces import Lab, LabError
from scripts.labkit.ways import WAYS, Way

PAUSE = 0.3  # seconds after an actor is ready again until the next is hurt
_EPILOG = """ways: kill, segv and stop are signals; exit (os._exit) and exception are typed at the actor's own prompt;
memory and fds are limits of the kernel's on the running process, lifted after 2 s when it lives through them.

examples:
  scripts/chaos                                      60 hurts of one node of three, all ways, about 2 minutes
  scripts/chaos --cycles 500 --ways kill --seed 7    the same kills again as another time with this seed
  scripts/chaos --actors tun,host --ways stop,fds    only these actors and ways
  scripts/chaos --all --path stream --json
  scripts/chaos table --rounds 10                    what the promises are held against; exit code 1 when one is broken
The exit code is 1 when the node ended, an entry was lost, a child was left unreaped or an actor did not come back.
"""


def main() -> int:
    options = _parse()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    say(f"chaos: seed {seed}")
    try:
        if options.what == "table":
            found = measure_table(options.rounds, seed, say)
            text = found.pop("text")
        else:
            found = run(options, seed)
            text = found.pop("text")
    except (LabError, EdgevpnError) as exc:
        print(f"chaos: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"seed": seed, **found}, indent=2) if options.json else text)
    return 130 if found.get("interrupted") else 0 if found["well"] else 1


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Hurt the actors of a node in a lab of three, under 1,000 echo requests a second and a TCP stream.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=("random", "table"), default="random", help="(random)")
    parser.add_argument("--cycles", type=int, default=60, help="hurts (60)")
    parser.add_argument("--seed", type=int, help="of what is hurt, how and when (another each time; it is printed)")
    parser.add_argument("--actors", default="", help="comma separated (all that run, and template)")
    parser.add_argument("--ways", default="", help=f"comma separated, of {', '.join(WAYS)} (all)")
    parser.add_argument("--all", action="store_true", help="hurt actors of all three nodes, not of one")
    parser.add_argument("--more", action="store_true", help="with api, dns and tunnels, which are not always there")
    parser.add_argument("--pause", type=float, default=PAUSE, metavar="S", help=f"between two hurts ({PAUSE:g})")
    parser.add_argument("--rate", type=float, default=1000, metavar="N", help="echo requests a second (1000)")
    parser.add_argument("--mbit", type=float, default=20, help="of the TCP stream, 0: none (20)")
    parser.add_argument(
        "--path", choices=("auto", "datagram", "stream"), default="auto", help="the nodes' --path (auto)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each row of the table (5)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parser.parse_args()
    if options.cycles < 1 or options.rounds < 1 or options.rate <= 0:
        parser.error("--cycles, --rounds and --rate are 1 or more")
    options.ways = [name for name in options.ways.split(",") if name] or list(WAYS)
    if unknown := [name for name in options.ways if name not in WAYS]:
        parser.error(f"there is no way {', '.join(unknown)}: choose from {', '.join(WAYS)}")
    options.actors = [name for name in options.actors.split(",") if name]
    return options


def plan(
    cycles: int, chance: random.Random, nodes: Sequence[int], actors: Sequence[str], ways: Sequence[Way]
) -> Iterator[tuple[int, str, str]]:
    """(node, actor, way) of each hurt."""
    possible = [(actor, found) for actor in sorted(actors) if (found := ways_for(actor, ways))]
    if not possible:
        raise LabError("none of these ways can be done to these actors")
    for _ in range(cycles):
        actor, found = chance.choice(possible)
        yield chance.choice(nodes), actor, chance.choice(found).name


def run(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The random part; its figures, and a text for people as "text"."""
    chance = random.Random(seed)
    with Lab(3) as lab:
        flags = () if options.path == "auto" else (f"--path={options.path}",)
        bed = Bed(lab, 3, *flags, first=EVERY_ACTOR if options.more else ())
        try:
            bed.settle()
            nodes = [1, 2, 3] if options.all else [1]
            for k in nodes:
                bed.flood(k, len(nodes) / options.rate)
            if options.mbit:
                bed.start_load(3, 1, options.mbit)
            there = [*bed.actor_names(1), TEMPLATE]
            if unknown := [name for name in options.actors if name not in there]:
                raise LabError(f"there is no actor {', '.join(unknown)}: there are {', '.join(there)}")
            hurts = plan(options.cycles, chance, nodes, options.actors or there, [WAYS[name] for name in options.ways])
            outcomes, interrupted = endure(bed, hurts, options.cycles, options.pause, chance, say)
            found = describe(bed, outcomes, loaded=bool(options.mbit))
        finally:
            bed.close()
    return {**found, "interrupted": interrupted}


def endure(
    bed: Bed,
    hurts: Iterator[tuple[int, str, str]],
    cycles: int,
    pause: float,
    chance: random.Random,
    say: Callable[[str], None],
) -> tuple[list[Outcome], bool]:
    """Do all of it; what came of it, and whether Ctrl-C (or SIGTERM) ended it early."""
    outcomes: list[Outcome] = []
    waiting: list[tuple[Hurt, float]] = []

    def collect(now: float) -> None:
        while waiting and waiting[0][1] + PATIENCE < now:
            hurt, until = waiting.pop(0)
            outcomes.append(Outcome(hurt, bed.packets(hurt, until)))
            bed.floods[hurt.node].forget(hurt.at - 0.01)

    told = time.monotonic()
    try:
        time.sleep(1.0)
        for number, (node, actor, way) in enumerate(hurts, 1):
            hurt = bed.hurt(node, actor, way, chance, min(MOST_BEFORE, 0.05 + 2 * pause))
            time.sleep(pause)
            waiting.append((hurt, time.monotonic()))
            trouble = [hurt.wrong] if hurt.wrong else []
            trouble += [f"entries lost: {', '.join(hurt.entries_lost)}"] if hurt.entries_lost else []
            trouble += [f"{hurt.zombies} zombies"] if hurt.zombies else []
            for line in trouble:
                say(f"chaos: {number}: {actor} {way}: {line}")
            now = time.monotonic()
            collect(now)
            if now - told > 5 or number == cycles:
                told = now
                say(f"chaos: {number} of {cycles}; packets lost so far: {sum(o.packets.lost for o in outcomes)}")
        time.sleep(PATIENCE)
        interrupted = False
    except (KeyboardInterrupt, SystemExit):  # SIGTERM: the figures so far are worth as much
        interrupted = True
    collect(float("inf"))
    return outcomes, interrupted


def describe(bed: Bed, outcomes: Sequence[Outcome], *, loaded: bool) -> dict[str, Any]:
    """The figures, and as text."""
    if not outcomes:
        raise KeyboardInterrupt
    rows, everything = chaos_figures.rows(outcomes), chaos_figures.whole(outcomes)
    try:
        everything["entries_lacking_somewhere"] = len(bed.lacking_anywhere())
    except EdgevpnError as exc:
        everything["wrong"].append(f"a ledger does not answer: {exc}")
        everything["entries_lacking_somewhere"] = None
    everything["tcp_stream_lives"] = bed.load_lives if loaded else None
    text = chaos_figures.table(rows) + "\n"
    for name, value in everything.items():
        shown = ", ".join(f"{part} {figure}" for part, figure in value.items()) if isinstance(value, dict) else value
        text += f"{name.replace('_', ' '):26}{shown}\n"
    broken = [everything[name] for name in ("wrong", "entries_lost", "zombies", "entries_lacking_somewhere")]
    well = not any(broken) and (not loaded or bed.load_lives)
    return {
        "rows": rows,
        "all": everything,
        "hurts": [{**asdict(one.hurt), **asdict(one.packets)} for one in outcomes],
        "well": well,
        "text": text.rstrip(),
    }


if __name__ == "__main__":
    sys.exit(main())
