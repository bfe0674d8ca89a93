"""The node's log on disk: two files in the run directory, so that it is bounded and outlives every process of ours.

The supervisor alone writes. Lines go to NEWEST; when that has grown to HALF bytes it becomes OLDER, in place of the one
before. A node that stops takes its files along; those of a node that was killed, or that ended by a bug of ours, stay,
and the next node in this directory goes on with them. Readers need no node: they read the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.log_lines import LogLine, read_line_untrusted, write_line

NEWEST = "node.log"
OLDER = "node.log.1"
HALF = 1 << 20  # bytes of each file


class LogStore:
    """Writes the log of the node in `run_dir`. A disk that is full costs lines, counted, and nothing else."""

    def __init__(self, run_dir: Path, half: int = HALF) -> None:
        self._newest = run_dir / NEWEST
        self._older = run_dir / OLDER
        self._half = half
        self._descriptor = -1
        self._size = 0
        self._torn = False
        self.lost = 0

    def append(self, line: LogLine) -> None:
        data = write_line(line)
        try:
            if self._size + len(data) > self._half:
                self._rotate()
            if self._descriptor < 0:
                self._open()
            written = os.write(self._descriptor, b"\n" + data if self._torn else data)
        except OSError:
            self.lost += 1
            return
        self._size += written
        self._torn = written < len(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._newest, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size:
            self._torn = True  # the last one to write may have been killed in the middle
        if self._size >= self._half:
            self._rotate()
            self._open()

    def _rotate(self) -> None:
        if self._descriptor >= 0:
            self.close()
            os.replace(self._newest, self._older)
        self._size = 0
        self._torn = False


class LogReader:
    """The lines of a node's log: first those that are there, then, each time it is asked, what came since."""

    def __init__(self, run_dir: Path) -> None:
        self._newest = run_dir / NEWEST
        self._older = run_dir / OLDER
        self._descriptor = -1
        self._rest = b""

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def read(self) -> Iterator[LogLine]:
        """What came since the last call, nothing where there is no file. Raises PermissionError."""
        if self._descriptor < 0:
            with suppress(FileNotFoundError):
                yield from _lines(self._older.read_bytes())
            self._open()
        while self._descriptor >= 0:
            yield from self._take()
            if self._is_current():
                return
            yield from self._take()  # what came between the last look and the change of files
            self._close()
            self._open()

    @property
    def found(self) -> bool:
        """Whether there is a log."""
        return self._descriptor >= 0

    def _open(self) -> None:
        with suppress(FileNotFoundError):
            self._descriptor = os.open(self._newest, os.O_RDONLY | os.O_CLOEXEC)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._rest = b""

    def _take(self) -> Iterator[LogLine]:
        while data := os.read(self._descriptor, 1 << 20):
            whole, _, self._rest = (self._rest + data).rpartition(b"\n")
            yield from _lines(whole)

    def _is_current(self) -> bool:
        """Whether the open file is still the newest (or there is no newer yet)."""
        try:
            now = os.stat(self._newest)
        except FileNotFoundError:
            return True
        return os.path.samestat(now, os.fstat(self._descriptor))


def _lines(data: bytes) -> Iterator[LogLine]:
    for row in data.split(b"\n"):
        if row:
            with suppress(UntrustedDataError):  # a torn line
                yield read_line_untrusted(row)
