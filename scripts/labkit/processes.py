"""What the kernel tells of a node's processes from outside: their end to the moment, descriptors, memory, the dead.

Sources: pidfd_open(2), proc_pid_stat(5), proc_pid_smaps(5), proc_pid_fd(5), proc_pid_limits(5), prlimit(1).
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class Doomed:
    """A process whose end is waited for; it need not be our child. Its number can't come to mean another."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Doomed:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def wait(self, seconds: float) -> float | None:
        """When it ended (CLOCK_MONOTONIC), as soon as it has; None: it runs on after `seconds`."""
        return time.monotonic() if select.select([self._descriptor], [], [], seconds)[0] else None


@dataclass(frozen=True, slots=True)
class Weight:
    """What processes hold. `zombies`: of their children, those that have ended and are not waited for."""

    descriptors: int
    rss_bytes: int
    pss_bytes: int
    zombies: int


def weigh(pids: list[int]) -> Weight:
    """All of them together; what is gone by now weighs nothing."""
    descriptors = rss = pss = 0
    for pid in pids:
        with suppress(OSError):
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    pss += int(line.split()[1]) * 1024
    return Weight(descriptors, rss, pss, sum(len(zombies_of(pid)) for pid in pids))


def children_of(pid: int) -> list[int]:
    """The children of all threads of a process; none when it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def zombies_of(pid: int) -> list[int]:
    """Children that have ended and that nobody has waited for."""
    return [child for child in children_of(pid) if state_of(child) == "Z"]


def state_of(pid: int) -> str:
    """The letter of proc_pid_stat(5): R, S, D, T, Z...; "" when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def virtual_size(pid: int) -> int:
    """Bytes of address space, which RLIMIT_AS counts. Raises OSError."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def soft_limit(pid: int, line: str) -> str:
    """The soft limit that /proc/PID/limits calls `line` ("Max open files"), in its words. Raises OSError."""
    for row in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if row.startswith(line):
            return row.removeprefix(line).split()[0]
    raise ValueError(f"there is no limit called {line}")


def set_soft_limit(pid: int, option: str, value: str) -> None:
    """Limit a running process; `option` is prlimit(1)'s ("nofile"). Raises OSError.

    Done as the process's own user, who may do so: even root may not, to others' processes, where it is not allowed
    CAP_SYS_RESOURCE.
    """
    status = dict(row.partition(":\t")[::2] for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    user, group = (int(status[name].split()[0]) for name in ("Uid", "Gid"))
    words = ["prlimit", f"--pid={pid}", f"--{option}={value}:"]
    done = subprocess.run(words, user=user, group=group, extra_groups=[], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"prlimit: {done.stderr.strip()}")
