"""Blocks on the gossip topic: those that Go nodes tell, opened by the sealer, and those that are told for them.

What is heard is taken in one after the other. An author that told much that was useless (ledger/allowance.py) is not
heard for a moment, here and in the gossip actor, which then neither checks nor passes on what it says.

What is published goes on the topic of the current window, and on those that Go nodes with other clocks are on. What
can't be said now is said a moment later, the newest of it only.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.complaints import Complaints
from edgevpn.actors.shell import Shell
from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.allowance import MUTED, UNREADABLE, Allowance, cost_of_block
from edgevpn.ledger.clock_watch import ClockWatch
from edgevpn.ledger.gossip_core import GossipCore
from edgevpn.ledger.merge import MergeResult, Place
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block, read_block_untrusted, write_block
from edgevpn.proto.entry import Entry
from edgevpn.proto.gossip_message import compress, decompress_untrusted
from edgevpn.proto.messages import (
    Body,
    Done,
    Event,
    GossipReceived,
    Member,
    Mute,
    Open,
    Opened,
    Publish,
    Published,
    Seal,
    Sealed,
    Window,
)
from edgevpn.proto.topic_schedule import TopicWindow, publish_topics

_SMALL = 4096  # bytes of a compressed block that is read without a thread

Merge = Callable[[Block, str], Awaitable[MergeResult]]


class LedgerTopic:
    """`merge(block, peer)` takes one in; `windows` and `members` are copies of the sealer's and the gossip's states."""

    def __init__(
        self,
        shell: Shell,
        state: LedgerState,
        core: GossipCore,
        clocks: ClockWatch,
        allowance: Allowance,
        complaints: Complaints,
        windows: Mapping[str, Body],
        members: Mapping[str, Body],
        merge: Merge,
    ) -> None:
        self._shell = shell
        self._state = state
        self._core = core
        self._clocks = clocks
        self._allowance = allowance
        self._complaints = complaints
        self._windows = windows
        self._members = members
        self._merge = merge
        self._entries: dict[Place, Entry] = {}  # to be published
        self._whole = False
        self._more = trio.Event()

    # --- hearing

    async def receive(self) -> None:
        """Until cancelled."""
        async with self._shell.client("gossip").watch("messages") as events:
            async for event in events:
                if isinstance(event, Event) and isinstance(event.body, GossipReceived):
                    await self._heard(event.body)

    async def _heard(self, message: GossipReceived) -> None:
        peer, author = message.from_peer, message.author
        direct = author == peer  # others pass it on unread
        if self._allowance.pause(author, trio.current_time()) > 0:
            self._shell.count("messages_over_allowance")
            return
        try:
            opened = await self._shell.client("sealer").call(Open(message.data), Opened)
            if len(opened.plaintext) <= _SMALL:
                block = _read_untrusted(opened.plaintext)
            else:
                block = await trio.to_thread.run_sync(_read_untrusted, opened.plaintext)
        except RefusedError as exc:
            self._shell.warn("messages_not_opened", peer=peer, reason=str(exc))
            await self._charge(author, UNREADABLE if direct else 0.0)
        except UntrustedDataError as exc:
            self._shell.warn("blocks_refused", peer=peer, reason=str(exc))
            if direct:
                self._complaints.note(peer, "malformed")
            await self._charge(author, UNREADABLE if direct else 0.0)
        except ActorUnavailableError:
            self._shell.count("messages_lost_without_sealer")
        else:
            window = self._windows.get(opened.window)
            if isinstance(window, Window) and peer not in self._core.links:
                now = trio.current_time()
                self._clocks.heard_window(peer, window.topic_start, window.topic_end, time.time(), now)
            merged = await self._merge(block, peer)
            cost = cost_of_block(merged, author, direct=direct, whole=bool(block.hash))
            await self._charge(author, cost)

    async def _charge(self, author: str, units: float) -> None:
        """Whoever has overdrawn is not heard for a while. Without ownership there are no rules to break."""
        if self._state.mode is Mode.OFF:
            return
        self._allowance.charge(author, units, trio.current_time())
        pause = self._allowance.pause(author, trio.current_time())
        if pause > 0:
            self._shell.count("authors_muted")
            try:
                await self._shell.client("gossip").call(Mute(author, max(pause, MUTED)), Done)
            except (ActorUnavailableError, RefusedError):
                self._shell.count("authors_not_muted")

    # --- speaking

    def publish_soon(self, entries: Mapping[Place, Entry] | None) -> None:
        """These entries, or the whole ledger (None)."""
        if entries is None:
            self._whole = True
        else:
            self._entries.update(entries)
        self._more.set()

    async def publish(self) -> None:
        """Until cancelled."""
        while True:
            self._more = trio.Event()
            entries, self._entries = self._entries, {}
            whole, self._whole = self._whole, False
            if not entries and not whole:
                await self._more.wait()
                continue
            plaintext = await trio.to_thread.run_sync(_write, self._state, None if whole else entries)
            try:
                for topic in self._topics():
                    sealed = await self._shell.client("sealer").call(Seal(plaintext, topic), Sealed)
                    await self._shell.client("gossip").call(Publish(sealed.data, topic), Published)
            except (ActorUnavailableError, RefusedError):
                self._shell.count("publishes_failed")
                self._entries = entries | self._entries
                self._whole |= whole
                await trio.sleep(0.05)
            else:
                self._shell.count("blocks_published" if whole else "parts_published")

    def _topics(self) -> list[str]:
        known = [window for window in self._windows.values() if isinstance(window, Window)]
        windows = [TopicWindow(w.topic, w.topic_start, w.topic_end) for w in known]
        members = [self._members.get(peer) for peer in self._core.others]
        others = [member.topics for member in members if isinstance(member, Member)]
        return publish_topics(windows, others, time.time()) or [""]


# What a peer's block can make long runs in a thread: meanwhile the actor answers.


def _read_untrusted(plaintext: bytes) -> Block:
    return read_block_untrusted(decompress_untrusted(plaintext))


def _write(state: LedgerState, entries: Mapping[Place, Entry] | None) -> bytes:
    block = state.block if entries is None else state.partial_block(entries, time.time())
    return compress(write_block(block))
