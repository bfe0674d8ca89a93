"""The arithmetic of scripts/chaos: what counts as lost, as a gap, as growth; and that a seed means what it says."""

from __future__ import annotations

import math
import random
import socket
import struct

import pytest

from scripts.labkit.bed import TEMPLATE, Hurt
from scripts.labkit.chaos import plan
from scripts.labkit.chaos_figures import Outcome, growth, percentile, rows, slope, table, whole
from scripts.labkit.flood import Span, answer_of, request, span_of
from scripts.labkit.namespaces import LabError
from scripts.labkit.ways import WAYS

STEADY = [number / 1000 for number in range(1000)]  # sent
LATE = [at + 0.002 for at in STEADY]  # answered


def near(span: Span) -> tuple[int, int, int]:
    return span.sent, span.lost, round(span.longest_gap_s * 1000)


def test_all_answered_is_none_lost_and_the_usual_gap() -> None:
    assert near(span_of(STEADY, LATE, 0.1, 0.2)) == (100, 0, 1)


def test_lost_ones_are_counted_and_make_a_gap() -> None:
    answered = [0.0 if 150 <= number < 190 else at for number, at in enumerate(LATE)]
    assert near(span_of(STEADY, answered, 0.1, 0.2)) == (100, 40, 41)
    assert near(span_of(STEADY, answered, 0.15, 0.16)) == (10, 10, 41)  # from the answer before to the one after
    assert near(span_of(STEADY, answered, 0.3, 0.4)) == (100, 0, 1)


def test_late_answers_are_a_gap_but_no_loss() -> None:
    answered = [max(at, 0.18) if 0.1 < at < 0.18 else at for at in LATE]
    assert near(span_of(STEADY, answered, 0.05, 0.3)) == (250, 0, 80)


def test_without_any_answer_the_gap_is_the_whole_span() -> None:
    assert near(span_of(STEADY, [0.0] * 1000, 0.2, 0.7)) == (500, 500, 500)
    assert near(span_of([], [], 0.2, 0.7)) == (0, 0, 0)


def test_an_echo_request_is_one_and_only_answers_to_ours_count() -> None:
    packet = request(7, 2**63, 70000, 12.5)
    words = struct.unpack(f"!{len(packet) // 2}H", packet)
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # RFC 1071
    header = bytes([0x45]) + bytes(19)
    answer = b"\0" + packet[1:]
    assert answer_of(header + answer, 2**63) == (70000, 12.5)
    assert answer_of(header + answer, 1) is None
    assert answer_of(header + packet, 2**63) is None
    for size in range(len(header + answer)):
        assert answer_of((header + answer)[:size], 2**63) is None
    assert socket.IPPROTO_ICMP == 1


def test_percentiles_are_values_that_occurred() -> None:
    assert [percentile([3, 1, 2], part) for part in (0.0, 0.5, 0.99, 1.0)] == [1, 2, 3, 3]
    assert percentile(range(1, 101), 0.99) == 99


def test_flat_is_flat_and_a_leak_shows() -> None:
    chance = random.Random(1)
    flat = [100 + chance.random() for _ in range(500)]
    leaking = [value + number / 50 for number, value in enumerate(flat)]
    assert abs(growth(flat)["per_100"]) < 0.1
    assert growth(leaking)["per_100"] == pytest.approx(2, abs=0.1)
    assert growth(leaking)["last"] - growth(leaking)["first"] == pytest.approx(9, abs=0.5)
    assert slope([5.0]) == 0
    assert not math.isnan(growth([7.0])["per_100"])


def hurt(actor: str, way: str, *, restart: float | None = 0.05, lost: tuple[str, ...] = (), wrong: str = "") -> Hurt:
    ended = None if restart is None else 0.01
    return Hurt(
        1, actor, way, 10.0, 10.2, ended, restart, wrong, lost, 0, 170, 180_000_000, 450_000_000, 47, 54_000_000
    )


def test_rows_are_per_actor_and_way_and_the_whole_names_what_is_wrong() -> None:
    outcomes = [
        Outcome(hurt("tun", "kill"), Span(300, 90, 0.1)),
        Outcome(hurt("tun", "kill", restart=0.15), Span(300, 110, 0.3)),
        Outcome(hurt("host", "fds", restart=None, lost=("1-3",), wrong="of no use"), Span(300, 0, 0.008)),
    ]
    found = rows(outcomes)
    assert [(one["actor"], one["way"], one["n"], one["lived"]) for one in found] == [
        ("host", "fds", 1, 1),
        ("tun", "kill", 2, 0),
    ]
    assert found[0]["restart_ms"] is None
    assert found[1]["restart_ms"] == {"median": 100.0, "p99": 150.0, "max": 150.0}
    assert (found[1]["packets_lost"], found[1]["packets_lost_max"]) == (200, 110)
    everything = whole(outcomes)
    assert (everything["entries_lost"], everything["packets_lost"]) == (1, 200)
    assert everything["wrong"] == ["host fds: of no use"]
    assert len(table(found).splitlines()) == 3


def test_a_seed_brings_the_same_hurts_again() -> None:
    ways = list(WAYS.values())
    first, second = (list(plan(50, random.Random(7), [1, 2], ["tun", TEMPLATE, "host"], ways)) for _ in range(2))
    assert first == second
    assert first != list(plan(50, random.Random(8), [1, 2], ["tun", TEMPLATE, "host"], ways))
    assert {way for _, actor, way in first if actor == TEMPLATE} <= {"kill", "segv", "stop"}
    with pytest.raises(LabError, match="none of these ways"):
        list(plan(1, random.Random(7), [1], [TEMPLATE], [WAYS["exit"]]))
