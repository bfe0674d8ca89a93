"""Echo requests at a steady rate, each accounted for: which were lost, and how long nothing was answered.

ping(8) at a thousand a second keeps a processor busy with waiting, and tells of what was lost by a number only. So this
is a program of its own, run in a node's namespace: it sends ICMP echo requests (RFC 792) on a raw socket, never in a
burst when it is late, and writes a record at each sending and each answer. `Flood` starts it, reads the records, and
answers for any span of time. Times are CLOCK_MONOTONIC's, the same for all processes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.labkit.namespaces import Node

INTERVAL = 0.001  # seconds
PATIENCE = 1.0  # seconds: what was not answered by then is lost
_RECORD = struct.Struct("<Qdd")  # number, sent at, answered at (0: it is the sending)
_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_BODY = struct.Struct("<QQd")  # ours, number, sent at
_SOL_RAW, _ICMP_FILTER = 255, 1  # raw(7), icmp(7)
_REQUEST, _REPLY = 8, 0


# --- what is measured


@dataclass(frozen=True, slots=True)
class Span:
    """Of the requests sent in a span: how many, how many were never answered; the longest time without an answer."""

    sent: int
    lost: int
    longest_gap_s: float


def span_of(sent: Sequence[float], answered: Sequence[float], begin: float, end: float) -> Span:
    """Of requests by number (0: no answer): those sent from `begin` to `end`. A gap may begin before, by one answer."""
    first, last = bisect_left(sent, begin), bisect_left(sent, end)
    lost = sum(1 for number in range(first, last) if not answered[number])
    before = next((answered[number] for number in range(first - 1, -1, -1) if answered[number]), begin)
    times = [before, *sorted(at for at in answered[first:last] if at)]
    if last > first and not answered[last - 1]:
        times.append(next((at for at in answered[last:] if at), end))
    gaps = (later - earlier for earlier, later in itertools.pairwise(times))
    return Span(last - first, lost, max(gaps, default=0.0))


class Flood:
    """Requests from `node` to `target` until `stop`."""

    def __init__(self, node: Node, target: str, interface: str, interval: float = INTERVAL) -> None:
        self.node, self.target = node, target
        self._sent, self._answered = array("d"), array("d")
        self._first = 0  # the number of what is first in the arrays
        self._lock = threading.Lock()
        words = [sys.executable, __file__, target, "--interface", interface, "--interval", f"{interval:g}"]
        self._process = node.popen(words, stdout=subprocess.PIPE, stderr=None)
        self._reader = threading.Thread(target=self._read, name=f"flood to {target}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        rest = b""
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            rest += data
            whole = len(rest) - len(rest) % _RECORD.size
            with self._lock:
                for number, sent, answered in _RECORD.iter_unpack(rest[:whole]):
                    place = number - self._first
                    if not answered:
                        self._sent.append(sent)
                        self._answered.append(0.0)
                    elif 0 <= place < len(self._answered):
                        self._answered[place] = answered
            rest = rest[whole:]

    def span(self, begin: float, end: float) -> Span:
        """What became of those sent from `begin` to `end`; ask PATIENCE after `end`."""
        with self._lock:
            return span_of(self._sent, self._answered, begin, end)

    def last_answer(self) -> float:
        """When the newest answer came that a request of the last seconds got; 0.0: none did."""
        with self._lock:
            return max(self._answered[-4096:], default=0.0)

    def forget(self, before: float) -> None:
        """Drop what was sent earlier, but for the last answer."""
        with self._lock:
            count = bisect_left(self._sent, before)
            while count and not self._answered[count - 1]:
                count -= 1
            if count > 1:
                del self._sent[: count - 1], self._answered[: count - 1]
                self._first += count - 1

    def stop(self) -> None:
        self.node.stop(self._process, grace=0.5)
        self._reader.join(2)
        if self._process.stdout is not None:
            self._process.stdout.close()


# --- the program


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def request(identifier: int, ours: int, number: int, now: float) -> bytes:
    """An echo request of 32 bytes."""
    body = _BODY.pack(ours, number, now)
    head = _ECHO.pack(_REQUEST, 0, 0, identifier, number & 0xFFFF)
    return _ECHO.pack(_REQUEST, 0, _checksum(head + body), identifier, number & 0xFFFF) + body


def answer_of(packet: bytes, ours: int) -> tuple[int, float] | None:
    """(number, sent at) of an IPv4 packet that answers a request of ours."""
    head = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < head + _ECHO.size + _BODY.size or packet[head] != _REPLY:
        return None
    whose, number, sent = _BODY.unpack_from(packet, head + _ECHO.size)
    return (number, sent) if whose == ours else None


def _flood(target: str, interface: str, interval: float) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _REPLY) & 0xFFFFFFFF))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.setblocking(False)
    ours, identifier = int.from_bytes(os.urandom(8)), os.getpid() & 0xFFFF
    due = time.monotonic()
    for number in itertools.count():
        while (now := time.monotonic()) < due:
            if select.select([sock], [], [], due - now)[0]:
                _tell(_answers(sock, ours))
        due = max(due + interval, now)  # late: no burst
        _tell([(number, now, 0.0)])
        with contextlib.suppress(OSError):  # no room, no way: a lost one
            sock.sendto(request(identifier, ours, number, now), (target, 0))


def _answers(sock: socket.socket, ours: int) -> Iterable[tuple[int, float, float]]:
    for _ in range(64):
        try:
            found = answer_of(sock.recv(2048), ours)
        except BlockingIOError:
            return
        except OSError:  # what the network says of an earlier one
            continue
        if found is not None:
            yield (*found, time.monotonic())


def _tell(records: Iterable[tuple[int, float, float]]) -> None:
    if data := b"".join(_RECORD.pack(*record) for record in records):
        os.write(1, data)  # a pipe takes up to PIPE_BUF bytes whole (pipe(7)); 64 records are less


def main() -> None:
    parser = argparse.ArgumentParser(description="Send echo requests; write a record of each sending and answer.")
    parser.add_argument("target")
    parser.add_argument("--interface", required=True)
    parser.add_argument("--interval", type=float, default=INTERVAL)
    options = parser.parse_args()
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _flood(options.target, options.interface, options.interval)


if __name__ == "__main__":
    main()
