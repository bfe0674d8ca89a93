"""What a node offers as a file: one file, or a directory with all that is in it, hashed before anyone asks.

Blocking; run it in a thread. Symbolic links and special files are left out, and so is what no receiver would take (the
names of edgevpn/proto/file_wire.py's `check_path_untrusted`). A file that changes while it is offered is noticed by
its size and time when it is asked for, and hashed anew with the next offer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto.file_wire import MAX_ITEMS, Item, Offer, check_path_untrusted

_READ = 1 << 20
Hashed = Callable[[int], None]  # told of bytes as they are hashed; may raise to stop


_Found = tuple[bytes, bytes, os.stat_result]  # the path in the offer, the real one


class TreeError(EdgevpnError):
    """What was to be offered can't be."""


@dataclass(frozen=True, slots=True)
class Source:
    """An item and where its content is. `mark` changes with the content."""

    item: Item
    path: bytes
    mark: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """All of an offer. `left_out`: paths that are not offered, and why."""

    offer: Offer
    sources: tuple[Source, ...]
    left_out: tuple[tuple[bytes, str], ...]


def scan(root: Path, name: str, hashed: Hashed, before: Tree | None = None) -> Tree:
    """Look at everything and hash what `before` has not hashed already. Raises TreeError."""
    known = {source.path: source for source in before.sources} if before else {}
    left_out: list[tuple[bytes, str]] = []
    base = os.fsencode(root)
    try:
        status = os.stat(base)
        if stat.S_ISREG(status.st_mode):
            found = [(os.path.basename(os.path.abspath(base)), base, status)]
        elif stat.S_ISDIR(status.st_mode):
            found = list(_below(base, b"", left_out))
        else:
            raise TreeError(f"{root} is neither a file nor a directory: only those can be sent")
        sources: list[Source] = []
        for path, real, status in found:
            try:
                check_path_untrusted(path)
            except UntrustedDataError as exc:
                if not stat.S_ISDIR(os.stat(base).st_mode):
                    raise TreeError(f"{root} can't be sent: {exc}") from exc
                left_out.append((path, str(exc)))
                continue
            if len(sources) >= MAX_ITEMS:
                raise TreeError(f"{root} has more than {MAX_ITEMS} files: send an archive of it")
            source = known.get(real)
            sources.append(source if source and source.mark == _mark(status) else _source(path, real, status, hashed))
    except OSError as exc:
        shown = os.fsdecode(exc.filename) if exc.filename else root
        raise TreeError(f"can't read {shown}: {exc.strerror}") from exc
    size = sum(source.item.size for source in sources)
    directory = stat.S_ISDIR(os.stat(base).st_mode)
    return Tree(Offer(name, directory, len(sources), size), tuple(sources), tuple(left_out))


def open_source(source: Source) -> int | None:
    """A descriptor to read the content from; None when it is not what was offered any more. Raises OSError."""
    descriptor = os.open(source.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if _mark(os.fstat(descriptor)) != source.mark:
        os.close(descriptor)
        return None
    return descriptor


def _below(
    base: bytes, prefix: bytes, left_out: list[tuple[bytes, str]]
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    with os.scandir(os.path.join(base, prefix) if prefix else base) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = prefix + b"/" + entry.name if prefix else entry.name
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield path, entry.path, status
            yield from _below(base, path, left_out)
        elif stat.S_ISREG(status.st_mode):
            yield path, entry.path, status
        else:
            left_out.append((path, "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a special file"))


def _source(path: bytes, real: bytes, status: os.stat_result, hashed: Hashed) -> Source:
    if stat.S_ISDIR(status.st_mode):
        return Source(Item(path, 0, b"", directory=True), real, _mark(status))
    digest = hashlib.sha256()
    size = 0
    with open(os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        while data := file.read(_READ):
            digest.update(data)
            size += len(data)
            hashed(len(data))
        if _mark(os.fstat(file.fileno())) != _mark(status) or size != status.st_size:
            raise TreeError(f"{os.fsdecode(real)} changes while it is read: send it when it is complete")
    executable = bool(status.st_mode & stat.S_IXUSR)
    return Source(Item(path, size, digest.digest(), executable), real, _mark(status))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):
        return (stat.S_IFDIR,)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
