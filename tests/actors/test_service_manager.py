"""What a service manager hears, over a real socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from edgevpn.actors.service_manager import ServiceManager


def listening(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(2)
    return sock


@pytest.mark.parametrize("abstract", [False, True])
def test_it_hears_each_news_once(tmp_path: Path, abstract: bool) -> None:
    name = f"edgevpn-test-{os.getpid()}" if abstract else os.fspath(tmp_path / "notify")
    environ = {"NOTIFY_SOCKET": "@" + name if abstract else name, "HOME": "/"}
    with listening("\0" + name if abstract else name) as sock:
        manager = ServiceManager(environ)
        manager.tell(READY="1", STATUS="up,\ntwo lines")
        manager.tell(READY="1", STATUS="degraded")
        assert sock.recv(4096) == b"READY=1\nSTATUS=up, two lines"
        assert sock.recv(4096) == b"STATUS=degraded"
    assert environ == {"HOME": "/"}


async def test_it_hears_twice_in_its_time_that_we_live(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = os.fspath(tmp_path / "notify")
    with listening(path) as sock:
        manager = ServiceManager({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())})
        with trio.move_on_after(21):
            await manager.keep_alive()
        assert [sock.recv(64) for _ in range(5)] == [b"WATCHDOG=1"] * 5
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(64)


async def test_a_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_s == 0
    await ServiceManager({}).keep_alive()


def test_a_manager_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": os.fspath(tmp_path / "nobody")}).tell(READY="1")
