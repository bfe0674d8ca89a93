"""Where the ledger actor keeps its ledger: the run directory, and the directory of `--ledger-state`.

The run directory has it for the next ledger actor, the other one for the next node; that is written durably, by the
descriptor that the supervisor holds (kept_directory.py), and bound to the network by a tag from the sealer.

A file that is torn, another network's, of an older version or too large is set aside and said so once. A disk that is
full or read-only costs nothing but that: it is said once, tried again, and said when it works again.

What a request wrote is kept before the request is answered (`settled`), so it outlives this actor, and on the disk the
machine; writes that come together share one fsync.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable

import trio

from edgevpn.actors.client import RefusedError
from edgevpn.actors.kept_directory import KeptFiles
from edgevpn.actors.shell import Shell
from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.snapshot import MAX_SIZE, NO_TAG, read_snapshot_untrusted, still_valid, with_head
from edgevpn.proto.block import Block, write_block
from edgevpn.proto.messages import NetworkFacts, Snapshot

FILE = "ledger.snapshot"
GRANT = "ledger-state"
SAVE_DELAY = 2.0  # seconds that changes are gathered for, unless a request waits: what others wrote they can tell again
RETRY = 15.0  # seconds between tries while the disk does not take it
PATIENCE = 2.0  # seconds that a request waits for the disk at most


class LedgerStore:
    """Loads at the start, saves after changes. `block` gives what is to be kept; it is called in a thread."""

    def __init__(self, shell: Shell, block: Callable[[], Block]) -> None:
        self._shell = shell
        self._block = block
        self._where = shell.config.ledger_state  # "": nowhere but in the run directory
        self._run_dir = KeptFiles(os.open(shell.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self._disk: KeptFiles | None = None
        self._tag = NO_TAG
        self._wanted = self._done = 0  # changes: seen, and seen by a write that is over
        self._changed, self._hurry, self._wrote = trio.Event(), trio.Event(), trio.Event()
        self._saving = threading.Lock()
        self._failing: dict[str, str] = {}  # place -> what was said of it

    async def load(self, now: float, ttl: float | None, mine: str) -> Block | None:
        """What was kept: by the ledger actor before this one, or by the node before. None: nothing that can be used.

        `ttl`: seconds of a lease, for what others than the peer `mine` wrote; None: there are no leases.
        """
        block = self._read(self._run_dir, "the run directory", NO_TAG)
        if self._where:
            self._tag = await self._network_tag()
            await self._open_disk()
            disk = None if self._disk is None else self._read(self._disk, self._where, self._tag)
            if disk is not None and (block is None or disk.index > block.index):  # the other could not be written
                block = disk if ttl is None else still_valid(disk, now, ttl, mine)
        return block

    async def _network_tag(self) -> bytes:
        async with self._shell.client("sealer").watch("windows") as updates:
            async for update in updates:
                if isinstance(update, Snapshot) and isinstance(facts := update.items.get("network"), NetworkFacts):
                    return facts.ledger_tag
        raise RuntimeError("unreachable: the subscription does not end")

    async def _open_disk(self) -> None:
        """Have the directory handed over; what keeps the supervisor from it is said once."""
        try:
            self._disk = KeptFiles(await self._shell.grant_descriptor(GRANT))
        except RefusedError as exc:
            self._note_failure(self._where, str(exc))

    def _read(self, files: KeptFiles, where: str, tag: bytes) -> Block | None:
        try:
            data = files.read(FILE, MAX_SIZE + 1)
            if data is None:
                return None
            try:
                return read_snapshot_untrusted(data, tag)
            except UntrustedDataError as exc:
                aside = files.set_aside(FILE, time.time())
                self._shell.log.warning(f"the ledger in {where} is not used, {exc}: it is kept as {aside}")
        except OSError as exc:
            self._shell.log.warning(f"the ledger in {where} is not used: {exc.strerror}")
        return None

    def note_change(self) -> None:
        """Something is to be kept that was not."""
        self._wanted += 1
        self._changed.set()

    async def settled(self) -> None:
        """Return when what was noted so far is kept, or can't be: a request is not held up for long."""
        wanted = self._wanted
        self._hurry.set()
        with trio.move_on_after(PATIENCE):
            while self._done < wanted:
                await self._wrote.wait()

    async def run(self) -> None:
        """Save, a moment after each change."""
        while True:
            with trio.move_on_after(RETRY if self._failing else float("inf")):
                await self._changed.wait()
            with trio.move_on_after(SAVE_DELAY):
                await self._hurry.wait()
            self._changed, self._hurry = trio.Event(), trio.Event()
            if self._where and self._disk is None:
                await self._open_disk()
            wanted = self._wanted
            self._tell(await trio.to_thread.run_sync(self._write_all))
            self._done = wanted
            self._wrote.set()
            self._wrote = trio.Event()

    def save_now(self) -> None:
        """At the end: what changed since the last time."""
        if self._done < self._wanted:
            self._tell(self._write_all())

    def _write_all(self) -> dict[str, str]:
        """One after the other; for each place what went wrong, "" for nothing."""
        with self._saving:
            content = write_block(self._block())
            places = [("the run directory", self._run_dir, NO_TAG)]
            if self._disk is not None:
                places.append((self._where, self._disk, self._tag))
            return {where: _write(files, with_head(content, tag), tag) for where, files, tag in places}

    def _tell(self, results: dict[str, str]) -> None:
        for where, reason in results.items():
            if reason:
                self._note_failure(where, reason)
            elif self._failing.pop(where, None) is not None:
                self._shell.log.info(f"the ledger is kept in {where} again")

    def _note_failure(self, where: str, reason: str) -> None:
        self._shell.count("snapshots_not_written")
        if where not in self._failing:
            self._shell.log.error(
                f"can't keep the ledger in {where} ({reason}): it is in memory only, and tried again every {RETRY:g} s"
            )
        self._failing[where] = reason


def _write(files: KeptFiles, data: bytes, tag: bytes) -> str:
    try:
        if len(data) > MAX_SIZE:
            raise OSError(errno.EFBIG, f"it is larger than {MAX_SIZE} bytes")
        files.replace(FILE, data, durable=tag != NO_TAG)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""
