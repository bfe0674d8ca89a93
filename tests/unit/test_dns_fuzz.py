"""The short form of scripts/fuzz-dns."""

from __future__ import annotations

import random

from scripts.labkit.dns_fuzz import LIMIT, fuzz


def test_hostile_patterns_and_packets_crash_nothing_and_hold_nobody_up() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    found = fuzz(1500, seed)
    print(found)
    assert found["patterns_taken"] > 50
    assert found["patterns_refused"] > 50
    assert found["queries_malformed"] > 50
    assert found["replies_taken"] > 10
    assert max(found["slowest_ms"].values()) < LIMIT
