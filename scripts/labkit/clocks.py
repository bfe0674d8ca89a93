"""A wall clock of its own for nodes in a lab, which can be set while they run.

Python imports `sitecustomize` at its start; the one made here adds an offset to time.time, read from a file that stays
mapped, so that actors which may not open it follow, too. The monotonic clock is the machine's, as when a clock is set
or a machine sleeps.

    clock = LabClock(directory)
    Vpn(..., env=clock.environment)
    clock.go_on(8 * 3600)
"""

from __future__ import annotations

import struct
from pathlib import Path

_MODULE = """
import mmap, struct, time
with open({path!r}, "rb") as _file:
    _map = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_time, _time_ns, _double = time.time, time.time_ns, struct.Struct("d")
time.time = lambda: _time() + _double.unpack_from(_map)[0]
time.time_ns = lambda: _time_ns() + int(_double.unpack_from(_map)[0] * 1e9)
"""


class LabClock:
    """Of all nodes that are started with its environment."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "offset"
        self._offset = 0.0
        self._write()
        (directory / "sitecustomize.py").write_text(_MODULE.format(path=str(self._file)))
        self.environment = {"PYTHONPATH": str(directory)}

    def go_on(self, seconds: float) -> None:
        """Set it forward (negative: back) by so much."""
        self._offset += seconds
        self._write()

    def _write(self) -> None:
        """In place: the file is mapped."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("d", self._offset))
