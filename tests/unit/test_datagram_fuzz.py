"""The short form of scripts/fuzz-datagrams."""

from __future__ import annotations

import random

from scripts.labkit.datagram_fuzz import fuzz


def test_whatever_a_network_does_nothing_comes_out_wrong_or_twice() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    found = fuzz(20_000, seed)
    print(found)
    assert found["delivered wrong or twice"] == 0
    assert found["packets delivered"] > 1000
    assert found["datagrams_forged"] > 1000
    assert found["datagrams_replayed"] > 1000
    assert found["repaired_by_parity"] + found["repaired_by_copy"] > 0
