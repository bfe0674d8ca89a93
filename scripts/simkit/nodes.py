"""Simulated nodes: ours, made of the cores that the ledger actor runs, and nodes that follow the Go program's rule.

Ours: GossipCore, OwnEntries and LedgerState (edgevpn/ledger), with frames encoded and read as on the wire. Sealing is
left out, its bytes are counted. A signature is checked once in the whole process and remembered.

Go's rule: every node publishes its whole ledger every 10 s and right after each write of its own (the tickers begin
with shorter pauses, that double), flooded to all neighbours; each passes what is new to it on to the at most 6 peers of
its mesh. Its blocks are written, compressed and measured as on the wire; merging is Go's `enforce`, as here.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from edgevpn.ledger import merge as rules
from edgevpn.ledger.gossip_core import Action, GossipCore, Send
from edgevpn.ledger.merge import MergeResult, Place, with_entries
from edgevpn.ledger.own_entries import OwnEntries, Written
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto import entry as entries_module
from edgevpn.proto.block import Block, write_block
from edgevpn.proto.entry import Entry
from edgevpn.proto.gossip_message import compress
from edgevpn.proto.ledger_frames import Entries, Told, entries_untrusted, read_frame_untrusted, write_frame
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.values import HEALTHCHECK, MACHINES, Machine, write_value
from scripts.simkit.world import START, World

SEALED = 4 + 12 + 16  # length, nonce and tag of a frame
PUBSUB = 200  # bytes of a signed gossipsub message around its data
ENVELOPE = len(b'{"Message":"","SenderID":"","Annotations":null}')

_verify = lru_cache(maxsize=200_000)(entries_module.verify_entry)


def remember_signatures() -> None:
    """Check each signature once in this process: a thousand nodes check the same ones."""
    rules.verify_entry = _verify  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node is started with. Seconds."""

    ttl: float = 480.0
    heartbeat: float = 120.0
    scrub: float = 600.0
    max_age: float = 900.0
    announce: float = 10.0
    sync: float = 10.0


# Told of every entry that a node took or wrote: node, place, before, after.
Watch = Callable[["Node", Place, Entry | None, Entry | None], None]


@lru_cache(maxsize=2048)
def key_of(number: int) -> PrivateKey:
    """The same peer for the same number, in every run."""
    return PrivateKey(number.to_bytes(32, "big"))


@lru_cache(maxsize=8192)
def _entries(data: bytes) -> tuple[Told, ...]:
    return tuple(entries_untrusted(data))


class Node:
    """What both kinds have: a state, entries of their own, and a wake-up on the world's clock."""

    def __init__(self, world: World, number: int, settings: Settings, skew: float, watch: Watch | None) -> None:
        self.world = world
        self.number = number
        self.key = key_of(number)
        self.peer_id = self.key.peer_id
        self.skew = skew
        self.up = True
        self.born = world.now
        self.chance = random.Random(world.chance.random())
        self.state = LedgerState(self.key, self.wall, ttl=settings.ttl)
        self.own = OwnEntries(
            self.state,
            self.chance,
            world.now,
            self.wall,
            announce_interval=settings.announce,
            heartbeat_interval=settings.heartbeat,
            scrub_interval=settings.scrub,
            max_heartbeat_age=settings.max_age,
        )
        self._watch = watch
        self._held: dict[Place, Entry] = {}
        self._wake_at = float("inf")

    @property
    def wall(self) -> float:
        return START + self.world.now + self.skew

    def claim(self, address: str) -> None:
        """Announce a machine with this address from now on."""
        value = write_value(Machine(self.peer_id, f"host-{self.number}", "linux", "amd64", address, "0.1.0"))
        self.own.announcements[Place(MACHINES, address)] = value

    def look(self, places: object) -> None:
        """Tell the watch what changed."""
        if self._watch is None:
            return
        if places is None:
            places = [Place(bucket, key) for bucket, content in self.state.storage.items() for key in content]
        for place in places:  # type: ignore[attr-defined]
            before, after = self._held.get(place), self.state.get(place.bucket, place.key)
            if before is not after:
                self._watch(self, place, before, after)
                if after is None:
                    self._held.pop(place, None)
                else:
                    self._held[place] = after

    def start(self) -> None:
        self.wrote(self.own.announce(self.wall))
        self.rearm()

    def write(self, bucket: str, key: str, value: str) -> Entry | None:
        """As a request to the node would; None where it is refused or changes nothing."""
        try:
            entry = self.state.announce(bucket, key, value, self.wall)
        except WriteRefusedError:
            return None
        if entry is not None:
            self.wrote(Written({Place(bucket, key): entry}, urgent=True))
            self.rearm()
        return entry

    def withdraw(self, bucket: str, key: str) -> Entry | None:
        try:
            entry = self.state.delete(bucket, key, self.wall)
        except WriteRefusedError:
            return None
        if entry is not None:
            self.wrote(Written({Place(bucket, key): entry}, urgent=True))
            self.rearm()
        return entry

    def stop(self) -> None:
        self.up = False

    def rearm(self) -> None:
        wake = max(self.next_wakeup(), self.world.now)
        if wake < self._wake_at:
            self._wake_at = wake
            self.world.at(wake, lambda: self._wake(wake))

    def _wake(self, wake: float) -> None:
        if wake != self._wake_at or not self.up:
            return
        self._wake_at = float("inf")
        self.expire()
        self.rearm()

    def after_merge(self, merged: MergeResult) -> None:
        """As the actor does."""
        self.wrote(self.own.renew_buried(merged.violations, self.wall))
        if any(place.bucket != HEALTHCHECK for place in merged.changed):
            self.wrote(self.own.announce(self.wall))

    def next_wakeup(self) -> float:
        raise NotImplementedError

    def expire(self) -> None:
        raise NotImplementedError

    def wrote(self, written: Written) -> None:
        raise NotImplementedError

    def link_up(self, other: int) -> None:
        raise NotImplementedError

    def link_down(self, other: int) -> None:
        raise NotImplementedError

    def receive(self, other: int, payload: object) -> None:
        raise NotImplementedError


