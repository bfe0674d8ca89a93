"""scripts/fuzz-dns: hostile patterns and packets against the DNS server, each one timed.

Times are the processor's: on a machine where others work too, the clock would count them. What is read in a thread
(large replies of the servers asked) is told apart. None may take more than LIMIT.

Half of the rounds are patterns: compiled, put into a table of those before, and matched with a hostile name. The other
half are packets: to the server's own code for one query (the forwarder is off), some by the rules of TCP; a quarter of
them with one more, to the reader of other servers' replies. An error other than the one that a decoder may raise ends
the run, with the seed.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import dns.rdatatype

from edgevpn.actors.dns_server import DnsServer
from edgevpn.errors import UntrustedDataError
from edgevpn.names.patterns import Pattern, PatternTable, pattern_untrusted
from edgevpn.names.responder import Names
from edgevpn.names.upstream import ask, is_large_untrusted, read_reply_untrusted
from edgevpn.names.zone import Zone
from scripts.labkit.dns_evil import evil_name, evil_packet, evil_pattern

PEER = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"
KEPT = 600  # patterns that are in force at a time: more than are taken
_VALUES = (
    '{"1":"10.0.0.1"}',
    '{"5":"x.y"}',
    '{"16":"text"}',
    '{"1":"x"}',
    "{}",
    "[",
    '{"1":"10.0.0.1","28":"fd00::1"}',
)


LIMIT = 50.0  # ms


def fuzz(rounds: int, seed: int) -> dict[str, Any]:
    """Counts, and the slowest of each kind in milliseconds."""
    chance = random.Random(seed)
    zone = Zone("edgevpn.internal", {f"10.1.0.{k}": (f"{PEER[:-2]}{k:02}", f"host{k}") for k in range(1, 100)})
    patterns: list[Pattern] = []
    table = PatternTable([])
    counts: Counter[str] = Counter()
    server = DnsServer(Names(zone), None, None, lambda name: counts.update([name]))  # type: ignore[arg-type]
    slowest = {"compile": 0.0, "match": 0.0, "packet": 0.0, "reply": 0.0, "reply in a thread": 0.0}
    began = time.monotonic()
    gc.freeze()
    for number in range(rounds):
        if number % 2:
            text = evil_pattern(chance)
            start = time.thread_time()
            try:
                pattern = pattern_untrusted(text, chance.choice(_VALUES))
            except UntrustedDataError:
                counts["patterns_refused"] += 1
            else:
                counts["patterns_taken"] += 1
                patterns.append(pattern)
            slowest["compile"] = max(slowest["compile"], time.thread_time() - start)
            if number % 200 == 1:
                patterns = patterns[-KEPT:]
                table = PatternTable(patterns)
                server.use(Names(zone, table))
            name = evil_name(chance)
            start = time.thread_time()
            table.lookup(name, dns.rdatatype.RdataType(chance.choice((1, 28, 16, 5, 255))))
            slowest["match"] = max(slowest["match"], time.thread_time() - start)
        else:
            wire = evil_packet(chance)
            start = time.thread_time()
            server._at_once(wire, "192.0.2.1", tcp=chance.random() < 0.2)
            slowest["packet"] = max(slowest["packet"], time.thread_time() - start)
            counts["packets"] += 1
            if number % 8 == 0:
                _one_reply(chance, slowest, counts)
    return {
        "rounds": rounds,
        "seed": seed,
        "crashes": 0,
        "seconds": round(time.monotonic() - began, 1),
        "slowest_ms": {name: round(value * 1000, 2) for name, value in slowest.items()},
        **dict(sorted(counts.items())),
    }


def _one_reply(chance: random.Random, slowest: dict[str, float], counts: Counter[str]) -> None:
    question = ask(evil_name(chance), 1, dnssec_ok=False, checking_disabled=False, chance=chance)
    forged = _forged(question.wire, chance)
    start = time.thread_time()
    try:
        read_reply_untrusted(forged, question, tcp=chance.random() < 0.5)
        counts["replies_taken"] += 1
    except UntrustedDataError:
        counts["replies_refused"] += 1
    kind = "reply in a thread" if is_large_untrusted(forged) else "reply"
    slowest[kind] = max(slowest[kind], time.thread_time() - start)


def _forged(question: bytes, chance: random.Random) -> bytes:
    """A reply that has our id and question, and then what it likes."""
    end = question.rindex(b"\x00\x01\x00\x01") + 4 if b"\x00\x01\x00\x01" in question[12:] else len(question)
    count = chance.choice((0, 1, 5, 20, 24, 128, 256))
    record = chance.choice(
        (
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01",
            b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c",
            b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x3c\x00\x18\xc0\x0c\xc0\x0c" + bytes(20),
            b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00\x02\x01a",
            chance.randbytes(12),
        )
    )
    counts = b"\x00\x01" + count.to_bytes(2, "big") + bytes(4)
    body = bytearray(question[:2] + b"\x81\x80" + counts + question[12:end] + record * count)
    for _ in range(chance.choice((0, 0, 1, 4))):
        body[chance.randrange(12, len(body))] = chance.randrange(256)
    return bytes(body)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz-dns",
        description="Hostile patterns and packets against the DNS server: crashes, and the slowest of each kind.",
        epilog="example: scripts/fuzz-dns --rounds 100000 --seed 7",
    )
    parser.add_argument("--rounds", type=int, default=100_000, help="how many in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the randomness")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    try:
        found = fuzz(options.rounds, options.seed)
    except BaseException:
        print(f"fuzz-dns: failed with --seed {options.seed}", file=sys.stderr)
        raise
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:18} {value}")
    return 1 if max(found["slowest_ms"].values()) > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
