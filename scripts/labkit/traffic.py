"""Measuring in a lab: pings and their gaps, throughput, waiting for something to become true."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any, TypeVar

from scripts.labkit.namespaces import LabError, Node

T = TypeVar("T")
_REPLY = re.compile(r"^\[(\d+\.\d+)\].*icmp_seq=(\d+).*time=([\d.]+) ms", re.MULTILINE)


@dataclass(frozen=True)
class PingResult:
    """`longest_gap_s`: the longest time between two answers (or from start to the first)."""

    sent: int
    received: int
    rtts_ms: list[float]
    longest_gap_s: float
    times: tuple[float, ...] = ()  # of the answers, seconds after the start

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rtts_ms) if self.rtts_ms else float("inf")


class Pinging:
    """A ping that runs until `finish`."""

    def __init__(self, node: Node, target: str, interval: float = 0.05, interface: str | None = None) -> None:
        words = ["ping", "-n", "-D", "-i", f"{interval:g}"]
        words += ["-I", interface] if interface else []
        self._node = node
        self._began = time.time()
        # a pipe that nobody reads is full after 840 lines, and ping stands still
        self._output = TemporaryFile()  # noqa: SIM115 - `finish` closes it
        self._process = node.popen([*words, target], stdout=self._output, stderr=subprocess.DEVNULL)

    def finish(self) -> PingResult:
        os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(timeout=10)
        self._node.processes.remove(self._process)
        with self._output as output:
            output.seek(0)
            return parse_ping(output.read().decode(), self._began)


def parse_ping(output: str, began: float) -> PingResult:
    answers = [(float(at), float(rtt)) for at, _, rtt in _REPLY.findall(output)]
    sent = re.search(r"(\d+) packets transmitted", output)
    times = [began, *(at for at, _ in answers)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return PingResult(
        int(sent[1]) if sent else len(answers),
        len(answers),
        [rtt for _, rtt in answers],
        max(gaps, default=0.0),
        tuple(at - began for at, _ in answers),
    )


def ping(
    node: Node,
    target: str,
    count: int = 5,
    interval: float = 0.2,
    interface: str | None = None,
    *,
    wait: float = 2.0,
) -> PingResult:
    """Ping `count` times; `wait`: seconds for the last answer."""
    words = ["ping", "-n", "-D", "-c", str(count), "-i", f"{interval:g}", "-W", f"{wait:g}"]
    words += ["-I", interface] if interface else []
    began = time.time()
    done = node.run([*words, target], timeout=count * interval + 10, check=False)
    return parse_ping(done.stdout, began)


def iperf3(server: Node, client: Node, address: str, seconds: float = 3, *options: str) -> float:
    """Mbit/s that the receiver got, one TCP stream unless `options` say otherwise. Raises LabError."""
    return received_mbit(iperf3_report(server, client, address, seconds, *options))


def received_mbit(report: dict[str, Any]) -> float:
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def iperf3_report(server: Node, client: Node, address: str, seconds: float = 3, *options: str) -> dict[str, Any]:
    """What iperf3's client says of a run, with `end.sum_received`. Raises LabError."""
    listening = server.popen(["iperf3", "-s", "-1", "-B", address])
    try:
        for _ in range(100):
            found = server.run(["ss", "-Hltn", "sport = :5201"], check=False)
            if found.stdout.strip():
                break
            time.sleep(0.05)
        done = client.run(
            ["iperf3", "-J", "-c", address, "-t", f"{seconds:g}", *options], timeout=seconds + 20, check=False
        )
    finally:
        server.stop(listening, grace=0.5)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
        received_mbit(report)
        return report
    except (ValueError, KeyError) as exc:
        raise LabError(f"iperf3 gave no result: {done.stdout[-300:]} {done.stderr[-300:]}") from exc


def wait_for(predicate: Callable[[], T], timeout: float, interval: float = 0.05, what: str = "it") -> T:
    """The first true value of `predicate`. Raises LabError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not happen within {timeout:g} s")
        time.sleep(interval)


def first_answer(node: Node, target: str, interface: str, timeout: float) -> None:
    """Wait until one ping is answered. Raises LabError."""

    def answered() -> bool:
        return ping(node, target, 1, 0.2, interface, wait=0.2).received > 0

    wait_for(answered, timeout, interval=0.02, what=f"a ping from {node.netns} to {target}")