class OurNode(Node):
    """The cores of the ledger actor."""

    def __init__(
        self, world: World, number: int, settings: Settings, skew: float = 0.0, watch: Watch | None = None
    ) -> None:
        super().__init__(world, number, settings, skew, watch)
        self.core = GossipCore(self.state, self.peer_id, settings.sync, self.chance, world.now)
        keep_up = self.state.on_change

        def changed(places: object) -> None:
            keep_up(places)  # type: ignore[arg-type]
            self.look(places)

        self.state.on_change = changed

    def next_wakeup(self) -> float:
        return min(self.core.next_wakeup(), self.own.next_wakeup())

    def expire(self) -> None:
        self.wrote(self.own.expire(self.world.now, self.wall))
        self._do(self.core.expire(self.world.now, self.wall))

    def wrote(self, written: Written) -> None:
        if written.entries:
            self._do(self.core.wrote(written.entries, urgent=written.urgent))

    def link_up(self, other: int) -> None:
        self._do(self.core.link_up(key_of(other).peer_id, self.wall))
        self.rearm()

    def link_down(self, other: int) -> None:
        self._do(self.core.link_down(key_of(other).peer_id, self.world.now))
        self.rearm()

    def receive(self, other: int, payload: object) -> None:
        peer = key_of(other).peer_id
        assert isinstance(payload, bytes)  # noqa: S101 - what _do sends
        frame = read_frame_untrusted(payload)
        if isinstance(frame, Entries):
            told = {Place(bucket, key): entry for bucket, key, entry in _entries(frame.entries)}
            block = Block(storage=with_entries({}, told))
            merged = self.state.merge(block, self.wall)
            self.after_merge(merged)
            self._do(self.core.merged(peer, frame, block, merged, self.world.now))
        else:
            self._do(self.core.on_frame(peer, frame, self.world.now, self.wall))
        self.rearm()

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                body = write_frame(action.frame)
                self.world.send(self.number, number_of(action.peer), len(body) + SEALED, body)


_NUMBERS: dict[str, int] = {}


def number_of(peer_id: str) -> int:
    return _NUMBERS[peer_id]


def introduce(number: int) -> None:
    """Make a node's number known by its peer ID."""
    _NUMBERS[key_of(number).peer_id] = number


class GoNode(Node):
    """The Go program's rule."""

    MESH = 6
    SEEN = 4096

    def __init__(
        self, world: World, number: int, settings: Settings, skew: float = 0.0, watch: Watch | None = None
    ) -> None:
        super().__init__(world, number, settings, skew, watch)
        self._sync = settings.sync
        self._pause = 0.5
        self._publish_at = world.now + self.chance.uniform(0.0, self._pause)
        self._mesh: list[int] = []
        self._seen: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._sequence = 0
        self._size: tuple[Mapping[str, object], int] | None = None
        self.state.on_change = self.look

    def next_wakeup(self) -> float:
        return min(self._publish_at, self.own.next_wakeup())

    def expire(self) -> None:
        self.wrote(self.own.expire(self.world.now, self.wall))
        if self.world.now >= self._publish_at:
            self._publish_at = self.world.now + self._pause
            self._pause = min(self._pause * 1.5, self._sync)
            self._publish()

    def wrote(self, written: Written) -> None:
        if written.entries:
            self._publish()

    def _publish(self) -> None:
        storage = self.state.storage
        if self._size is None or self._size[0] is not storage:
            sealed = len(compress(write_block(self.state.block))) + 28
            self._size = storage, 2 * sealed + ENVELOPE + PUBSUB
        self._sequence += 1
        self._remember((self.number, self._sequence))
        payload = self.number, self._sequence, self._size[1], storage
        for other in self.world.neighbours(self.number):
            self.world.send(self.number, other, self._size[1], payload)

    def _remember(self, message: tuple[int, int]) -> bool:
        if message in self._seen:
            return False
        self._seen[message] = None
        if len(self._seen) > self.SEEN:
            self._seen.popitem(last=False)
        return True

    def link_up(self, other: int) -> None:
        if len(self._mesh) < self.MESH:
            self._mesh.append(other)

    def link_down(self, other: int) -> None:
        if other in self._mesh:
            self._mesh.remove(other)

    def receive(self, other: int, payload: object) -> None:
        author, sequence, size, storage = payload  # type: ignore[misc]
        if not self._remember((author, sequence)):
            return
        merged = self.state.merge(Block(storage=storage), self.wall)
        self.after_merge(merged)
        for peer in self._mesh:
            if peer not in (other, author):
                self.world.send(self.number, peer, size, payload)
        self.rearm()
