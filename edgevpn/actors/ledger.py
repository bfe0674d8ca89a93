"""The ledger actor: what the network agreed on, merged, kept and told.

Blocks of peers come from gossip's feed, are opened by the sealer and merged (edgevpn/ledger). What we know is told by
Trickle (RFC 6206): soon when something changed, when a peer lacks what we have, or when a member joins; ever more
seldom while all say the same, up to --ledger-synchronization-interval. Our own entries (machines, healthcheck) are
announced again whenever they are missing; the heartbeat renews their lease.

What is kept on disk is in ledger_store.py. Dies: routes and names stay as last seen with those who watch them.
"""

from __future__ import annotations

import hashlib
import platform
import random
import time
from typing import Any

import trio

from edgevpn import __version__
from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import ActorUnavailableError, RefusedError, apply
from edgevpn.actors.ledger_dhcp import LedgerDhcp
from edgevpn.actors.ledger_store import LedgerStore
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.errors import UntrustedDataError
from edgevpn.ledger.dns_entries import dns_entries
from edgevpn.ledger.leader import available_peers, leader_of
from edgevpn.ledger.merge import MergeResult, Violation
from edgevpn.ledger.policy import Expiry, Mode, policy_of
from edgevpn.ledger.routes import routing_table
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.ledger.trickle import Trickle
from edgevpn.proto.block import Block, Storage, read_block_untrusted, write_block
from edgevpn.proto.entry import Entry
from edgevpn.proto.gossip_message import compress, decompress_untrusted
from edgevpn.proto.messages import (
    Announce,
    BlockReply,
    BlockRequest,
    Body,
    BucketMark,
    DnsPattern,
    Done,
    Event,
    GossipReceived,
    LedgerEntry,
    LedgerReply,
    LedgerRequest,
    Open,
    Opened,
    Publish,
    Published,
    Route,
    Seal,
    Sealed,
    Withdraw,
)
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.values import (
    DNS,
    EGRESS,
    FILES,
    HEALTHCHECK,
    MACHINES,
    SERVICES,
    TRUSTZONE,
    TRUSTZONE_AUTH,
    USERS,
    Machine,
    write_heartbeat,
    write_value,
)

