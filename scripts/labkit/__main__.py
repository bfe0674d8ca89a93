"""scripts/lab: a lab for the length of a command."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

from scripts.labkit.namespaces import Lab, LabError

_EPILOG = """examples:
  scripts/lab -n 2 -- ping -c 3 10.99.0.2        two nodes; a command in the first
  scripts/lab -n 3 --delay 20 --loss 1 --each -- ip -brief addr
  scripts/lab -n 2                               a shell in the first; EVLAB_2 names the second's namespace
  scripts/lab --sweep                            remove what killed labs left
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        description="Build network namespaces on a bridge, run a command in them, take all of it down.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", type=int, default=2, help="nodes (2)")
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="one way, through a userspace relay")
    parser.add_argument("--loss", type=float, default=0, metavar="PERCENT", help="random, each way")
    parser.add_argument("--rate", type=float, metavar="MBIT", help="of each link")
    parser.add_argument("--seed", type=int, default=0, help="of the losses (0)")
    parser.add_argument("--each", action="store_true", help="run the command in every node, one after the other")
    parser.add_argument("--json", action="store_true", help="describe the lab as JSON first")
    parser.add_argument("--sweep", action="store_true", help="remove what killed labs left, and end")
    parser.add_argument("command", nargs="*", help="after --; without one: a shell")
    options = parser.parse_args()
    if options.sweep:
        for name in Lab.sweep():
            print(name)
        return 0
    try:
        with Lab(
            options.n, delay_ms=options.delay, loss=options.loss / 100, rate_mbit=options.rate, seed=options.seed
        ) as lab:
            return run(lab, options)
    except LabError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(lab: Lab, options: argparse.Namespace) -> int:
    env = os.environ | {f"EVLAB_{k}": node.netns for k, node in enumerate(lab.nodes, 1)}
    if options.json:
        described = [{"netns": n.netns, "address": n.address, "address6": n.address6} for n in lab.nodes]
        print(json.dumps({"nodes": described, "seed": options.seed}), flush=True)
    elif options.loss:
        print(f"lab: seed {options.seed}", file=sys.stderr)
    words = options.command or [os.environ.get("SHELL", "/bin/bash")]
    code = 0
    for node in lab.nodes if options.each else lab.nodes[:1]:
        ended = subprocess.run(node.command(words), env=env, check=False).returncode
        code = max(code, ended if ended >= 0 else 128 - ended)  # by a signal: as a shell says it
    return code


if __name__ == "__main__":
    sys.exit(main())
