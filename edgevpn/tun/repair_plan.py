"""How much parity, and over what, for a loss and the length of its runs. Pure.

The tables were found by trial (docs/performance.md): groups so large that they end within what TCP inside takes for
reordering, and as many rows of the erasure code (edgevpn/tun/erasure.py) as let nearly all of what is lost come back.
Where losses come in runs, `step` groups are interleaved; if they are seldom, that is not worth its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import ceil, comb
from typing import Final, NamedTuple

from edgevpn.proto.datagram_repair import ROWS, WHOLE

MOST_STEP: Final = 8
_RUNS, _RUNS_LOSS = 1.6, 0.003  # lost in a row, and of all, from which on groups are interleaved
_ENOUGH = 0.005


class Plan(NamedTuple):
    """Groups of `k` datagrams with `rows` parities each, `step` of them interleaved. k = 0: none."""

    k: int
    rows: int
    step: int


NO_PARITY: Final = Plan(0, 1, 1)


# Up to which loss: groups of how many, with how many rows. The first are for peers that know XOR alone.
_XOR_PLANS = ((0.003, 16, 1), (0.007, 12, 1), (0.015, 8, 1), (0.03, 6, 1), (1.0, 5, 1))
_PLANS = ((0.0015, 24, 1), (0.004, 32, 2), (0.008, 28, 2), (0.015, 30, 3), (0.03, 18, 3), (0.06, 12, 3), (1.0, 10, 3))
_RUN_K = 18


def plan(loss: float, run: float, *, codes: bool) -> Plan:
    """For this fraction lost, `run` in a row on average. `codes`: whether the other side knows more than XOR."""
    in_runs = run >= _RUNS and loss >= _RUNS_LOSS
    if codes and in_runs:
        return Plan(_RUN_K, ROWS, min(MOST_STEP, ceil(1.4 * run / ROWS)))
    step = min(MOST_STEP, ceil(run) + 2) if in_runs else 1
    return next(Plan(k, rows, step) for most, k, rows in (_PLANS if codes else _XOR_PLANS) if loss <= most)


def mean_run(wanted: Mapping[int, int], lengths: Mapping[int, int]) -> float:
    """How many are missing in a row, on average, by what an ask names. `lengths`: of those trains; else unknown."""
    lost = runs = 0
    joins = -1  # the train that a run goes on in, if its first is missing
    for train, mask in sorted(wanted.items()):
        lost += mask.bit_count() or lengths.get(train, 1)
        runs += (mask & ~(mask << 1)).bit_count() or 1
        runs -= train == joins and (mask == WHOLE or mask & 1)
        joins = train + 1 if mask == WHOLE or mask.bit_length() == lengths.get(train) else -1
    return lost / max(1, runs)


@lru_cache(4096)
def rows_needed(members: int, most: int, per_mille: int) -> int:
    """So many, up to `most`, that of the lost all but ENOUGH come back, when so many of a thousand are."""
    loss = per_mille / 1000
    for rows in range(1, most):
        others = members + rows - 1
        few = sum(comb(others, k) * loss**k * (1 - loss) ** (others - k) for k in range(rows))
        if 1 - few <= _ENOUGH:
            return rows
    return most
