"""A directory outside the run directory that an actor writes to: made by the supervisor, used by its descriptor.

Actors may only reach the run directory. What `--ledger-state` names may belong to anyone and lie anywhere, so the
supervisor makes a directory of ours in it, gives that one to the actors' user, and hands its descriptor to the one
actor that needs it. Neither is the user's own directory given away, nor does the supervisor handle what came from the
network. Files are reached relative to the descriptor (openat(2)), which needs no right on the directories above.

The directory is locked (flock(2)) as long as anybody holds the descriptor: two nodes can't keep their state in one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path

from edgevpn.errors import SetupError

KEPT = 3  # files set aside, the newest
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # what may mend by itself while the node runs


def open_kept(
    parent: Path, name: str, flag: str, *, owner: tuple[int, int] | None = None, patience: float = 0.0
) -> int:
    """The descriptor of `parent`/`name`, made where absent (0700) and locked. `owner`: its uid and gid.

    `patience`: seconds to block for the lock, which the actor of a node that was just killed may hold for a moment yet.
    Raises OSError when the disk is full or read-only, SetupError for what a person must mend; `flag` is what to name.
    """
    path = parent / name
    try:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno in _PASSING:
            raise
        raise SetupError(f"can't use {path} ({exc.strerror}): choose another {flag}") from exc
    try:
        status = os.fstat(descriptor)
        if owner is not None and (status.st_uid, status.st_gid) != owner:
            os.fchown(descriptor, *owner)  # of what was opened: a link put there in between is not followed
            _give(descriptor, owner)
        _lock(descriptor, patience)
    except BlockingIOError as exc:
        os.close(descriptor)
        raise SetupError(f"another node keeps its state in {path}: stop it, or choose another {flag}") from exc
    except OSError as exc:
        os.close(descriptor)
        if exc.errno in _PASSING:
            raise
        raise SetupError(f"can't use {path} ({exc.strerror}): choose another {flag}") from exc
    return descriptor


def _give(directory: int, owner: tuple[int, int]) -> None:
    """Give `owner` the files that the actor of an earlier start wrote: plain files with no other name elsewhere."""
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)


def _lock(descriptor: int, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
        time.sleep(0.02)


class KeptFiles:
    """Files of a directory by its descriptor. Everything raises OSError, with the file's name in it."""

    def __init__(self, descriptor: int) -> None:
        """The descriptor stays the caller's."""
        self._directory = descriptor

    def read(self, name: str, most: int) -> bytes | None:
        """Up to `most` bytes; None if there is no such file. What is no plain file is an OSError."""
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory
            )
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            return file.read(most)

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:
        """Write by atomic rename; `durable`: on the disk before it counts (fsync(2)). A reader sees all or nothing."""
        temporary = f"{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=self._directory)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError:
            with contextlib.suppress(OSError):  # it takes room that is needed
                os.unlink(temporary, dir_fd=self._directory)
            raise
        if durable:
            os.fsync(self._directory)

    def set_aside(self, name: str, now: float) -> str:
        """Keep a file under another name, which is returned; of those the newest three stay."""
        aside = f"{name}.set-aside-{int(now)}"
        os.rename(name, aside, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        found = [one for one in os.listdir(self._directory) if one.startswith(f"{name}.set-aside-")]
        for old in sorted(found, key=lambda one: (len(one), one))[:-KEPT]:
            os.unlink(old, dir_fd=self._directory)
        return aside
