"""The process that sends or receives a file for `edgevpn file-send` and `file-receive`; its node runs beside it.

`python -m edgevpn.cli.transfer RUN_DIR SUPERVISOR WORDS`. It reaches the node's host and ledger by their sockets as the
other commands do, shows progress on a terminal, prints what came of it (JSON with --json), and ends with the command's
exit code: 0 all is there (of a sender: it was asked to end, or --once is done), 1 it failed, 5 the sender speaks
nonsense, 130 a receiver was interrupted.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from edgevpn.actors.client import Client
from edgevpn.actors.errand import confine
from edgevpn.actors.host_link import HostLink, Inbound, StreamRefusedError
from edgevpn.actors.ledger_view import Announcer, LedgerView, Ours, own_peer_id, user_of
from edgevpn.actors.linux_process import die_with_parent
from edgevpn.cli import output
from edgevpn.cli.ending import EXIT_INTERRUPTED, complain, run_guarded
from edgevpn.cli.file_commands import words_untrusted
from edgevpn.cli.transfer_view import TransferView
from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.protocols import FILE, FILES
from edgevpn.proto.values import FILES as FILES_BUCKET, USERS, Service, write_value
from edgevpn.tunnels import file_receive, file_send, tree as trees
from edgevpn.tunnels.file_receive import BrokeOffError, ContentChangedError, Progress, SenderRefusedError
from edgevpn.tunnels.landing import WrongContentError
from edgevpn.tunnels.tree import Tree

GOSSIP = 0.2  # seconds for the ledger's last word to get out
TRIES = 3  # of content that is not what was announced
PATIENCE = 5.0  # seconds after which a person who waits is told what for
MAX_RECEIVERS = 64  # at a time
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class GaveUpError(EdgevpnError):
    """--give-up is over."""


class Node:
    """What an errand has of its node."""

    def __init__(self, run_dir: Path) -> None:
        self.host = Client(run_dir, "host", caller="transfer")
        self.ledger = Client(run_dir, "ledger", caller="transfer")
        self.link = HostLink(self.host)
        self.view = LedgerView(self.ledger, (USERS, FILES_BUCKET))
        self.announcer = Announcer(self.ledger, self._refused)

    @staticmethod
    def _refused(entry: Ours, reason: str) -> None:
        complain(f"{entry.bucket} {entry.key!r} can't be announced yet, it is another node's: {reason}")


async def send(node: Node, words: Mapping[str, Any]) -> int:
    """Offer until interrupted, or with --once until a receiver has it all."""
    view = TransferView(as_json=words["json"])
    sharing = _Sharing(node, words, view)
    await sharing.hash()
    me = await own_peer_id(node.host)
    ours = [Ours(FILES_BUCKET, words["name"], write_value(Service(me, words["name"])))]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.view.follow)
        nursery.start_soon(node.announcer.keep, ours, words["announce_interval"])
        nursery.start_soon(sharing.serve, nursery)
        nursery.start_soon(view.run)
        try:
            await sharing.over.wait()
        finally:
            sharing.tell()
            await _withdraw(node, ours)
        nursery.cancel_scope.cancel()
    return 0


class _Sharing:
    """One file or directory on offer."""

    def __init__(self, node: Node, words: Mapping[str, Any], view: TransferView) -> None:
        self._node = node
        self._name: str = words["name"]
        self._path: Path = words["path"]
        self._once: bool = words["once"]
        self._view = view
        self._tree: Tree | None = None
        self._hashing = trio.Lock()
        self._sent = 0
        self._receivers: list[dict[str, Any]] = []
        self._serving = 0
        self.over = trio.Event()

    async def hash(self) -> Tree:
        async with self._hashing:
            if self._tree is None:
                self._view.say(f"hashing {self._path}")
            look = partial(trees.scan, self._path, self._name, _stop_when_cancelled, self._tree)
            self._tree = tree = await trio.to_thread.run_sync(look)
            return tree

    async def serve(self, nursery: trio.Nursery) -> None:
        tree = self._tree
        assert tree is not None  # noqa: S101 - hashed before
        for path, why in tree.left_out[:20]:
            complain(f"{os.fsdecode(path)!a} is left out: {why}")
        what = f"{tree.offer.count} items" if tree.offer.directory else "the file"
        self._view.say(
            f"{self._name!a} is on offer: {what}, {output.size(tree.offer.size)}; "
            f"`edgevpn file-receive {self._name} PATH` gets it"
        )
        while True:
            async with self._node.link.serve((FILES, FILE)) as streams:
                async for inbound in streams:
                    if self._serving >= MAX_RECEIVERS:
                        await trio.aclose_forcefully(inbound.stream)
                    else:
                        nursery.start_soon(self._serve_one, inbound)
            await trio.sleep(0.01)  # the host went away

    async def _serve_one(self, inbound: Inbound) -> None:
        began, sent = trio.current_time(), 0

        def count(size: int) -> None:
            nonlocal sent
            sent += size
            self._view.sent(inbound.peer_id, sent, self._tree.offer.size if self._tree else 0)

        self._serving += 1
        whole = False
        try:
            if await self._node.view.admits(inbound.peer_id):
                whole = await self._send(inbound, count)
            else:
                complain(f"{inbound.peer_id} asked for it and is not in `users` of the ledger: refused")
        except (EdgevpnError, trio.TooSlowError, OSError, *_BROKEN):
            pass  # that receiver's affair: it may come back and go on
        finally:
            self._serving -= 1
            self._view.gone(inbound.peer_id)
            await trio.aclose_forcefully(inbound.stream)
        if sent or whole:
            took = round(trio.current_time() - began, 3)
            row = {"peer_id": inbound.peer_id, "bytes": sent, "seconds": took, "whole": whole}
            self._receivers = [*self._receivers[-999:], row]
            self._view.say(f"{inbound.peer_id} {'has all of it' if whole else 'left'} ({output.size(sent)} sent)")
        if whole and self._once:
            self.over.set()

    async def _send(self, inbound: Inbound, count: Any) -> bool:
        if inbound.protocol == FILES:
            return await file_send.serve(inbound.stream, self._name, self.hash, count)
        tree = await self.hash()
        if tree.offer.directory:
            complain(f"{inbound.peer_id} is a Go node: it can't receive a directory; send it an archive")
            return False
        return await file_send.serve_plain(inbound.stream, tree, count)

    def tell(self) -> None:
        tree = self._tree
        if self._view.as_json and tree is not None:
            found = {"name": self._name, "directory": tree.offer.directory, "items": tree.offer.count}
            self._view.result({**found, "size": tree.offer.size, "receivers": self._receivers})


def _stop_when_cancelled(_: int) -> None:
    """In the thread that hashes, after each piece."""
    trio.from_thread.check_cancelled()


async def receive(node: Node, words: Mapping[str, Any]) -> int:
    """Get it, over as many connections as it takes."""
    view = TransferView(as_json=words["json"])
    progress = Progress(changed=view.changed)
    view.progress = progress
    me = await own_peer_id(node.host)
    ours = [user_of(me)]
    began = trio.current_time()
    receiving = _Receiving(node, words, view, progress)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.view.follow)
        nursery.start_soon(node.announcer.keep, ours, words["announce_interval"])
        nursery.start_soon(view.run)
        try:
            with trio.move_on_after(words["give_up"] or float("inf")) as patience:
                await receiving.run()
        finally:
            await _withdraw(node, ours)
            view.stop()
        nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        raise GaveUpError(f"{words['name']!r} is not here after {words['give_up']:g} s: {receiving.reason}")
    took = max(trio.current_time() - began, 1e-6)
    transferred = progress.done - progress.resumed
    view.result(
        {
            "name": words["name"],
            "path": progress.where,
            "files": progress.files,
            "size": progress.done,
            "transferred": transferred,
            "breaks": receiving.breaks,
            "sha256": progress.sha256 if progress.files == 1 else None,
            "verified": receiving.verified,
            "from": receiving.provider,
            "seconds": round(took, 3),
            "transfer_seconds": round(receiving.seconds, 3),
        }
    )
    speed = transferred * 8 / 1e6 / max(receiving.seconds, 1e-6)
    checked = "its SHA-256 is right" if receiving.verified else "a Go node's: there was no hash to check"
    view.say(f"{progress.where}: {output.size(progress.done)}, {speed:.0f} Mbit/s; {checked}")
    return 0


class _Receiving:
    """Tries until it is here."""

    def __init__(self, node: Node, words: Mapping[str, Any], view: TransferView, progress: Progress) -> None:
        self._node = node
        self._name: str = words["name"]
        self._path: Path = words["path"]
        self._view = view
        self._progress = progress
        self._wrong = 0
        self.reason = "nobody in the network offers it"
        self.breaks = 0
        self.provider = ""
        self.verified = True
        self.seconds = 0.0  # with a stream open

    async def run(self) -> None:
        pauses = BackOff(0.1, 5.0, random.Random())  # noqa: S311
        tell_at = trio.current_time() + PATIENCE
        while True:
            before = self._progress.done
            if await self._try_once():
                return
            if self._progress.done != before:
                pauses.reset()
            if trio.current_time() > tell_at:
                tell_at = float("inf")
                self._view.say(f"waiting: {self.reason}")
            await self._node.view.changed(pauses.next())

    async def _try_once(self) -> bool:
        self.provider = self._node.view.provider(FILES_BUCKET, self._name)
        if not self.provider:
            self.reason = "nobody in the network offers it"
            return False
        try:
            protocol, stream = await self._node.link.dial(self.provider, (FILES, FILE))
        except StreamRefusedError as exc:
            self.reason = f"its sender does not answer: {exc}"
            return False
        began = trio.current_time()
        try:
            await self._receive(protocol, stream)
        except BrokeOffError as exc:
            self.breaks += self._progress.done > 0
            self.reason = str(exc)
            if protocol == FILE:
                self._progress.done = 0  # a plain stream can't be continued
            return False
        except (SenderRefusedError, ContentChangedError) as exc:
            self.reason = str(exc)
            return False
        except (WrongContentError, UntrustedDataError) as exc:
            self._wrong += 1
            if self._wrong >= TRIES:
                raise
            self.reason = str(exc)
            return False
        finally:
            self.seconds += trio.current_time() - began
            await trio.aclose_forcefully(stream)
        return True

    async def _receive(self, protocol: str, stream: trio.abc.HalfCloseableStream) -> None:
        self.verified = protocol == FILES
        if protocol == FILES:
            await file_receive.receive(stream, self._name, self._path, self._progress)
        else:
            clean = self._node.link.ended_cleanly
            await file_receive.receive_plain(stream, self._name, self._path, self._progress, clean)


async def _withdraw(node: Node, ours: Sequence[Ours]) -> None:
    with trio.move_on_after(2) as scope:
        scope.shield = True
        await node.announcer.withdraw(ours)
        await trio.sleep(GOSSIP)


async def _until_asked_to_end(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _run(run_dir: Path, words: Mapping[str, Any]) -> int:
    sending = words["errand"] == "file-send"
    work = send if sending else receive
    code = 0 if sending else EXIT_INTERRUPTED
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_until_asked_to_end, nursery.cancel_scope)
        code = await work(Node(run_dir), words)
        nursery.cancel_scope.cancel()
    return code


def main(argv: Sequence[str]) -> int:
    run_dir, supervisor, word = argv
    die_with_parent(int(supervisor))
    confine()
    return run_guarded(lambda: trio.run(_run, Path(run_dir), words_untrusted(word)), debug=lambda: False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
