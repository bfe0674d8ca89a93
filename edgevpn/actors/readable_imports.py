"""Keeps imports working for a process that gives up root, where Python lies in a directory of root's alone.

An interpreter under /root (0700) can't be read by an actor's user: a module that is imported late, inside a function,
would be missing. So each directory of sys.path, and of every package, that others can't reach is replaced by
/proc/self/fd/N, where N is a descriptor of it that was opened while we were root (proc_pid_fd(5)): the kernel follows
it straight to the directory and asks nobody about the ones above. What the directories themselves hold must be readable
for all; it is, as pip and uv write it.

Nothing is changed where all can be reached, the usual case.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_opened: dict[str, str] = {}  # directory -> its replacement
_processes: set[int] = set()  # that have done it, or whose fork we are


def keep_readable(reachable: Callable[[str], bool] | None = None) -> int:
    """Rewrite the search paths of this process; how many directories it holds open for it. Call it as root.

    `reachable`: whether others can reach a directory; for tests.
    """
    _processes.add(os.getpid())
    reachable = reachable or cache(is_reachable)
    sys.path[:] = [_replacement(entry, reachable) for entry in sys.path]
    for module in list(sys.modules.values()):
        # Only plain lists: a namespace package's path is computed from its parent's, which is in here.
        path = getattr(module, "__path__", None)
        if type(path) is list:
            path[:] = [_replacement(entry, reachable) for entry in path]
    return len(_opened)


def keep_readable_once() -> None:
    """`keep_readable`, unless the process that forked us has done it."""
    if not _processes:
        keep_readable()


def is_reachable(directory: str) -> bool:
    """Whether every user can come to `directory` and read what is in it."""
    try:
        real = Path(os.path.realpath(directory))
        return all(part.stat().st_mode & stat.S_IXOTH for part in (real, *real.parents))
    except OSError:
        return True  # what is not there can't be missed


def _replacement(entry: str, reachable: Callable[[str], bool]) -> str:
    if not os.path.isabs(entry) or entry.startswith("/proc/self/fd/") or not os.path.isdir(entry):
        return entry
    for directory, replacement in _opened.items():
        if entry == directory or entry.startswith(directory + "/"):
            return replacement + entry[len(directory) :]
    if reachable(entry):
        return entry
    descriptor = os.open(entry, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _opened[entry] = f"/proc/self/fd/{descriptor}"
    return _opened[entry]
