"""The ledger actor: what the network agreed on, merged, kept and told.

What is said when, and to whom, is decided in edgevpn/ledger: gossip_core.py for what is told, own_entries.py for what
we write of ourselves, clock_watch.py for what to think of our clock. This actor carries it out. Nodes of ours are
spoken to on streams (ledger_links.py); blocks on the gossip topic come from Go nodes and are published for them
(ledger_topic.py). A peer that tells much that is useless is read on from when its allowance (ledger/allowance.py) lets
it, and what is much is taken in a little at a time, so that nobody waits for long behind it.

What is kept on disk is in ledger_store.py, what others see of the ledger in ledger_views.py. Dies: routes and names
stay as last seen with those who watch them.
"""

from __future__ import annotations

import platform
import random
import sys
import time
from collections.abc import Iterable
from typing import Any

import trio

from edgevpn import __version__
from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import apply
from edgevpn.actors.complaints import Complaints
from edgevpn.actors.ledger_dhcp import LedgerDhcp
from edgevpn.actors.ledger_introductions import LedgerIntroductions
from edgevpn.actors.ledger_links import LedgerLinks
from edgevpn.actors.ledger_store import LedgerStore
from edgevpn.actors.ledger_topic import LedgerTopic
from edgevpn.actors.ledger_views import LedgerViews, bucket_told
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.ledger.allowance import Allowance, cost_of_frame
from edgevpn.ledger.block_lack import lack_of
from edgevpn.ledger.clock_watch import ClockWatch
from edgevpn.ledger.gossip_core import Action, GossipCore, Send
from edgevpn.ledger.merge import (
    FULL,
    ROLLBACK,
    TOO_FAR_AHEAD,
    MergeResult,
    Place,
    changed_entries,
    in_parts,
    joined,
    with_entries,
)
from edgevpn.ledger.own_entries import OwnEntries, Written
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block, write_block
from edgevpn.proto.clock_jump import Jump
from edgevpn.proto.entry import Entry
from edgevpn.proto.ledger_frames import Digest, Entries, Frame, Peers, Told, entries_untrusted
from edgevpn.proto.messages import (
    Announce,
    BlockReply,
    BlockRequest,
    Body,
    ClockState,
    Done,
    Leave,
    LedgerReply,
    LedgerRequest,
    PeerState,
    Window,
    Withdraw,
)
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.protocols import LEDGER
from edgevpn.proto.values import HEALTHCHECK, MACHINES, Machine, write_value

GRACE = 5.0  # s in which a member that may be one of ours need not have a link
CLOCK_CHECK = 5.0  # s
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_FLOOD = (FULL, TOO_FAR_AHEAD)
_SMALL = 4096  # bytes of a frame's entries that are read without a thread
_FEW = 16  # entries that are merged in one turn: about 2 ms, most of it for signatures
_SWITCH = 0.0005  # s that a thread may keep the interpreter from the others, when they want it


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        sys.setswitchinterval(_SWITCH)  # each time the main thread asks for it, of many times for one frame
        key = PrivateKey(await shell.grant("identity"))
        actor = LedgerActor(shell, key)
        await actor.load()
        actor.announce_ours()
        await shell.ready()
        nursery.start_soon(actor.topic.receive)
        nursery.start_soon(actor.follow, "gossip", "members", actor.members)
        nursery.start_soon(actor.follow, "host", "peers", actor.peers)
        nursery.start_soon(actor.follow, "sealer", "windows", actor.windows)
        if actor.state.mode is not Mode.OFF:
            nursery.start_soon(actor.links.run)
            nursery.start_soon(actor.introductions.run)
        shell.when_clock_jumps.append(actor.clock_jumped)
        nursery.start_soon(actor.speak)
        nursery.start_soon(actor.complaints.run)
        nursery.start_soon(actor.topic.publish)
        nursery.start_soon(actor.watch_clock)
        nursery.start_soon(actor.store.run)
        if actor.dhcp is not None:
            nursery.start_soon(actor.dhcp.run)
        try:
            await trio.sleep_forever()
        finally:
            actor.store.save_now()


