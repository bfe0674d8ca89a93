"""What the dashboard follows: named sections of JSON, told to each watcher whole at first and then as they change.

Changes coalesce by section: a slow watcher costs a set of names, never a queue, and always gets the newest. Samples
are no state: each is told to who is there; `history` gives a newcomer those of the last minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import trio

from edgevpn.errors import EdgevpnError

MAX_WATCHERS = 16
SAMPLE = "sample"


class TooManyWatchersError(EdgevpnError):
    """No further stream of events is opened."""


class Hub:
    """The sections, and who watches them."""

    def __init__(self, history: Callable[[], Any] = dict) -> None:
        self.sections: dict[str, str] = {}
        self._history = history
        self._watchers: set[Watcher] = set()
        self.came = trio.Event()  # set while somebody watches

    @property
    def watched(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def put(self, name: str, value: Any) -> None:
        """The section's value now; told when it differs from the last."""
        text = to_json(value)
        if self.sections.get(name) != text:
            self.sections[name] = text
            for watcher in self._watchers:
                watcher.mark(name)

    def drop(self, name: str) -> None:
        """The section is no more; say what goes by `put` before."""
        self.sections.pop(name, None)

    def sample(self, value: Any) -> None:
        text = to_json(value)
        for watcher in self._watchers:
            watcher.sample = text
            watcher.wake()

    def watch(self) -> Watcher:
        """Close it afterwards. Raises TooManyWatchersError."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watch already: close a page of the dashboard")
        watcher = Watcher(self, to_json(self._history()))
        self._watchers.add(watcher)
        self.came.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self.came.is_set():
            self.came = trio.Event()


class Watcher:
    """One who watches: `next` waits for something to tell."""

    def __init__(self, hub: Hub, history: str) -> None:
        self._hub = hub
        self._dirty = dict.fromkeys(hub.sections)
        self._history = history
        self.sample = ""
        self._woken = trio.Event()
        self._woken.set()

    def mark(self, name: str) -> None:
        self._dirty[name] = None
        self.wake()

    def wake(self) -> None:
        self._woken.set()

    async def next(self, patience: float) -> list[tuple[str, str]]:
        """(event, JSON) of what changed; nothing after `patience` seconds without a change."""
        with trio.move_on_after(patience):
            await self._woken.wait()
        self._woken = trio.Event()
        names, self._dirty = self._dirty, {}
        told = [(name.partition("/")[0], self._hub.sections[name]) for name in names if name in self._hub.sections]
        if self._history:
            told.append(("history", self._history))
            self._history = ""
        if self.sample:
            told.append((SAMPLE, self.sample))
            self.sample = ""
        return told

    def close(self) -> None:
        self._hub.leave(self)


def to_json(value: Any) -> str:
    """On one line, as an event's data must be."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)
