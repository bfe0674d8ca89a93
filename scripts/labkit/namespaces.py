"""A lab: N network namespaces on a bridge, made for one run and taken down with it.

    with Lab(3) as lab:
        lab.node(1).run(["ping", "-c1", lab.node(2).address])

Each node has one interface, eth0, with 10.99.0.K/24 and fd99::K/64, and a route for everything else, multicast too,
that leads nowhere but to the others. With delay, loss or a rate a userspace relay (relay.py) takes the bridge's place;
`fast` wants the one in C (relay.c), which is compiled for the lab: for measurements.
All names begin with `evlab` and the maker's process id, so labs can run beside each other, and what a killed one left
can be told: `sweep` removes it, and so does the next lab. Programs started here are ended with their process groups,
asked first and killed after 3 s; what else still runs in the lab's namespaces is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, NamedTuple

_PREFIX = "evlab"
_NAMESPACES = Path("/run/netns")  # where ip-netns(8) keeps them
_counter = itertools.count(1)
_STOP_GRACE = 3.0


class LabError(Exception):
    """The lab can't be made, or a command in it failed; the text says what to do."""


def why_not() -> str:
    """Why no lab can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    if shutil.which("ip") is None:
        return "there is no ip: scripts/setup.sh installs it"
    return ""


def is_running(pid: int) -> bool:
    """Whether the process is there and has not ended; one that waits to be reaped has, however long init takes."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Node:
    """One namespace of a lab."""

    netns: str
    address: str
    address6: str
    _lab: Lab
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.netns, *words]

    def run(
        self,
        words: Sequence[str],
        *,
        timeout: float = 30,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. Raises LabError when it fails (`check`) or takes too long."""
        with subprocess.Popen(
            self.command(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if env is None else dict(env),
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except BaseException as exc:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.killpg(process.pid, signal.SIGKILL)  # with all that it started: they hold the pipes, too
                if isinstance(exc, subprocess.TimeoutExpired):
                    raise LabError(f"{words[0]} did not end within {timeout:g} s") from exc
                raise
        if check and process.returncode:
            raise LabError(f"{' '.join(words)} ended with {process.returncode}: {(errors or output).strip()}")
        return subprocess.CompletedProcess(list(words), process.returncode, output, errors)

    def popen(
        self,
        words: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.Popen[bytes]:
        """Start in the background, output to `log`; ended with the lab."""
        output: IO[bytes] | int = subprocess.DEVNULL if log is None else log.open("ab")
        try:
            process = subprocess.Popen(
                self.command(words),
                stdin=more.pop("stdin", subprocess.DEVNULL),
                stdout=more.pop("stdout", output),
                stderr=more.pop("stderr", output),
                env=None if env is None else dict(env),
                start_new_session=True,
                **more,
            )
        finally:
            if not isinstance(output, int):
                output.close()
        self.processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], *, grace: float = _STOP_GRACE) -> int:
        """End a process that `popen` started, and its group; its exit code."""
        _stop([process], grace)
        if process in self.processes:
            self.processes.remove(process)
        return process.returncode


class PortFigures(NamedTuple):
    """Of what one node sent: frames, and how many of them were dropped by chance and by a full queue."""

    frames: int
    by_chance: int
    by_queue: int


class WireFigures(NamedTuple):
    """By node; and whether the relay kept up: frames it never saw or got rid of, and how late one left at most."""

    ports: list[PortFigures]
    unseen: int
    late_us: int


class Lab:
    """N nodes on a bridge. Times in milliseconds, loss as a fraction of packets, rate in Mbit/s."""

    def __init__(
        self,
        n: int = 2,
        *,
        delay_ms: float = 0.0,
        loss: float = 0.0,
        rate_mbit: float | None = None,
        seed: int | None = None,
        fast: bool = False,
        burst: tuple[int, int] = (0, 0),
        queue_ms: float = 30.0,
    ) -> None:
        """`fast`: the relay in C. With it only, `burst`: so many packets in a row lost, of so many; `queue_ms`."""
        if not 1 <= n <= 200:
            raise LabError("a lab has 1 to 200 nodes")
        # Written so that not-a-number is refused, too.
        if not 0 <= delay_ms <= 60_000:
            raise LabError("a lab's delay is 0 to 60000 ms")
        if not 0 <= loss <= 1:
            raise LabError("a lab's loss is 0 to 1, or 0 to 100 %")
        if rate_mbit is not None and not 0 < rate_mbit < float("inf"):
            raise LabError("a lab's rate is above 0 Mbit/s; without one there is no limit")
        self._name = f"{_PREFIX}{os.getpid()}x{next(_counter)}"
        self._delay_ms, self._loss, self._rate_mbit, self._seed = delay_ms, loss, rate_mbit, seed
        self._fast, self._burst, self._queue_ms = fast, burst, queue_ms
        self._bridge = f"{self._name}b"
        self.nodes = [Node(f"{self._name}n{k}", f"10.99.0.{k}", f"fd99::{k:x}", self) for k in range(1, n + 1)]
        self._relay: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}

    def node(self, k: int) -> Node:
        """The k-th node, from 1."""
        return self.nodes[k - 1]

    @property
    def relayed(self) -> bool:
        return bool(self._delay_ms or self._loss or self._rate_mbit or self._burst[0])

    def __enter__(self) -> Lab:
        if reason := why_not():
            raise LabError(f"can't make a lab: {reason}")
        self._catch_signals()
        try:
            self.sweep()
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> None:
        _ip_batch([f"netns add {name}" for name in (self._bridge, *(node.netns for node in self.nodes))])
        outside = []
        for k, node in enumerate(self.nodes, 1):
            outside.append(f"link add v{k} netns {self._bridge} type veth peer name eth0 netns {node.netns}")
        _ip_batch(outside)
        inside = ["link set lo up"]
        if not self.relayed:
            inside += ["link add br0 type bridge", "link set br0 up"]
        for k in range(1, len(self.nodes) + 1):
            inside.append(f"link set v{k} {'' if self.relayed else 'master br0 '}up")
        _ip_batch(inside, self._bridge)
        for node in self.nodes:
            _ip_batch(
                [
                    "link set lo up",
                    f"addr add {node.address}/24 dev eth0",
                    f"addr add {node.address6}/64 dev eth0 nodad",
                    "link set eth0 up",
                    "route add default dev eth0",
                ],
                node.netns,
            )
        if self.relayed:
            self._start_relay()

    def _start_relay(self) -> None:
        # It is in a directory that a root made by a plain `su` does not look into.
        ethtool = shutil.which("ethtool", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if ethtool is None:
            raise LabError("there is no ethtool, which a lab with a relay needs: scripts/setup.sh installs it")
        for node in self.nodes:  # real packets on the wire: no offload through a relay
            node.run(
                [ethtool, "-K", "eth0", "tso", "off", "gso", "off", "gro", "on" if self._fast else "off", "tx", "off"]
            )
        words = self._fast_relay() if self._fast else self._plain_relay()
        self._relay = subprocess.Popen(
            ["ip", "netns", "exec", self._bridge, *words],
            stdin=subprocess.PIPE,  # its end tells the relay that its maker is gone, however it went
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._relay.stdout is None or self._relay.stdout.readline().strip() != b"ready":
            raise LabError("the lab's relay did not start")

    def _plain_relay(self) -> list[str]:
        words = [sys.executable, str(Path(__file__).with_name("relay.py")), "--ports", str(len(self.nodes))]
        words += ["--delay-ms", str(self._delay_ms), "--loss", str(self._loss), "--seed", str(self._seed or 0)]
        if self._rate_mbit:
            words += ["--rate-mbit", str(self._rate_mbit)]
        return words

    def _fast_relay(self) -> list[str]:
        figures = (
            len(self.nodes),
            round(self._delay_ms * 1000),
            round(self._loss * 1e6),
            round((self._rate_mbit or 0) * 1e6 / 8),
            round(self._queue_ms * 1000),
            *self._burst,
            self._seed or 0,
        )
        return [str(compiled("relay.c")), *map(str, figures)]

    def split(self, apart: Collection[int]) -> None:
        """These nodes, from 1, reach each other only, and so do the others; no link goes down. Raises LabError."""
        if self.relayed:
            raise LabError("a lab with a relay can't be split")
        _ip_batch(
            ["link add br1 type bridge", "link set br1 up", *(f"link set v{k} master br1" for k in apart)], self._bridge
        )

    def heal(self) -> None:
        """All reach each other again."""
        _ip_batch([*(f"link set v{k} master br0" for k in range(1, len(self.nodes) + 1)), "link del br1"], self._bridge)

    @property
    def counts(self) -> bool:
        """Whether `wire` can be asked."""
        return self._relay is not None and self._fast

    def wire(self) -> WireFigures:
        """What the relay in C has done since it was asked last. Raises LabError."""
        if self._relay is None or self._relay.stdin is None or self._relay.stdout is None or not self._fast:
            raise LabError("only a lab with the fast relay counts what it carries")
        self._relay.stdin.write(b"?")
        self._relay.stdin.flush()
        figures = [int(word) for word in self._relay.stdout.readline().split()]
        if len(figures) != 3 * len(self.nodes) + 2:
            raise LabError("the lab's relay has ended")
        ports = [PortFigures(*figures[at : at + 3]) for at in range(0, len(figures) - 2, 3)]
        return WireFigures(ports, figures[-2], figures[-1])

    def close(self) -> None:
        """End everything that was started, remove everything that was made."""
        # A second Ctrl-C waits until all is gone.
        waiting = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            _stop([process for node in self.nodes for process in node.processes], _STOP_GRACE)
            if self._relay is not None:
                _stop([self._relay], 0.2)
                for pipe in (self._relay.stdin, self._relay.stdout):
                    if pipe is not None:
                        pipe.close()
                self._relay = None
            _remove([*(node.netns for node in self.nodes), self._bridge])
            self._give_signals_back()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, waiting)

    # --- signals: a lab goes away with the program that made it

    def _catch_signals(self) -> None:
        def leave(number: int, _frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        for number in (signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ValueError):  # not the main thread: its maker's business
                self._handlers[number] = signal.signal(number, leave)

    def _give_signals_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    @staticmethod
    def sweep() -> list[str]:
        """Remove namespaces of labs whose maker is gone, and what still runs in them; their names."""
        left = []
        for path in _NAMESPACES.glob(f"{_PREFIX}*"):
            match = re.match(rf"{_PREFIX}(\d+)x", path.name)
            if match and not is_running(int(match[1])):
                left.append(path.name)
        _remove(left)
        return sorted(left)


@functools.cache
def compiled(name: str) -> Path:
    """A program in C of this directory, compiled once for this process. Raises LabError."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise LabError("there is no C compiler, which some measurements need: apt-get install gcc")
    directory = tempfile.mkdtemp(prefix="evlab-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    made = Path(directory, name.removesuffix(".c"))
    done = subprocess.run(
        [compiler, "-O2", "-o", str(made), str(Path(__file__).with_name(name))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{name} does not compile: {done.stderr.strip()[:300]}")
    return made


def _remove(names: Sequence[str]) -> None:
    """Delete those of the namespaces that are there; what runs in them is killed."""
    present = [name for name in names if (_NAMESPACES / name).exists()]
    for pid in _pids_in(present):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in present:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _pids_in(names: Sequence[str]) -> list[int]:
    """The processes in these namespaces, in one pass over /proc."""
    inodes = set()
    for name in names:
        with contextlib.suppress(OSError):  # another lab's sweep was faster
            inodes.add(os.stat(_NAMESPACES / name).st_ino)
    found = []
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):  # it has just ended
            if os.stat(process / "ns" / "net").st_ino in inodes:
                found.append(int(process.name))
    return found


def _ip_batch(lines: Sequence[str], netns: str | None = None) -> None:
    """Several ip commands in one process. Raises LabError."""
    where = ["-n", netns] if netns else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"ip failed: {done.stderr.strip()}")


def _stop(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """SIGTERM to each process group, SIGKILL after `grace` seconds; all are reaped.

    One whose leader was reaped earlier is left out: its number may be somebody else's by now.
    """
    processes = [process for process in processes if process.returncode is None]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
