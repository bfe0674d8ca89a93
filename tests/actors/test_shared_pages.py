"""A child of a settled process: how many pages it takes for itself, and that the fillings stay small."""

from __future__ import annotations

import json
import subprocess
import sys

# A process like the template: it imports much, makes gaps, maybe settles, forks; the child allocates a little, as an
# actor does, and tells how much memory has become its own by that.
_PROGRAM = """
import json, os, random, sys
import trio, msgspec, logging, argparse, asyncio, email.message, http.client, unittest.mock
from edgevpn.actors import shared_pages

chance = random.Random(1)
kept = [bytes(chance.randrange(20, 2000)) for _ in range(40_000)]
chance.shuffle(kept)
del kept[::20]  # gaps everywhere
if sys.argv[1] == "settle":
    shared_pages.settle()
reading, writing = os.pipe()

def private():
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))

if os.fork() == 0:
    before = private()
    held = [bytes(size) for size in range(20, 2000, 2)]
    os.write(writing, str(private() - before).encode())
    os._exit(0)
os.wait()
print(json.dumps({"grown_kib": int(os.read(reading, 99)), "fillings": sum(map(sys.getsizeof, shared_pages._fillings))}))
"""


def child(how: str) -> dict[str, int]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_what_a_child_of_a_settled_process_allocates_costs_little_more_than_its_size() -> None:
    needed = sum(range(20, 2000, 2)) // 1024  # 977 KiB
    settled, as_it_was = child("settle"), child("no")
    assert settled["grown_kib"] < needed * 1.35
    assert as_it_was["grown_kib"] > settled["grown_kib"] * 1.5
    assert settled["fillings"] < 2_000_000