FIRST_INTERVAL = 0.25  # Trickle's smallest interval
REDUNDANCY = 2  # who heard so many say the same in an interval keeps quiet
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_MAX_REMEMBERED = 256
_OF_TRUST = (TRUSTZONE, TRUSTZONE_AUTH)


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        key = PrivateKey(await shell.grant("identity"))
        actor = LedgerActor(shell, key)
        await actor.load()
        actor.announce_ours()
        await shell.ready()
        nursery.start_soon(actor.receive)
        nursery.start_soon(actor.follow_members)
        nursery.start_soon(actor.speak)
        nursery.start_soon(actor.keep_alive)
        nursery.start_soon(actor.keep_announced)
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
        self._chance = random.Random()  # noqa: S311
        self.state = LedgerState(key, time.time(), mode=Mode(config.ownership), ttl=config.owner_ttl)
        longest = max(FIRST_INTERVAL, config.ledger_sync_interval)
        self._trickle = Trickle(FIRST_INTERVAL, longest, REDUNDANCY, self._chance, trio.current_time())
        self._rearmed = trio.Event()
        self._speak_now = False
        self.store = LedgerStore(shell, lambda: self.state.block)
        self.dhcp = LedgerDhcp(shell, self.state, self._addresses_changed) if config.dhcp else None
        self._heard: dict[str, bytes] = {}
        self._conflicts: set[str] = set()
        self._scrubbed = time.time()
        self._routes = shell.mailbox.state("routes")
        self._dns = shell.mailbox.state("dns")
        self._dns_bucket: object = None  # what the state "dns" was made of
        self._buckets = shell.mailbox.state("buckets")
        self._marked: Storage = {}
        self._shown = {bucket: shell.mailbox.state(bucket) for bucket in (USERS, SERVICES, FILES, EGRESS)}
        self._trust = shell.mailbox.state("trust") if config.peerguard else None
        shell.mailbox.on_request(LedgerRequest, self._entries)
        shell.mailbox.on_request(BlockRequest, self._block)
        shell.mailbox.on_request(Announce, self._announce)
        shell.mailbox.on_request(Withdraw, self._withdraw)
        shell.namespace |= {"ledger": self, "state": self.state}
        shell.gauges |= {
            "entries": lambda: sum(map(len, self.state.storage.values())),
            "index": lambda: self.state.index,
        }

    async def load(self) -> None:
        """Go on from what was kept."""
        ttl = None if self.state.mode is Mode.OFF else self.state.ttl
        kept = await self.store.load(time.time(), ttl, self._key.peer_id)
        if kept is not None:
            self.state.restore(kept)
            self._show()

    # --- ours

    def announce_ours(self) -> None:
        """Our machines and heartbeat, where they are missing or another's."""
        changed = False
        if self._config.vpn:
            for cidr in self._config.addresses if self.dhcp is None else self.dhcp.addresses:
                changed |= self._claim(cidr.partition("/")[0])
        if self._tells_alive() and self._key.peer_id not in self.state.entries(HEALTHCHECK):
            changed |= self._write(HEALTHCHECK, self._key.peer_id, write_heartbeat(time.time()))
        if changed:
            self._note_change()

    def _tells_alive(self) -> bool:
        """Whether to send heartbeats: always, but where they are not wanted only for entries that expire without."""
        me = self._key.peer_id
        return self._config.heartbeats or any(
            entry.owner == me and not entry.deleted
            for name, bucket in self.state.storage.items()
            if policy_of(name).expiry is Expiry.LIVENESS
            for entry in bucket.values()
        )

    def _claim(self, address: str) -> bool:
        """Announce that we have this address; while another live machine has it, say so once and leave it alone."""
        machine = Machine(
            peer_id=self._key.peer_id,
            hostname=platform.node(),
            os="linux",
            arch=_ARCHITECTURES.get(platform.machine(), platform.machine()),
            address=address,
            version=__version__,
        )
        try:
            written = self._write(MACHINES, address, write_value(machine))
        except WriteRefusedError:
            if self.dhcp is None and address not in self._conflicts:  # by DHCP it is given up, or the other one does
                self._conflicts.add(address)
                present = self.state.get(MACHINES, address)
                self._shell.log.error(
                    f"{address} belongs to another live machine: packets to it go there; choose another --address",
                    owner=present.owner if present else "",
                )
            return False
        self._conflicts.discard(address)
        return written

    def _addresses_changed(self) -> None:
        self.announce_ours()
        self._note_change()

    def _write(self, bucket: str, key: str, value: str) -> bool:
        return self.state.announce(bucket, key, value, time.time()) is not None

    async def keep_announced(self) -> None:
        while True:
            await trio.sleep(self._config.ledger_announce_interval)
            self.announce_ours()

    async def keep_alive(self) -> None:
        """The heartbeat, jittered as in Go, and the leader's clean-up."""
        while True:
            await trio.sleep(self._config.heartbeat_interval * (0.5 + self._chance.random()))
            if self._tells_alive() and self._write(HEALTHCHECK, self._key.peer_id, write_heartbeat(time.time())):
                self._note_change()
            now = time.time()
            if now - self._scrubbed >= self._config.scrub_interval:
                self._scrubbed = now
                peers = available_peers(self.state.storage, now, self._config.max_heartbeat_age)
                if leader_of(peers) == self._key.peer_id:
                    self._reap(now)

    def _reap(self, now: float) -> None:
        """As the leader: tombstones over what has expired. Without ownership the heartbeats start anew."""
        before = self.state.index
        if self.state.mode is Mode.OFF:
            self.state.drop_bucket(HEALTHCHECK, now)
        else:
            self.state.reap(now, 3 * self._config.max_heartbeat_age)
        if self.state.index != before:
            self._note_change()

    def _note_change(self) -> None:
        """Something of ours changed: tell at once, save soon, and show the routes."""
        self._speak_now = True
        self._rearmed.set()
        self._show()

    def _show(self) -> None:
        table = routing_table(self.state.storage, time.time(), self.state.ttl, self.state.mode)
        self._routes.replace({address: Route(route.peer_id, route.hostname) for address, route in table.items()})
        if self._trust is not None:
            self._trust.replace({f"{e.bucket}/{e.key}": e for b in _OF_TRUST for e in self._told(b) if not e.deleted})
        self.store.note_change()
        if self.dhcp is not None:
            self.dhcp.note_change()
        patterns = self.state.storage.get(DNS)
        if patterns is not self._dns_bucket:
            self._dns_bucket = patterns
            found = dns_entries(self.state.storage)
            self._dns.replace({key: DnsPattern(one.value, place) for place, (key, one) in enumerate(found.items())})
        self._mark_buckets()
        for bucket, state in self._shown.items():
            state.replace({key: _entry(bucket, key, one) for key, one in self.state.entries(bucket).items()})

    def _mark_buckets(self) -> None:
        """Which buckets changed: storages share those that did not."""
        storage, marks = self.state.storage, self._buckets.items
        for name, content in storage.items():
            if content is not self._marked.get(name):
                before = marks.get(name)
                change = before.change + 1 if isinstance(before, BucketMark) else 1
                self._buckets.put(name, BucketMark(sum(not entry.deleted for entry in content.values()), change))
        for name in [name for name in marks if name not in storage]:
            self._buckets.remove(name)
        self._marked = storage

    # --- hearing

    async def receive(self) -> None:
        sealer = self._shell.client("sealer")
        async with self._shell.client("gossip").watch("messages") as events:
            async for event in events:
                if not isinstance(event, Event) or not isinstance(event.body, GossipReceived):
                    continue
                try:
                    opened = await sealer.call(Open(event.body.data), Opened)
                    block = await trio.to_thread.run_sync(_read_untrusted, opened.plaintext)
                except RefusedError as exc:
                    self._shell.warn("messages_not_opened", peer=event.body.from_peer, reason=str(exc))
                except UntrustedDataError as exc:
                    self._shell.warn("blocks_refused", peer=event.body.from_peer, reason=str(exc))
                except ActorUnavailableError:
                    self._shell.count("messages_lost_without_sealer")
                else:
                    await self._merge(block, event.body.from_peer)

    async def _merge(self, block: Block, peer: str) -> None:
        merged = await self._judged(block)
        self._shell.count("blocks_merged")
        if merged.violations:
            self._shell.warn("entries_refused", peer=peer, violation=str(merged.violations[0]))
            self._shell.count("entries_refused", len(merged.violations) - 1)
        self._renew_buried(merged.violations)
        if self.dhcp is not None:
            self.dhcp.merged(merged.violations)
        now = trio.current_time()
        if merged.changed:
            self._shell.count("entries_changed", len(merged.changed))
            self._show()
            self.announce_ours()  # somebody's tombstone or older state may have hit them
            self._trickle.on_inconsistent(now)
        elif (merged.older or self.state.lacks(block)) and await self._is_news(peer, block):
            self._trickle.on_inconsistent(now)
        else:
            self._trickle.on_consistent()
        self._rearmed.set()

    async def _judged(self, block: Block) -> MergeResult:
        """Merge it. The work is done in a thread; what we write meanwhile wins, and the block is judged again."""
        while True:
            storage, now = self.state.storage, time.time()
            merged = await trio.to_thread.run_sync(self.state.judge, block, now)
            if self.state.storage is storage:
                self.state.take(merged, block, now)
                return merged

    def _renew_buried(self, violations: tuple[Violation, ...]) -> None:
        """Sign anew what a leader that had not heard our heartbeat put a tombstone on: else it stays buried there."""
        renewed = False
        for violation in violations:
            place = violation.place
            ours = self.state.get(place.bucket, place.key)
            if violation.entry.deleted and ours is not None and ours.owner == self._key.peer_id and not ours.deleted:
                self.state.announce(place.bucket, place.key, ours.value, time.time(), force=True)
                renewed = True
        if renewed:
            self._shell.count("entries_renewed")
            self._note_change()

    async def _is_news(self, peer: str, block: Block) -> bool:
        """Whether this peer's lack is new: who will not take an entry of ours is not told it again and again."""
        mark = await trio.to_thread.run_sync(_mark, block, self.state.index)
        if self._heard.get(peer) == mark:
            return False
        if len(self._heard) >= _MAX_REMEMBERED:
            self._heard.pop(next(iter(self._heard)))
        self._heard[peer] = mark
        return True

    async def follow_members(self) -> None:
        """Who joins the topic is told at once."""
        items: dict[str, Body] = {}
        async with self._shell.client("gossip").watch("members") as updates:
            async for update in updates:
                before = dict(items)
                apply(items, update)
                if any(before.get(peer) != member for peer, member in items.items()):
                    self._speak_now = True
                    self._trickle.on_inconsistent(trio.current_time())
                    self._rearmed.set()

    # --- speaking

    async def speak(self) -> None:
        while True:
            self._rearmed = trio.Event()
            if self._speak_now:
                self._speak_now = False
                await self._publish()
                continue
            now = trio.current_time()
            if self._trickle.expire(now):
                await self._publish()
                continue
            with trio.move_on_at(max(self._trickle.next_wakeup(), now + 0.001)):
                await self._rearmed.wait()

    async def _publish(self) -> None:
        """The whole block, sealed. What can't be said now is said at the next turn: the newest state, not this one."""
        plaintext = await trio.to_thread.run_sync(_write, self.state)
        try:
            sealed = await self._shell.client("sealer").call(Seal(plaintext), Sealed)
            await self._shell.client("gossip").call(Publish(sealed.data), Published)
        except (ActorUnavailableError, RefusedError):
            self._shell.count("publishes_failed")
            self._trickle.on_inconsistent(trio.current_time())
            await trio.sleep(0.05)
        else:
            self._shell.count("blocks_published")

    # --- requests

    async def _entries(self, request: LedgerRequest) -> Body:
        buckets = [bucket for bucket in sorted(self.state.storage) if request.bucket in ("", bucket)]
        return LedgerReply([entry for bucket in buckets for entry in self._told(bucket)])

    def _told(self, bucket: str) -> list[LedgerEntry]:
        return [_entry(bucket, key, entry) for key, entry in sorted(self.state.storage.get(bucket, {}).items())]

    async def _block(self, _: BlockRequest) -> Body:
        return BlockReply(await trio.to_thread.run_sync(_block_json, self.state))

    async def _announce(self, request: Announce) -> Body:
        if self._write(request.bucket, request.key, request.value):
            self._note_change()
            self.announce_ours()  # the first heartbeat, if there was none: the entry's lease hangs on it
            await self.store.settled()
        return Done()

    async def _withdraw(self, request: Withdraw) -> Body:
        if self.state.delete(request.bucket, request.key, time.time()) is None:
            raise RequestError("unknown", f"there is no {request.bucket}/{request.key} to delete")
        self._note_change()
        await self.store.settled()
        return Done()


def _entry(bucket: str, key: str, entry: Entry) -> LedgerEntry:
    return LedgerEntry(bucket, key, entry.value, entry.owner, entry.version, entry.updated_at, entry.deleted)


# What a peer's block can make long runs in a thread: meanwhile the actor answers.


def _read_untrusted(plaintext: bytes) -> Block:
    return read_block_untrusted(decompress_untrusted(plaintext))


def _mark(block: Block, index: int) -> bytes:
    """Stands for what a peer has beside what we have."""
    return hashlib.sha256(write_block(Block(storage=block.storage)) + index.to_bytes(8, "big", signed=True)).digest()


def _write(state: LedgerState) -> bytes:
    return compress(write_block(state.block))


def _block_json(state: LedgerState) -> bytes:
    return write_block(state.block)
