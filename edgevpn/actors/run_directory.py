"""The run directory of a node: sockets, lock, and what must live from one actor to the next.

It is 0700 and belongs to the user the supervisor runs as; where actors have users of their own (users.py), their group
may pass through it (0710), and its new files are of that group. One node at a time: the lock (flock(2)) is held as
long as the supervisor lives and goes with it, however it dies. Leaving removes what a node puts there, and the
directory if nothing else is in it. The log alone stays where a node was killed or ended by an error of its own: there
it is needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevpn.actors.users import Users
from edgevpn.errors import EdgevpnError, SetupError, UsageError

LOCK = "lock"
STATE = "state"  # holds a directory of its own for each actor
_OURS = ("*.sock", "*.new", "tractor", STATE, "api-token")
_LOGS = ("*.log", "*.log.1")
_KEPT = ("privkey",)  # what a node that was killed leaves for the next one
_MAX_SOCKET_PATH = 107  # sun_path is 108 bytes with its NUL


def socket_path(run_dir: Path, actor: str) -> Path:
    """Where an actor's socket is. Raises UsageError when the path does not fit a Unix socket address."""
    path = run_dir / f"{actor}.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise UsageError(
            f"the run directory {run_dir} has too long a path for Unix sockets: choose a shorter --run-dir"
        )
    return path


@contextmanager
def hold(path: Path) -> Iterator[Path]:
    """Create and lock the run directory. Raises SetupError with what to do."""
    socket_path(path, "supervisor")  # its length is checked first
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise SetupError(f"the run directory {path} belongs to another user: choose another --run-dir")
        path.chmod(0o700)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise SetupError(
            f"can't use the run directory {path} ({exc.strerror}): run as root or choose another with --run-dir"
        ) from exc
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f"a node is running in {path} already: stop it, or choose another --interface or --run-dir"
            ) from None
        _clear(path, _OURS)  # of a node that was killed
        patterns: tuple[str, ...] = (*_OURS, *_KEPT)
        try:
            yield path
            patterns += _LOGS
        except (EdgevpnError, KeyboardInterrupt):
            patterns += _LOGS
            raise
        finally:
            _clear(path, patterns)
            with suppress(OSError):
                (path / LOCK).unlink()
                path.rmdir()  # not empty: something of somebody else's is in it
    finally:
        os.close(lock)


def state_dir(run_dir: Path, actor: str) -> Path:
    """The directory in which `actor` keeps files from one of its lives to the next."""
    return run_dir / STATE / actor


def open_to(path: Path, actors: Iterable[str], users: Users) -> None:
    """Let the actors in: the group through, and each into a directory of its own. Raises SetupError."""
    state = path / STATE
    try:
        if users.uids:
            os.chown(path, -1, users.group)
            path.chmod(0o2710)
        state.mkdir(mode=0o700, exist_ok=True)
        if users.uids:
            os.chown(state, -1, users.group)
            state.chmod(0o710)
        for actor in actors:
            own = state_dir(path, actor)
            own.mkdir(mode=0o700, exist_ok=True)
            if user := users.user(actor):
                os.chown(own, user.uid, user.gid)
    except OSError as exc:
        raise SetupError(f"can't make {exc.filename} for the actors: {exc.strerror}; choose another --run-dir") from exc


def _clear(path: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for item in path.glob(pattern):
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)
