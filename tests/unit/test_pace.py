"""When the packet path waits for company: only when much comes, or often. Two engines on loopback."""

from __future__ import annotations

import socket
import time

import pytest

from edgevpn.proto.ip import TCP
from edgevpn.tun import datagram_engine, pump
from edgevpn.tun.pace import COALESCE, COALESCE_SMALL, MUCH, SPELL, Pace
from tests.unit.test_virtio import frame_of
from tests.unit.test_waiting_packets import SUPER, Sending, datagram, sending


class Clock:
    """Stands where the packet path finds the time: it goes on when the test says so, and nobody sleeps."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.pauses: list[tuple[str, float]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(("in", seconds))

    def sleep_out(self, seconds: float) -> None:
        self.pauses.append(("out", seconds))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pump, "sleep", made.sleep_out)
    monkeypatch.setattr(pump, "monotonic", made.monotonic)
    monkeypatch.setattr(datagram_engine, "time", made)
    return made


@pytest.mark.parametrize(
    ("count", "size", "pause"),
    [(1, MUCH // 8, 0.0), (1, MUCH // 2, COALESCE), (20, 20 * 100, COALESCE_SMALL), (20, MUCH // 2, COALESCE)],
)
def test_what_comes_in_a_spell_says_how_long_to_wait(count: int, size: int, pause: float) -> None:
    pace = Pace(64)
    assert pace.pause == 0.0
    ended = [pace.note(count, size, 10 + turn * SPELL / 4) for turn in range(12)]
    assert ended.count(True) in (2, 3)
    assert pace.pause == pause


def test_a_pause_ends_what_was_bulk() -> None:
    pace = Pace(64)
    for turn in range(12):
        pace.note(1, MUCH, 10 + turn * SPELL / 4)
    assert pace.much
    pace.note(1, MUCH, 10 + 6 * SPELL)
    assert not pace.much


def turns(lab: Sending, clock: Clock, frames: list[bytes], count: int) -> None:
    """As packet threads do, once a millisecond."""
    for _ in range(count):
        clock.now += 0.001
        assert lab.put(frames) == len(frames)
        lab.pump.on_readable()
        while lab.pump.on_timer() is not None:
            pass
        lab.two.engine.on_readable(socket.AF_INET)


def test_bulk_waits_for_company_at_both_ends(clock: Clock) -> None:
    with sending() as lab:
        large = frame_of(4, TCP, bytes(SUPER), 1372)
        turns(lab, clock, [large, large], 30)
        assert set(clock.pauses) == {("out", COALESCE), ("in", COALESCE)}
        assert len(clock.pauses) > 40


def test_a_stream_of_a_slower_link_does_not_wait(clock: Clock) -> None:
    with sending() as lab:
        turns(lab, clock, [frame_of(4, TCP, bytes(SUPER), 1372)], 30)  # 320 Mbit/s
        assert clock.pauses == []


def test_many_small_packets_wait_for_each_other(clock: Clock) -> None:
    with sending() as lab:
        turns(lab, clock, [datagram(4, 53, bytes(30))] * 20, 30)
        assert ("out", COALESCE_SMALL) in clock.pauses
        assert COALESCE not in {seconds for _, seconds in clock.pauses}


def test_who_waits_for_each_answer_meets_no_pause_when_the_bulk_is_over(clock: Clock) -> None:
    with sending() as lab:
        large = frame_of(4, TCP, bytes(SUPER), 1372)
        turns(lab, clock, [large, large], 30)
        turns(lab, clock, [datagram(4, 53, bytes(30))], 10)  # it is noticed
        clock.pauses.clear()
        turns(lab, clock, [datagram(4, 53, bytes(30))], 50)
        assert clock.pauses == []