class LedgerActor:
    """Holds the state; merges, announces, speaks and saves."""

    def __init__(self, shell: Shell, key: PrivateKey) -> None:
        config = shell.config
        self._shell = shell
        self._config = config
        self._key = key
        now, wall = trio.current_time(), time.time()
        chance = random.Random()  # noqa: S311
        self.state = LedgerState(key, wall, mode=Mode(config.ownership), ttl=config.owner_ttl)
        self.core = GossipCore(self.state, key.peer_id, config.ledger_sync_interval, chance, now)
        self.own = OwnEntries(
            self.state,
            chance,
            now,
            wall,
            announce_interval=config.ledger_announce_interval,
            heartbeat_interval=config.heartbeat_interval,
            scrub_interval=config.scrub_interval,
            max_heartbeat_age=config.max_heartbeat_age,
            heartbeats=config.heartbeats,
        )
        self.store = LedgerStore(shell, lambda: self.state.kept)
        self.views = LedgerViews(shell.mailbox, self.state, peerguard=config.peerguard)
        self.dhcp = LedgerDhcp(shell, self.state, self._addresses_changed) if config.dhcp else None
        self._claim_addresses()
        self.complaints = Complaints(shell)
        self.links = LedgerLinks(
            shell,
            key.peer_id,
            self._on_frame,
            self._on_link_up,
            self._on_link_down,
            self._on_lost,
            self.complaints.note,
        )
        self.clocks = ClockWatch(360.0)
        self.members: dict[str, Body] = {}
        self.peers: dict[str, Body] = {}
        self.introductions = LedgerIntroductions(shell, key.peer_id, self.peers, self.links.send)
        self.windows: dict[str, Body] = {}
        self._seen = self.state.storage  # as it was shown
        self._since: dict[str, float] = {}  # when a member without a link was first seen
        self._reconsider_at = float("inf")
        self._rearmed = trio.Event()
        self._merging = trio.Lock()  # fair: whoever sends much waits as often as the others
        self.allowance = Allowance()
        self.topic = LedgerTopic(
            shell,
            self.state,
            self.core,
            self.clocks,
            self.allowance,
            self.complaints,
            self.windows,
            self.members,
            self._merge_block,
        )
        self._clock = shell.mailbox.state("clock")
        shell.mailbox.on_request(LedgerRequest, self._entries)
        shell.mailbox.on_request(BlockRequest, self._block)
        shell.mailbox.on_request(Announce, self._announce)
        shell.mailbox.on_request(Withdraw, self._withdraw)
        shell.mailbox.on_request(Leave, self._leave, only=())
        shell.namespace |= {"ledger": self, "state": self.state, "core": self.core, "links": self.links}
        shell.gauges |= {
            "entries": lambda: sum(map(len, self.state.storage.values())),
            "index": lambda: self.state.index,
            "others": lambda: len(self.core.others),
        }

    async def load(self) -> None:
        """Go on from what was kept."""
        ttl = None if self.state.mode is Mode.OFF else self.state.ttl
        kept = await self.store.load(time.time(), ttl, self._key.peer_id)
        if kept is not None:
            self.state.restore(kept)
            self._show()

    # --- ours

    def _claim_addresses(self) -> None:
        """Have our machines announced: one for each address."""
        cidrs = self._config.addresses if self.dhcp is None else self.dhcp.addresses
        addresses = [cidr.partition("/")[0] for cidr in cidrs] if self._config.vpn else []
        self.own.announcements = {Place(MACHINES, address): self._machine(address) for address in addresses}

    def _addresses_changed(self) -> None:
        """DHCP wrote, and may have taken or given up addresses."""
        self._wrote(Written(changed_entries(self._seen, self.state.storage), urgent=True))
        self._claim_addresses()
        self.announce_ours()

    def _machine(self, address: str) -> str:
        return write_value(
            Machine(
                peer_id=self._key.peer_id,
                hostname=platform.node(),
                os="linux",
                arch=_ARCHITECTURES.get(platform.machine(), platform.machine()),
                address=address,
                version=__version__,
            )
        )

    def announce_ours(self) -> None:
        """Our machines and heartbeat, where they are missing or another's."""
        self._wrote(self.own.announce(time.time()))

    def _wrote(self, written: Written) -> None:
        """Something of ours changed: tell at once, save soon, and show the routes."""
        for place in written.conflicts if self.dhcp is None else ():  # by DHCP it is given up, or the other one does
            present = self.state.get(place.bucket, place.key)
            self._shell.log.error(
                f"{place.key} belongs to another live machine: packets to it go there; choose another --address",
                owner=present.owner if present else "",
            )
        if written.entries:
            self._do(self.core.wrote(written.entries, urgent=written.urgent))
            self._show()

    def _show(self) -> None:
        self._seen = self.state.storage
        self.views.show()
        self.store.note_change()
        if self.dhcp is not None:
            self.dhcp.note_change()

    # --- who is there

    async def follow(self, actor: str, topic: str, items: dict[str, Body]) -> None:
        """Keep a copy of another actor's state."""
        async with self._shell.client(actor).watch(topic) as updates:
            async for update in updates:
                apply(items, update)
                current = self.windows.get("current")
                if isinstance(current, Window):
                    self.clocks.interval = current.topic_end - current.topic_start
                if topic == "peers":
                    self.introductions.peers_changed()
                self._reconsider()

    def _on_link_up(self, peer: str) -> None:
        self._do(self.core.link_up(peer, time.time()))
        self.introductions.link_up(peer)
        self._reconsider()

    def _on_link_down(self, peer: str) -> None:
        self._do(self.core.link_down(peer, trio.current_time()))
        self.introductions.link_down(peer)
        self.clocks.forget(peer)
        self._reconsider()

    def _on_lost(self) -> None:
        self.core.hurry(trio.current_time())
        self._rearmed.set()

    def _reconsider(self) -> None:
        """Which members need whole blocks: those that don't speak our protocol, or have no link for long."""
        now = trio.current_time()
        others = []
        self._reconsider_at = float("inf")
        for peer in self.members:
            if peer in self.core.links:
                self._since.pop(peer, None)
                continue
            state = self.peers.get(peer)
            protocols = state.protocols if isinstance(state, PeerState) else []
            due = self._since.setdefault(peer, now) + GRACE
            if self.state.mode is Mode.OFF or (protocols and LEDGER not in protocols) or now >= due:
                others.append(peer)
            else:
                self._reconsider_at = min(self._reconsider_at, due)
        for peer in self._since.keys() - self.members.keys():
            del self._since[peer]
        self.core.others_are(others, now)
        self._rearmed.set()

    # --- hearing

    async def _merge_block(self, block: Block, peer: str) -> MergeResult:
        """A block on the topic."""
        merged = await self._judged(block)
        self._shell.count("blocks_merged")
        self._after_merge(merged, peer)
        lack = await trio.to_thread.run_sync(lack_of, self.state, block) if block.hash else None
        if lack and self.state.outdo(block):
            self._shell.count("indexes_outdone")
        self.core.merged_block(peer, lack, merged, trio.current_time())
        self._rearmed.set()
        return merged

    async def _on_frame(self, peer: str, frame: Frame) -> float:
        """A frame of a link, opened; for how long the peer's next one may wait. Raises UntrustedDataError."""
        self.introductions.is_member(peer)
        if isinstance(frame, Peers):
            self.introductions.heard(peer, frame)
            return 0.0
        if isinstance(frame, Digest):
            self.clocks.heard_time(peer, frame.time_ms / 1000, time.time(), trio.current_time())
        if not isinstance(frame, Entries):
            self._do(self.core.on_frame(peer, frame, trio.current_time(), time.time()))
            return 0.0
        if len(frame.entries) <= _SMALL:
            block = _as_block(entries_untrusted(frame.entries))
        else:
            block = await trio.to_thread.run_sync(lambda: _as_block(entries_untrusted(frame.entries)))
        merged = await self._merge_frame(block)
        self._shell.count("frames_merged")
        self._after_merge(merged, peer)
        self._do(self.core.merged(peer, frame, block, merged, trio.current_time()))
        self.allowance.charge(peer, cost_of_frame(merged), trio.current_time())
        return self.allowance.pause(peer, trio.current_time())

    async def _merge_frame(self, block: Block) -> MergeResult:
        """Merge it a little at a time: others have their turns in between, and are never behind a whole frame."""
        merged: list[MergeResult] = []
        before = self.state.storage
        for part in in_parts(block.storage, _FEW):
            async with self._merging:
                merged.append(self.state.merge(Block(storage=part), time.time()))
            await trio.lowlevel.checkpoint()
        return joined(merged, before)

    async def _judged(self, block: Block) -> MergeResult:
        """Merge it. The work is done in a thread; what we write meanwhile wins, and the block is judged again."""
        async with self._merging:
            while True:
                storage, wall = self.state.storage, time.time()
                merged = await trio.to_thread.run_sync(self.state.judge, block, wall)
                if self.state.storage is storage:
                    self.state.take(merged, block, wall)
                    return merged

    def _after_merge(self, merged: MergeResult, peer: str) -> None:
        said = self.state.mode is Mode.OBSERVE  # old versions are under way wherever blocks are passed on whole
        refused = [one for one in merged.violations if said or one.reason != ROLLBACK]
        if len(refused) < len(merged.violations):
            self._shell.count("entries_older", len(merged.violations) - len(refused))
        if refused:
            self._shell.warn("entries_refused", peer=peer, violation=str(refused[0]))
            self._shell.count("entries_refused", len(refused) - 1)
            if any(one.reason in _FLOOD and one.entry.owner == peer for one in refused):
                self.complaints.note(peer, "flood")
        renewed = self.own.renew_buried(merged.violations, time.time())
        if renewed.entries:
            self._shell.count("entries_renewed", len(renewed.entries))
            self._wrote(renewed)
        if self.dhcp is not None:
            self.dhcp.merged(merged.violations)
        if merged.changed:
            self._shell.count("entries_changed", len(merged.changed))
            if any(place.bucket != HEALTHCHECK for place in merged.changed):
                self.announce_ours()  # somebody's tombstone or older state may have hit them
            self._show()

    # --- speaking

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.links.send(action.peer, action.frame)
            else:
                self.topic.publish_soon(action.entries)
        self._rearmed.set()

    def clock_jumped(self, _: Jump) -> None:
        """Say that we are here, and compare, at once."""
        self._on_lost()

    async def speak(self) -> None:
        """Let the clocks of the core and of our own entries run."""
        while True:
            now = trio.current_time()
            if now >= self._reconsider_at:
                self._reconsider()
            self._wrote(self.own.expire(now, time.time()))
            self._do(self.core.expire(now, time.time()))
            self._rearmed = trio.Event()
            wake = min(self.core.next_wakeup(), self.own.next_wakeup(), self._reconsider_at)
            with trio.move_on_at(max(wake, now + 0.001)):
                await self._rearmed.wait()

    async def watch_clock(self) -> None:
        """Tell the user when our clock and the others' differ."""
        told = ""
        while True:
            verdict = self.clocks.verdict(trio.current_time())
            self._clock.put("clock", ClockState(round(verdict.offset, 1), verdict.peers, verdict.text))
            about = "ours" if verdict.text and not verdict.strangers else ",".join(verdict.strangers)
            if verdict.text and about != told:
                self._shell.log.warning(verdict.text)
            told = about if verdict.text else ""
            await trio.sleep(CLOCK_CHECK)

    # --- requests

    async def _entries(self, request: LedgerRequest) -> Body:
        storage = self.state.storage
        buckets = [bucket for bucket in sorted(storage) if request.bucket in ("", bucket)]
        return LedgerReply([entry for bucket in buckets for entry in bucket_told(storage, bucket)])

    async def _block(self, _: BlockRequest) -> Body:
        return BlockReply(await trio.to_thread.run_sync(_block_json, self.state))

    async def _announce(self, request: Announce) -> Body:
        entry = self.state.announce(request.bucket, request.key, request.value, time.time())
        if entry is not None:
            self._wrote(Written({Place(request.bucket, request.key): entry}, urgent=True))
            self.announce_ours()  # the first heartbeat, if there was none: the entry's lease hangs on it
            await self.store.settled()
        return Done()

    async def _withdraw(self, request: Withdraw) -> Body:
        entry = self.state.delete(request.bucket, request.key, time.time())
        if entry is None:
            raise RequestError("unknown", f"there is no {request.bucket}/{request.key} to delete")
        self._wrote(Written({Place(request.bucket, request.key): entry}, urgent=True))
        await self.store.settled()
        return Done()

    async def _leave(self, _: Leave) -> Body:
        """The machines are given free, if the next start is another peer: it could not have their addresses else."""
        if not self._config.privkey_cache and self.dhcp is None:
            places, self.own.announcements = list(self.own.announcements), {}
            wall = time.time()
            gone = {place: entry for place in places if (entry := self._deleted(place, wall)) is not None}
            self._wrote(Written(gone, urgent=True))
        return Done()

    def _deleted(self, place: Place, wall: float) -> Entry | None:
        """The tombstone over an entry of ours."""
        present = self.state.get(place.bucket, place.key)
        if present is None or present.deleted or present.owner != self._key.peer_id:
            return None
        return self.state.delete(place.bucket, place.key, wall)


# What a peer's block can make long runs in a thread: meanwhile the actor answers.


def _as_block(entries: Iterable[Told]) -> Block:
    return Block(storage=with_entries({}, {Place(bucket, key): entry for bucket, key, entry in entries}))


def _block_json(state: LedgerState) -> bytes:
    return write_block(state.block)
