"""Where received files land: below one directory, whole or not at all.

Blocking; run it in a thread. A file is written under a name of its own beside its final one (`.NAME.HASH` and
`PART_SUFFIX`), and gets its final name by rename(2) when its size and SHA-256 are right and it is on the disk
(fsync(2)). An unfinished one is found again by the hash in its name, and its content hashed before it is continued.

Nothing a sender says leads out of the directory: paths are checked (edgevpn/proto/file_wire.py), each directory on the
way is opened from the one above without following symbolic links (openat(2), O_NOFOLLOW), and only regular files are
replaced.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from edgevpn.errors import EdgevpnError
from edgevpn.proto.file_wire import MAX_PART, PART_SUFFIX, Item, Offer, check_path_untrusted

_READ = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MARGIN = 16 * 1024 * 1024  # bytes that a disk keeps free


class LandingError(EdgevpnError):
    """It can't be written there; the text says why."""


class WrongContentError(EdgevpnError):
    """What came is not what was announced; it is gone."""


class Part:
    """One file on its way. Made by `Landing.begin`; end it with `finish`, `discard`, or `keep`."""

    def __init__(self, directory: int, part: bytes, final: bytes, item: Item | None) -> None:
        """`item` None: neither size nor hash are known, and it can't be continued. Owns `directory`."""
        self._directory = directory
        self._part = part
        self._final = final
        self._item = item
        self._hash = hashlib.sha256()
        self.size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(part, flags, 0o600, dir_fd=directory)
        try:
            self._take_up()
        except BaseException:
            os.close(self._file)
            raise

    def _take_up(self) -> None:
        """Lock it, and hash what an earlier attempt has left."""
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise LandingError(f"{_shown(self._part)} is in the way: remove it")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LandingError(f"{_shown(self._final)} is being received by another process already") from None
        if self._item is None or status.st_size > self._item.size:
            os.ftruncate(self._file, 0)
        while data := os.read(self._file, _READ):
            self._hash.update(data)
            self.size += len(data)

    def write(self, data: bytes) -> None:
        """Append. Raises LandingError (disk full and the like)."""
        self._hash.update(data)
        with memoryview(data) as view:
            written = 0
            try:
                while written < len(view):
                    written += os.write(self._file, view[written:])
            except OSError as exc:
                raise LandingError(f"can't write {_shown(self._final)}: {exc.strerror}") from exc
        self.size += len(data)

    def finish(self) -> None:
        """Give it its final name. Raises WrongContentError, and it is gone; LandingError, and it is kept."""
        item = self._item
        if item is not None and (self.size != item.size or self._hash.digest() != item.sha256):
            self.discard()
            raise WrongContentError(f"{_shown(self._final)} is not what was announced (its SHA-256 differs)")
        try:
            umask = _umask()
            os.fchmod(self._file, (0o755 if item is not None and item.executable else 0o644) & ~umask)
            os.fsync(self._file)
            check_replaceable(self._directory, self._final)
            os.rename(self._part, self._final, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
        except OSError as exc:
            raise LandingError(f"can't finish {_shown(self._final)}: {exc.strerror}") from exc
        finally:
            self._close()

    @property
    def sha256(self) -> str:
        """In hex, of what is there now."""
        return self._hash.hexdigest()

    def discard(self) -> None:
        with suppress(OSError):
            os.unlink(self._part, dir_fd=self._directory)
        self._close()

    def keep(self) -> None:
        """Leave it for a later attempt; one that has no hash in its name goes."""
        if self._item is None or not self.size:
            self.discard()
        else:
            self._close()

    def _close(self) -> None:
        for descriptor in (self._file, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._directory = -1


class Landing:
    """The place of one offer. `target`: where a person wants it."""

    def __init__(self, target: Path, *, directory: bool, name: str) -> None:
        """For one file `target` is its final path, or a directory it shall be in as `name`. Raises LandingError."""
        target = Path(os.path.abspath(target))
        self.final: bytes | None = None  # the name of a single file
        base = target
        try:
            if directory:
                target.mkdir(exist_ok=True)
            elif target.is_dir():
                self.final = os.fsencode(name)
            else:
                base, self.final = target.parent, os.fsencode(target.name)
            self._base = os.open(base, _DIRECTORY)
        except OSError as exc:
            raise LandingError(f"can't use {base}: {exc.strerror}") from exc
        self.where = os.fsdecode(os.path.join(os.fsencode(base), self.final)) if self.final else str(base)
        try:
            if self.final is not None:
                check_replaceable(self._base, self.final)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    def check_room(self, size: int) -> None:
        """Raises LandingError when `size` more bytes can't fit."""
        status = os.fstatvfs(self._base)
        free = status.f_bavail * status.f_frsize
        if size + _MARGIN > free:
            raise LandingError(f"{size} bytes don't fit there, {free} are free: make room, or choose another --path")

    def make_directory(self, item: Item) -> None:
        """Raises LandingError."""
        os.close(self._open_parent(check_path_untrusted(item.path)))

    def has(self, item: Item) -> bool:
        """Whether the item is there already, with the same content. Raises LandingError."""
        directory, final = self._place(item)
        try:
            file = os.open(final, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
        except OSError:
            return False
        finally:
            os.close(directory)
        with open(file, "rb", buffering=0) as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size != item.size:
                return False
            return hashlib.file_digest(opened, "sha256").digest() == item.sha256

    def begin(self, item: Item | None) -> Part:
        """Begin a file, or go on with it. Raises LandingError."""
        if item is None:
            assert self.final is not None  # noqa: S101 - a plain stream is one file
            directory, final, mark = os.dup(self._base), self.final, b"plain"
        else:
            directory, final = self._place(item)
            mark = item.sha256.hex()[:16].encode()
        room = MAX_PART - len(mark) - len(PART_SUFFIX) - 2
        try:
            check_replaceable(directory, final)
            return Part(directory, b"." + final[:room] + b"." + mark + PART_SUFFIX, final, item)
        except OSError as exc:
            os.close(directory)
            raise LandingError(f"can't write {_shown(final)}: {exc.strerror}") from exc
        except BaseException:
            os.close(directory)
            raise

    def _place(self, item: Item) -> tuple[int, bytes]:
        """The directory (to be closed) and the name in it."""
        if self.final is not None:
            return os.dup(self._base), self.final
        parts = check_path_untrusted(item.path)
        return self._open_parent(parts[:-1]), parts[-1]

    def _open_parent(self, parts: tuple[bytes, ...]) -> int:
        """The directory that `parts` lead to, made where it is missing."""
        directory = os.dup(self._base)
        try:
            for part in parts:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o777, dir_fd=directory)
                below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                os.close(directory)
                directory = below
        except OSError as exc:
            os.close(directory)
            why = "a symbolic link or a file" if exc.errno in (errno.ELOOP, errno.ENOTDIR) else exc.strerror
            raise LandingError(f"can't go into {_shown(b'/'.join(parts))}: {why}") from exc
        return directory


def check_replaceable(directory: int, name: bytes) -> None:
    """Raise LandingError unless nothing is there, or a regular file or a symbolic link (which a rename replaces)."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    except OSError as exc:
        raise LandingError(f"can't look at {_shown(name)}: {exc.strerror}") from exc
    if stat.S_ISDIR(mode):
        raise LandingError(f"{_shown(name)} is a directory: choose another --path")
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise LandingError(f"{_shown(name)} is a device or the like, not a file: choose another --path")


def for_offer(target: Path, offer: Offer, first: Item | None) -> Landing:
    """The landing of an offer whose first item is `first`. Raises LandingError."""
    name = os.fsdecode(first.path) if first is not None else offer.name
    return Landing(target, directory=offer.directory, name=name)


def _umask() -> int:
    """What new files must not have; reading it means setting it (umask(2)), for the whole process, for a moment."""
    value = os.umask(0o077)
    os.umask(value)
    return value


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(name)[:120])
