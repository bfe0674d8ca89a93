"""What lies in the UDP socket's buffer for too long is dropped, so that who is too slow is not late as well."""

from __future__ import annotations

import socket
import time

import pytest

from edgevpn.tun import datagram_engine
from edgevpn.tun.udp_socket import open_udp, waited
from tests.unit.test_narrow_way import MTU, Side

COUNT, TURN = 200, 64


def flood(side: Side, count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            sock.sendto(bytes(100), side.address)


def close(side: Side) -> None:
    for sock in side.sockets.values():
        sock.close()


def test_the_kernel_tells_how_long_a_datagram_waited() -> None:
    sockets = open_udp()
    sock = sockets[socket.AF_INET]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        waited(sock)
        other.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
        time.sleep(0.05)
        sock.recv(1)
        assert 0.05 <= waited(sock) < 5
    for sock in sockets.values():
        sock.close()


def test_what_came_too_long_ago_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagram_engine, "_STANDING", 0.1)
    side = Side(MTU)
    flood(side, COUNT)
    time.sleep(0.12)
    side.engine.on_readable(socket.AF_INET)
    assert side.engine.counters["receives_too_late"] == 0
    time.sleep(0.12)
    side.engine.on_readable(socket.AF_INET)
    assert side.engine.counters["receives_too_late"] == COUNT - 2 * TURN
    assert side.engine.opener.counters["datagrams_unknown"] == 2 * TURN
    close(side)


def test_what_came_while_the_machine_stood_still_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagram_engine, "_STANDING", 5.0)  # it may do so again
    side = Side(MTU)
    flood(side, COUNT)
    time.sleep(0.12)
    for _ in range(1 + COUNT // TURN):
        side.engine.on_readable(socket.AF_INET)
    assert side.engine.counters["receives_too_late"] == 0
    assert side.engine.opener.counters["datagrams_unknown"] == COUNT
    close(side)


def test_what_has_just_come_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagram_engine, "_LONGEST", 5.0)  # this machine may be busy
    side = Side(MTU)
    flood(side, COUNT)
    for _ in range(1 + COUNT // TURN):
        side.engine.on_readable(socket.AF_INET)
    assert side.engine.counters["receives_too_late"] == 0
    assert side.engine.opener.counters["datagrams_unknown"] == COUNT
    close(side)
