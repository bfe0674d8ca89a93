"""Numbered UDP packets at a steady rate, or a TCP stream, between two nodes: what was lost, and when nothing came.

Programs of their own, run in the nodes' namespaces: `Numbered` and `Streaming` start a taker and a giver, and read what
the taker saw. Times are CLOCK_MONOTONIC's, the same for all processes of a machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scripts.labkit.namespaces import Node

NOTED = 0.02  # seconds: silences from so long on are told, each with its begin
_NUMBER = struct.Struct("<Qd")
_PATTERN = random.Random(1).randbytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the taker saw. `silences`: when each began and how long it lasted. `wrong`: bytes that were not sent so."""

    received: int
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    longest_s: float = 0.0
    silences: list[tuple[float, float]] = field(default_factory=list)

    def silence_at(self, moment: float, within: float = 5.0) -> float:
        """The longest silence that was under way at a moment, or began within so long after it; 0: none that counts."""
        found = [long for begin, long in self.silences if begin + long > moment and begin < moment + within]
        return max(found, default=0.0)


class _Pair:
    def __init__(self, giver: Node, taker: Node, address: str, kind: str, *words: str) -> None:
        program = [sys.executable, __file__, kind]
        self._giver, self._taker = giver, taker
        self._taking = taker.popen([*program, "take", address], stdout=subprocess.PIPE, stderr=None)
        assert self._taking.stdout is not None  # noqa: S101 - it was asked for
        self._taking.stdout.readline()
        self._giving = giver.popen([*program, "give", address, *words], stderr=None)

    def finish(self, settle: float = 0.5) -> Seen:
        """End the giver, a moment later the taker."""
        self._giver.stop(self._giving, grace=1)
        time.sleep(settle)
        os.killpg(self._taking.pid, signal.SIGTERM)
        output = self._taking.communicate(timeout=10)[0]
        self._taker.processes.remove(self._taking)
        found: dict[str, Any] = json.loads(output)
        found["silences"] = [(begin, long) for begin, long in found["silences"]]
        return Seen(**found)


class Numbered(_Pair):
    """UDP: `rate` packets a second of `size` bytes from `giver` to `address`, which is `taker`'s."""

    def __init__(self, giver: Node, taker: Node, address: str, rate: float = 1000, size: int = 100) -> None:
        super().__init__(giver, taker, address, "udp", f"{rate:g}", str(size))


class Streaming(_Pair):
    """TCP, as fast as it goes, or at `rate` bytes a second."""

    def __init__(self, giver: Node, taker: Node, address: str, rate: float = 0) -> None:
        super().__init__(giver, taker, address, "tcp", f"{rate:g}")


# --- the programs


class _Silences:
    def __init__(self) -> None:
        self.last = 0.0
        self.longest = 0.0
        self.found: list[tuple[float, float]] = []

    def heard(self, now: float) -> None:
        if self.last and now - self.last >= NOTED:
            self.found.append((self.last, now - self.last))
        if self.last:
            self.longest = max(self.longest, now - self.last)
        self.last = now


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _take_udp(address: str, silences: _Silences) -> dict[str, int]:
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((address, 7003))
    print("ready", flush=True)
    seen: set[int] = set()
    twice = 0
    with contextlib.suppress(SystemExit):
        while True:
            number, _ = _NUMBER.unpack_from(sock.recv(65536))
            silences.heard(time.monotonic())
            twice += number in seen
            seen.add(number)
    lost = max(seen) + 1 - min(seen) - len(seen) if seen else 0
    return {"received": len(seen), "lost": lost, "twice": twice}


def _give_udp(address: str, rate: float, size: int) -> None:
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    due = time.monotonic()
    padding = bytes(size - _NUMBER.size)
    for number in itertools.count():
        now = time.monotonic()
        if now < due:
            time.sleep(due - now)
        due = max(due + 1 / rate, now)  # late: no burst
        with contextlib.suppress(OSError):  # no way at the moment: a lost one
            sock.sendto(_NUMBER.pack(number, now) + padding, (address, 7003))


def _take_tcp(address: str, silences: _Silences) -> dict[str, int]:
    listening = socket.create_server((address, 7004), family=_family(address))
    print("ready", flush=True)
    size, wrong = 0, 0
    with contextlib.suppress(SystemExit):
        taken = listening.accept()[0]
        expected = hashlib.sha256()
        found = hashlib.sha256()
        while data := taken.recv(1 << 18):
            silences.heard(time.monotonic())
            at = size % len(_PATTERN)
            expected.update((_PATTERN[at:] + _PATTERN)[: len(data)])
            found.update(data)
            size += len(data)
        wrong = int(expected.digest() != found.digest())
        signal.pause()
    return {"received": size, "wrong": wrong}


def _give_tcp(address: str, rate: float) -> None:
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    sock.connect((address, 7004))
    at = 0
    step = len(_PATTERN) if not rate else max(1, int(rate / 100))
    due = time.monotonic()
    while True:
        if rate:
            time.sleep(max(0.0, due - time.monotonic()))
            due += step / rate
        at = (at + sock.send(_PATTERN[at : at + step])) % len(_PATTERN)


def main() -> None:
    parser = argparse.ArgumentParser(description="Numbered UDP packets, or a TCP stream; the taker tells what it saw.")
    parser.add_argument("kind", choices=("udp", "tcp"))
    parser.add_argument("side", choices=("take", "give"))
    parser.add_argument("address")
    parser.add_argument("rate", nargs="?", type=float, default=0.0)
    parser.add_argument("size", nargs="?", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    if options.side == "give":
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            if options.kind == "udp":
                _give_udp(options.address, options.rate, options.size)
            else:
                _give_tcp(options.address, options.rate)
        return
    silences = _Silences()
    found = (_take_udp if options.kind == "udp" else _take_tcp)(options.address, silences)
    print(json.dumps({**found, "longest_s": silences.longest, "silences": silences.found}), flush=True)


if __name__ == "__main__":
    main()
