"""When the packet path takes its time: the rule, and that only bulk is made to wait. Two engines on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from edgevpn.proto.ip import TCP
from edgevpn.tun import datagram_engine, pump
from edgevpn.tun.ease import AFTER, COALESCE, COALESCE_AT_EASE, Ease
from tests.unit.test_virtio import frame_of
from tests.unit.test_waiting_packets import SUPER, Sending, datagram, sending


class Clock:
    """Stands where the engine finds `time`."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep


Pauses = list[tuple[str, float]]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Who slept, and how long."""
    found: Pauses = []
    monkeypatch.setattr(pump, "sleep", lambda seconds: found.append(("out", seconds)))
    monkeypatch.setattr(datagram_engine, "time", Clock(lambda seconds: found.append(("in", seconds))))
    return found


def test_who_sends_a_small_packet_each_second_is_expected_to_send_the_next() -> None:
    ease = Ease()
    assert ease.coalesce(0.0) == COALESCE_AT_EASE
    for now in (100.0, 100.001, 100.002):  # a few at once, as before a transfer
        ease.note(now)
    assert ease.begins == pytest.approx(100.002 + AFTER)
    for now in (101.0, 102.0, 103.0):
        ease.note(now)
        assert ease.coalesce(now + 1.9) == COALESCE
    ease.note(103.01)  # another in between changes nothing
    assert ease.begins > 104.5
    ease.note(130.0)
    assert ease.begins == pytest.approx(130 + AFTER)


def bulk(lab: Sending, seconds: float) -> None:
    """As a stream is read: again and again, some super-packets each time."""
    large = frame_of(4, TCP, bytes(SUPER), 1372)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(2):
            assert lab.put([large] * 2) == 2
            lab.pump.on_readable()
            while lab.pump.on_timer() is not None:
                pass
        lab.two.engine.on_readable(socket.AF_INET)


def test_bulk_waits_for_company_at_both_ends_and_longer_at_ease(pauses: Pauses) -> None:
    with sending() as lab:
        bulk(lab, 0.05)
        assert set(pauses) == {("out", COALESCE_AT_EASE), ("in", COALESCE_AT_EASE)}
        pauses.clear()
        lab.pump._ease.note(time.monotonic())
        lab.two.engine.ease.note(time.monotonic())
        bulk(lab, 0.05)
        assert set(pauses) == {("out", COALESCE), ("in", COALESCE)}


def test_small_packets_wait_for_nothing_when_the_bulk_is_over(pauses: Pauses) -> None:
    with sending() as lab:
        bulk(lab, 0.02)
        time.sleep(0.01)
        for _ in range(3):  # what they were is noticed by these
            assert lab.put([datagram(4, 53, bytes(30))]) == 1
            assert len(lab.move()) == 1
            time.sleep(0.005)
        pauses.clear()
        for _ in range(50):
            assert lab.put([datagram(4, 53, bytes(30))]) == 1
            assert len(lab.move()) == 1
        assert pauses == []


def test_a_small_packet_ends_the_ease_whichever_way_it_goes() -> None:
    with sending() as lab:
        for frames in ([datagram(4, 53, bytes(30))], [datagram(4, port, bytes(30)) for port in range(100, 120)]):
            lab.pump._ease.begins = 0.0
            assert lab.put(frames) == len(frames)
            lab.move()
            assert lab.pump._ease.begins > time.monotonic()
