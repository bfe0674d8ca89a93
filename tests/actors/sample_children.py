"""What children of the template do in its tests: they are no actors, only processes."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time

from edgevpn.actors import real_time


def tell(fd: str, wanted: str = "") -> int:
    """Write what this process is like to `fd`, as JSON, and return 7 for the exit status."""
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    with open("/proc/self/cmdline", "rb") as command_line:
        title = command_line.read().strip(b"\0").decode()
    no_real_time = real_time.why_not_here()
    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "name": fields["Name"],
        "title": title,
        "no_new_privs": fields["NoNewPrivs"],
        "threads": [thread.name for thread in threading.enumerate()],
        "thread_id_is_right": threading.get_native_id() == os.getpid(),
        "random": random.Random().random() + _GENERATOR.random(),
        "imported": [name for name in wanted.split(",") if name in sys.modules],
        "environment": {name: os.environ[name] for name in ("SAMPLE", "PYTHONPATH") if name in os.environ},
        "nice": os.nice(0),
        "no_real_time": no_real_time,
        "scheduler": os.sched_getscheduler(0),  # to have asked changes nothing
        "uids": os.getresuid(),
        "groups": os.getgroups(),
        "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if _is_passed(f"/proc/self/fd/{fd}")),
        "interrupts": str(signal.getsignal(signal.SIGINT)),
    }
    os.write(int(fd), json.dumps(facts).encode())
    return 7


_GENERATOR = random.Random(1)


def signal_own_thread(fd: str) -> int:
    """pthread_kill ourselves: it finds us only if glibc knows our thread id."""
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    time.sleep(0.01)
    os.write(int(fd), json.dumps({"signals": got}).encode())
    return 0


def sleep() -> None:
    """Live until killed."""
    time.sleep(3600)


def fail() -> None:
    """Raise."""
    raise ValueError("a child's own fault")


def _is_passed(path: str) -> bool:
    """Not the one that lists the directory, nor those that imports go through (edgevpn/actors/readable_imports.py)."""
    return os.path.lexists(path) and not os.path.isdir(path)
