"""From single hurts to figures: per actor and way, and of the node as a whole. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.labkit.bed import Hurt
from scripts.labkit.flood import Span

_MS = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """A hurt and what it cost in packets."""

    hurt: Hurt
    packets: Span


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that `part` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median, p99 and max of seconds, in milliseconds; None of none."""
    if not values:
        return None
    figures = {"median": statistics.median(values), "p99": percentile(values, 0.99), "max": max(values)}
    return {name: round(value * _MS, 1) for name, value in figures.items()}


def slope(values: Sequence[float]) -> float:
    """By least squares: how much a value grows from one place to the next. 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def growth(values: Sequence[float], unit: float = 1.0) -> dict[str, float]:
    """The medians of the first and the last tenth, and the slope over a hundred values; in `unit`s."""
    tenth = max(1, len(values) // 10)
    return {
        "first": round(statistics.median(values[:tenth]) / unit, 2),
        "last": round(statistics.median(values[-tenth:]) / unit, 2),
        "per_100": round(100 * slope(values) / unit, 3),
    }


def row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of some hurts of a kind. Times in milliseconds."""
    hurts = [outcome.hurt for outcome in outcomes]
    return {
        "n": len(hurts),
        "lived": sum(hurt.ended_after is None for hurt in hurts),
        "packets_sent": sum(outcome.packets.sent for outcome in outcomes),
        "packets_lost": sum(outcome.packets.lost for outcome in outcomes),
        "packets_lost_max": max(outcome.packets.lost for outcome in outcomes),
        "gap_ms": spread([outcome.packets.longest_gap_s for outcome in outcomes]),
        "end_ms": spread([hurt.ended_after for hurt in hurts if hurt.ended_after is not None]),
        "restart_ms": spread([hurt.restart for hurt in hurts if hurt.restart is not None]),
        "entries_lost": sum(len(hurt.entries_lost) for hurt in hurts),
        "wrong": sum(bool(hurt.wrong) for hurt in hurts),
    }


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A row for each actor and way that occurred."""
    kinds: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault((outcome.hurt.actor, outcome.hurt.way), []).append(outcome)
    return [{"actor": actor, "way": way, **row(kinds[actor, way])} for actor, way in sorted(kinds)]


def whole(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the hurt nodes hold, hurt by hurt, and what is wrong. Sizes in MB."""
    hurts = [outcome.hurt for outcome in outcomes]
    return {
        "hurts": len(hurts),
        "packets_lost": sum(outcome.packets.lost for outcome in outcomes),
        "entries_lost": sum(len(hurt.entries_lost) for hurt in hurts),
        "zombies": max(hurt.zombies for hurt in hurts),
        "node_descriptors": growth([hurt.descriptors for hurt in hurts]),
        "node_pss_mb": growth([hurt.pss_bytes for hurt in hurts], 1e6),
        "supervisor_descriptors": growth([hurt.supervisor_descriptors for hurt in hurts]),
        "supervisor_rss_mb": growth([hurt.supervisor_rss_bytes for hurt in hurts], 1e6),
        "wrong": [f"{hurt.actor} {hurt.way}: {hurt.wrong}" for hurt in hurts if hurt.wrong],
    }


_HEAD = (
    f"{'actor':10}{'way':10}{'n':>4}{'lived':>6} | {'packets lost':>12}{'max':>6} | "
    f"{'gap ms p50':>10}{'p99':>8}{'max':>8} | {'end ms max':>10} | "
    f"{'restart ms p50':>14}{'p99':>8}{'max':>8} | entries lost"
)


def table(found: Sequence[dict[str, Any]]) -> str:
    """Rows for people."""
    lines = [_HEAD]
    for one in found:
        gap, end, again = (one[name] or {} for name in ("gap_ms", "end_ms", "restart_ms"))
        lines.append(
            f"{one['actor']:10}{one['way']:10}{one['n']:4}{one['lived']:6} | "
            f"{one['packets_lost']:12}{one['packets_lost_max']:6} | "
            f"{_ms(gap, 'median'):>10}{_ms(gap, 'p99'):>8}{_ms(gap, 'max'):>8} | "
            f"{_ms(end, 'max'):>10} | "
            f"{_ms(again, 'median'):>14}{_ms(again, 'p99'):>8}{_ms(again, 'max'):>8} | {one['entries_lost']}"
        )
    return "\n".join(lines)


def _ms(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.0f}" if name in figures else "-"
