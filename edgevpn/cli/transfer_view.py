"""What a person, or a script, sees of a transfer: a bar on a terminal, lines elsewhere, JSON at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import trio

from edgevpn.cli import output
from edgevpn.tunnels.file_receive import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars, TaskID

_REDRAW = 0.1  # seconds
_LINE = 10.0  # seconds between two lines where there is no terminal


class TransferView:
    """Progress goes to stderr, the result to stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.progress: Progress | None = None
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._dirty = trio.Event()
        self._next_line = time.monotonic() + _LINE

    def say(self, text: str) -> None:
        """One line for a person."""
        if self.as_json:
            return
        if self._bars is not None:
            self._bars.console.print(output.clean(text), markup=False, highlight=False)
        else:
            print(output.clean(text), file=sys.stderr, flush=True)

    def result(self, found: dict[str, Any]) -> None:
        if self.as_json:
            sys.stdout.write(output.as_json(found))
            sys.stdout.flush()

    def changed(self) -> None:
        self._dirty.set()

    def sent(self, peer_id: str, done: int, size: int) -> None:
        """A receiver got so much."""
        if self._bars is not None:
            if peer_id not in self._tasks:
                self._tasks[peer_id] = self._bars.add_task(f"to {peer_id[-8:]}", total=size)
            self._bars.update(self._tasks[peer_id], completed=done, total=size)

    def gone(self, peer_id: str) -> None:
        task = self._tasks.pop(peer_id, None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)

    async def run(self) -> None:
        """Draw until cancelled."""
        if self.as_json:
            return
        if not sys.stderr.isatty():
            await self._write_lines()
            return
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress as Bars, TimeRemainingColumn, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        with self._bars:
            try:
                while True:
                    await self._dirty.wait()
                    self._dirty = trio.Event()
                    self._draw()
                    await trio.sleep(_REDRAW)
            finally:
                self._bars = None

    def stop(self) -> None:
        """No more drawing."""
        if self._bars is not None:
            self._draw()

    def _draw(self) -> None:
        progress, bars = self.progress, self._bars
        if progress is None or bars is None:
            return
        if "" not in self._tasks:
            self._tasks[""] = bars.add_task("receiving", total=progress.size or None)
        name = output.clean(output.cut(progress.current, 30)).replace("[", "(") or "receiving"
        label = name if progress.files < 2 else f"{name} ({progress.finished} of {progress.files})"
        bars.update(self._tasks[""], description=label, completed=progress.done, total=progress.size or None)

    async def _write_lines(self) -> None:
        while True:
            await trio.sleep(_LINE)
            progress = self.progress
            if progress is not None and progress.done:
                of = f" of {output.size(progress.size)}" if progress.size else ""
                self.say(f"received {output.size(progress.done)}{of}")
