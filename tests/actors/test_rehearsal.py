"""The rehearsal leaves a process as the fork needs it."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import os, signal
from edgevpn.actors import linux_process, rehearsal
before = os.listdir("/proc/self/fd"), signal.getsignal(signal.SIGINT)
rehearsal.rehearse()
assert linux_process.count_threads() == 1
assert (os.listdir("/proc/self/fd"), signal.getsignal(signal.SIGINT)) == before
assert signal.set_wakeup_fd(-1) == -1
"""


def test_a_rehearsal_leaves_one_thread_and_no_descriptor_nor_handler() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
