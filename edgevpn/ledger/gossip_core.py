"""When a node speaks of the ledger, to whom, and what it says: the rules, without clocks, streams or secrets.

Two kinds of peers are told apart. To those that speak our own protocol (proto/ledger_frames.py) there is a *link*:

- what is written here goes at once to all links, and only that; who hears it first passes it on at once to a few of
  those that it does not know to have it, and offers it to the others by name (Have) a moment later. Heartbeats renewed
  are not urgent: they are offered only.
- what got lost, or is old, is found by digests: 16 bytes that say everything. They are sent by Trickle (RFC 6206): ever
  more seldom while all links say the same. Whoever sees a difference looks for what it lacks itself, from one peer at a
  time: sums of parts, then of their parts, then items, then the entries (a *search*), and the other side does the same.
  What a search found is passed on like a write if it is little; much of it resets the timer. A difference alone does
  not reset it, since most are entries that are just under way.
  A difference that a search found nothing for (entries that our rules refuse) is remembered and counts as none.

The *others* (Go nodes) know whole blocks on the gossip topic. While there are any, what is written here is published
there too, as a block of only that, and the whole block by a Trickle of its own: soon when one of them lacks something,
not while two others were heard to say it. Under `--ownership off` blocks are all or nothing, there are no links, and
whole blocks are all there is.

The caller opens and decodes what comes, merges entries (it may take long), and carries out the actions returned.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from edgevpn.ledger.gossip_offers import Offers
from edgevpn.ledger.gossip_peer import LONGEST_SEARCH, MAX_REMEMBERED, PATIENCE, SETTLED, Link, Search
from edgevpn.ledger.inventory import Inventory, position_of
from edgevpn.ledger.merge import MergeResult, Place
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.ledger.trickle import Trickle
from edgevpn.proto.block import Block, Storage
from edgevpn.proto.entry import Entry, verify_entry
from edgevpn.proto.ledger_frames import (
    ASKED,
    ASKED_LAZILY,
    MAX_ITEMS,
    MAX_PREFIXES,
    MAX_TOLD,
    TOLD,
    TOLD_SIZE,
    Ask,
    Digest,
    Entries,
    Frame,
    Have,
    Summary,
    Told,
    Want,
    in_portions,
    is_ahead,
    pack_entries,
    pack_items,
    pack_positions,
    pack_sums,
    told_name,
    told_names,
    unpack_items,
    unpack_positions,
    unpack_sums,
)
from edgevpn.proto.values import HEALTHCHECK

SHORTEST: Final = 0.25  # s, of both Trickle timers
LONGEST_DIGEST: Final = 30.0  # s
REDUNDANCY: Final = 2  # who heard so many say the same in an interval keeps quiet
FANOUT: Final = 8  # links that something urgent is passed on to at once
# In a network of more than so many entries it is time that can be spared, and bytes that can't.
LARGE: Final = 400
FANOUT_IN_LARGE: Final = 4
PENDING: Final = 3.0  # s in which what was asked of one peer is not asked of another
TELLING: Final = 10.0  # s after which what a peer told has gone where it was to go
PASS_ON: Final = 64  # entries that a search found and that are passed on
LEAF: Final = 32  # items of a part that are listed instead of summed up
AS_OF: Final = 30  # s: times that digests speak of are whole multiples
FRESH: Final = 0.75  # of the owners' time to live: heartbeats that count
MAX_PENDING: Final = 8192
_WANTED_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Send:
    """A frame for one link."""

    peer: str
    frame: Frame


@dataclass(frozen=True, slots=True)
class Publish:
    """A block on the gossip topic: of some entries, or the whole one (None)."""

    entries: Mapping[Place, Entry] | None


Action: TypeAlias = Send | Publish


class GossipCore:
    """Of one node. `now` is seconds of a monotonic clock, `wall` unix seconds."""

    def __init__(
        self, state: LedgerState, peer_id: str, longest_block: float, chance: random.Random, now: float
    ) -> None:
        """`longest_block`: seconds between two whole blocks on the topic while nothing happens."""
        self.state: Final = state
        self.inventory: Final = Inventory(FRESH * state.ttl)
        self.inventory.fill(state.storage)
        state.on_change = self._changed
        self._me = told_name(peer_id)
        self._chance = chance
        self._links: dict[str, Link] = {}
        self._others: frozenset[str] = frozenset()
        self._digests = Trickle(SHORTEST, LONGEST_DIGEST, REDUNDANCY, chance, now)
        self._blocks = Trickle(SHORTEST, max(SHORTEST, longest_block), REDUNDANCY, chance, now)
        self._search: Search | None = None
        self._offers = Offers(chance)
        self._pending: OrderedDict[int, float] = OrderedDict()  # hints asked for, until when
        self._passed: OrderedDict[tuple[int, int], None] = OrderedDict()  # tombstones for their owners
        self._lacks: OrderedDict[str, bytes] = OrderedDict()  # of others, told already

    def _changed(self, places: Collection[Place] | None) -> None:
        if self.state.mode is Mode.OFF:
            return
        if places is None:
            self.inventory.fill(self.state.storage)
            return
        for place in places:
            self.inventory.put(place, self.state.get(place.bucket, place.key))

    # --- who is there

    @property
    def links(self) -> Collection[str]:
        return self._links.keys()

    @property
    def others(self) -> frozenset[str]:
        """Members without a link: for them there are whole blocks."""
        return self._others

    @property
    def publishes_blocks(self) -> bool:
        return bool(self._others)

    def link_up(self, peer: str, wall: float) -> list[Action]:
        """A peer of ours can be spoken to: it is told what we have."""
        if self.state.mode is Mode.OFF:
            return []
        self._links[peer] = Link(told_name(peer), min(SETTLED, self.state.ttl / 4))
        return [Send(peer, self._digest(wall, echo=True))]

    def link_down(self, peer: str, now: float) -> list[Action]:
        link = self._links.pop(peer, None)
        if link is not None and now - link.told_at < TELLING:
            self._digests.on_inconsistent(now)  # it may not have told all whom it said it would tell
        if self._search is not None and self._search.peer == peer:
            return self._end_search(now)
        return []

    def others_are(self, others: Iterable[str], now: float) -> None:
        """Members of the network that are not linked. A new one is told everything soon."""
        found = frozenset(others)
        if found - self._others:
            self._blocks.on_inconsistent(now)
        for peer in self._others - found:
            self._lacks.pop(peer, None)
        self._others = found

    def hurry(self, now: float) -> None:
        """A frame was lost, of ours or of a peer: compare soon."""
        self._digests.on_inconsistent(now)

    # --- ours

    def wrote(self, entries: Mapping[Place, Entry], *, urgent: bool = True) -> list[Action]:
        """We wrote these entries. `urgent`: not just heartbeats renewed."""
        if self.state.mode is Mode.OFF:
            return [Publish(None)]
        actions: list[Action] = []
        if self._others:
            actions.append(Publish(entries))
        told = b"".join([self._me, *(link.name for link in self._links.values())][:MAX_TOLD])
        for portion in in_portions(_told(entries)):
            frame = Entries(TOLD, True, urgent, bool(self._others), told, pack_entries(portion))
            actions += [Send(peer, frame) for peer in self._links]
        return actions

    # --- frames of links

    def on_frame(self, peer: str, frame: Frame, now: float, wall: float) -> list[Action]:
        """Any frame but Entries, which are merged first (`merged`)."""
        link = self._links.get(peer)
        if link is None:
            return []
        match frame:
            case Digest():
                return self._on_digest(peer, link, frame, now, wall)
            case Ask():
                return [Send(peer, self._summary(frame))]
            case Summary():
                return self._on_summary(peer, link, frame, now)
            case Want():
                return self._answer(peer, frame)
            case Have():
                return self._on_have(peer, link, frame, now)
        return []

    def _digest(self, wall: float, *, echo: bool) -> Digest:
        as_of = max(0, int(wall) // AS_OF * AS_OF)
        return Digest(self.inventory.root(as_of), as_of, max(0, int(wall * 1000)), echo)

    def _on_digest(self, peer: str, link: Link, digest: Digest, now: float, wall: float) -> list[Action]:
        link.root, link.as_of = digest.root, digest.as_of
        link.differs = not self._agrees(link, now)
        if not link.differs:
            self._digests.on_consistent()
            return []
        actions: list[Action] = [Send(peer, self._digest(wall, echo=False))] if digest.echo else []
        return actions + self._begin_search(now)

    def _agrees(self, link: Link, now: float) -> bool:
        ours = self.inventory.root(link.as_of)
        return link.root in (ours, b"") or (link.settled[:2] == (ours, link.root) and now < link.settled[2])

    def _begin_search(self, now: float) -> list[Action]:
        """With one of the links that differ, unless one is going on: the one that waits for longest."""
        if self._search is not None:
            return []
        for peer, link in sorted(self._links.items(), key=lambda item: item[1].searched):
            if link.differs and not self._agrees(link, now):
                link.searched = now
                self._search = Search(peer, link.as_of, now + PATIENCE, now + LONGEST_SEARCH)
                return [Send(peer, Ask(link.as_of, [""]))]
            link.differs = False
        return []

    def _end_search(self, now: float) -> list[Action]:
        search, self._search = self._search, None
        if search is None:
            return []
        link = self._links.get(search.peer)
        if link is not None:
            link.differs = False
        if search.learned or now >= search.deadline:
            self._digests.on_inconsistent(now)  # the other links may lack it as well; or: ask once more
        elif link is not None and not search.asked and not search.wanted:
            link.settled = (self.inventory.root(link.as_of), link.root, now + link.memory)
        return self._begin_search(now)

    def _summary(self, ask: Ask) -> Summary:
        nodes: list[tuple[str, bytes]] = []
        leaves: list[tuple[str, bytes]] = []
        room = MAX_ITEMS
        for prefix in ask.prefixes:
            items = self.inventory.part(prefix, ask.as_of)
            if len(items) > LEAF and len(prefix) < 16:
                nodes.append((prefix, pack_sums(self.inventory.sums(prefix, ask.as_of))))
            elif len(items) <= room:
                room -= len(items)
                leaves.append((prefix, pack_items((i.position, i.version, i.check) for i in items)))
        return Summary(ask.as_of, nodes, leaves)

    def _on_summary(self, peer: str, link: Link, summary: Summary, now: float) -> list[Action]:
        search = self._search
        if search is None or search.peer != peer or search.as_of != summary.as_of:
            return []
        search.goes_on(now)
        search.asked = max(0, search.asked - len(summary.nodes) - len(summary.leaves))
        ask: list[str] = []
        for prefix, data in summary.nodes:
            ours = self.inventory.sums(prefix, summary.as_of)
            for digit, (mine, theirs) in enumerate(zip(ours, unpack_sums(data), strict=True)):
                if theirs not in (0, mine):
                    ask.append(f"{prefix}{digit:x}")
        want: list[int] = []
        newer: dict[Place, Entry] = {}
        for prefix, data in summary.leaves:
            ours_by_position = {item.position: item for item in self.inventory.part(prefix, summary.as_of)}
            for position, version, check in unpack_items(data):
                item = ours_by_position.get(position)
                if item is not None and (item.version, item.check) == (version, check):
                    continue
                place = self.inventory.place_at(position)
                entry = self.state.get(place.bucket, place.key) if place is not None else None
                if place is None or entry is None or entry.version < version:
                    lacking = True
                elif place.bucket == HEALTHCHECK:
                    lacking = False  # ours is newer, and heartbeats go their own way
                else:
                    lacking = entry.version == version and not entry.deleted
                    if not lacking:
                        newer[place] = entry
                if lacking and not link.refuses(position, version, now):
                    want.append(position)
        actions: list[Action] = []
        for start in range(0, len(ask), MAX_PREFIXES):
            prefixes = ask[start : start + MAX_PREFIXES]
            search.asked += len(prefixes)
            actions.append(Send(peer, Ask(summary.as_of, prefixes)))
        for start in range(0, len(want), _WANTED_AT_ONCE):
            search.wanted += 1
            actions.append(Send(peer, Want(pack_positions(want[start : start + _WANTED_AT_ONCE]), False)))
        if newer:
            actions += self._tell(peer, newer)
        if not search.asked and not search.wanted:
            actions += self._end_search(now)
        return actions

    def _tell(self, peer: str, entries: Mapping[Place, Entry]) -> list[Action]:
        """What a peer showed to have an older one of. It need not pass it on: others see it by the digest."""
        return [
            Send(peer, Entries(ASKED, False, False, True, b"", pack_entries(portion)))
            for portion in in_portions(_told(entries))
        ]

    def _answer(self, peer: str, want: Want) -> list[Action]:
        entries: dict[Place, Entry] = {}
        positions: Iterable[int | None] = unpack_positions(want.positions)
        if want.lazy:
            positions = map(self.inventory.position_near, unpack_positions(want.positions))
        for place in self.inventory.places_at(filter(None, positions)):
            entry = self.state.get(place.bucket, place.key)
            if entry is not None:
                entries[place] = entry
        why = ASKED_LAZILY if want.lazy else ASKED
        portions = list(in_portions(_told(entries)))
        return [
            Send(peer, Entries(why, number == len(portions), False, True, b"", pack_entries(portion)))
            for number, portion in enumerate(portions, 1)
        ]

    def _on_have(self, peer: str, link: Link, have: Have, now: float) -> list[Action]:
        want: list[int] = []
        for hint in unpack_positions(have.hints):
            position = self.inventory.position_near(hint)
            place = None if position is None else self.inventory.place_at(position)
            entry = None if place is None else self.state.get(place.bucket, place.key)
            if entry is not None and place is not None and not is_ahead(hint, entry.version):
                self._offers.heard(peer, hint, place, entry.version)
                continue
            if self._pending.get(hint, 0.0) > now or link.refuses_hint(hint, now):
                continue
            self._pending[hint] = now + PENDING
            if len(self._pending) > MAX_PENDING:
                self._pending.popitem(last=False)
            want.append(hint)
        return [Send(peer, Want(pack_positions(want), True))] if want else []

    def merged(self, peer: str, frame: Entries, block: Block, result: MergeResult, now: float) -> list[Action]:
        """A frame's entries were merged, as a block, into the state."""
        link = self._links.get(peer)
        if link is not None:
            if frame.why == TOLD:
                link.told_at = now
            for violation in result.violations:
                link.refused_now(position_of(violation.place), violation.entry.version, now)
        actions: list[Action] = self._to_owners(peer, frame, result)
        if self._others and result.changed and not frame.published:
            self._blocks.on_inconsistent(now)
        # What a search found is passed on if it is little beside what we had: then the others lack it too, not we.
        few = 0 < len(result.changed) <= min(PASS_ON, len(self.inventory) // 4)
        if frame.why == ASKED:
            search = self._search
            if search is not None and search.peer == peer:
                search.goes_on(now)
                if few:
                    actions += self._pass_on(peer, frame, result.changed, now, urgent=True)
                else:
                    search.learned += len(result.changed)
                search.wanted = max(0, search.wanted - frame.last)
                if not search.asked and not search.wanted:
                    actions += self._end_search(now)
            elif few:
                actions += self._pass_on(peer, frame, result.changed, now, urgent=True)
            elif result.changed:
                self._digests.on_inconsistent(now)
        else:
            actions += self._pass_on(peer, frame, result.changed, now, urgent=frame.urgent)
        newer = self._newer_than(block.storage)
        return actions + (self._tell(peer, newer) if newer and link is not None else [])

    def _to_owners(self, peer: str, frame: Entries, result: MergeResult) -> list[Action]:
        """Tombstones that we refused because the owner lives: the owner must hear of them, to sign anew."""
        buried: dict[Place, Entry] = {}
        for violation in result.violations:
            place, entry = violation.place, violation.entry
            ours = self.state.get(place.bucket, place.key)
            if not entry.deleted or ours is None or ours.deleted or ours.version > entry.version:
                continue
            mark = position_of(place), entry.version
            if mark not in self._passed and verify_entry(place.bucket, place.key, entry):
                self._passed[mark] = None
                if len(self._passed) > MAX_REMEMBERED:
                    self._passed.popitem(last=False)
                buried[place] = entry
        names = told_names(frame.told)
        ways = [other for other, link in self._links.items() if other != peer and link.name not in names]
        if not buried or not ways:
            return []
        told = b"".join(dict.fromkeys([self._me, *(self._links[other].name for other in ways), *sorted(names)]))
        passed = Entries(TOLD, True, True, True, told[: MAX_TOLD * TOLD_SIZE], pack_entries(_told(buried)))
        return [Send(other, passed) for other in ways]

    def _newer_than(self, storage: Storage) -> dict[Place, Entry]:
        """What we have a newer version of than a block that came."""
        newer = {}
        for bucket, entries in storage.items():
            for key, entry in entries.items():
                ours = self.state.get(bucket, key)
                if ours is not None and ours.version > entry.version:
                    newer[Place(bucket, key)] = ours
        return newer

    def _pass_on(
        self, peer: str, frame: Entries, changed: Mapping[Place, Entry], now: float, *, urgent: bool
    ) -> list[Action]:
        if not changed:
            return []
        names = told_names(frame.told)
        has = {peer} | {other for other, link in self._links.items() if link.name in names}
        actions: list[Action] = []
        if urgent:
            ways = [other for other in self._links if other not in has]
            fanout = FANOUT_IN_LARGE if self._is_large() else FANOUT
            if len(ways) > fanout:
                ways = self._chance.sample(ways, fanout)
            has.update(ways)
            fresh = [self._me, *(self._links[other].name for other in has if other in self._links)]
            told = b"".join(dict.fromkeys([*fresh, *sorted(names)][:MAX_TOLD]))
            if ways:
                for portion in in_portions(_told(changed)):
                    passed = Entries(TOLD, True, True, frame.published, told, pack_entries(portion))
                    actions += [Send(other, passed) for other in ways]
        if len(has & self._links.keys()) < len(self._links):
            self._offers.add(changed, has, now, large=self._is_large())
        return actions

    def _is_large(self) -> bool:
        return len(self.inventory) > LARGE

    # --- blocks of the topic

    def merged_block(self, peer: str, lack: bytes | None, result: MergeResult, now: float) -> None:
        """A block of `peer` on the topic was merged into the state.

        `lack`: what `lack_of` (block_lack.py) said of it; None for a block of some entries. All members are on the
        topic and heard it too; a link that did not learns of it by the digest.
        """
        if any(place.bucket != HEALTHCHECK for place in result.changed):
            self._digests.on_inconsistent(now)
        if lack is None:
            return
        if lack and self._lacks.get(peer) != lack:
            self._lacks[peer] = lack  # who will not take an entry of ours is not told it again and again
            if len(self._lacks) > MAX_REMEMBERED:
                self._lacks.popitem(last=False)
            self._blocks.on_inconsistent(now)
        elif not lack:
            self._blocks.on_consistent()

    # --- time

    def next_wakeup(self) -> float:
        """When `expire` is to be called, at the latest."""
        moments = [self._blocks.next_wakeup()]
        if self._links:
            moments.append(self._digests.next_wakeup())
        if self._offers.due is not None:
            moments.append(self._offers.due)
        if self._search is not None:
            moments.append(self._search.deadline)
        return min(moments)

    def expire(self, now: float, wall: float) -> list[Action]:
        """Let time pass."""
        actions: list[Action] = []
        if self._search is not None and now >= self._search.deadline:
            actions += self._end_search(now)
        if self._offers.due is not None and now >= self._offers.due:
            told = self._offers.take(self.state, self._links)
            actions += [Send(peer, have) for peer, offered in told.items() for have in offered]
        if self._digests.expire(now) and self._links:
            digest = self._digest(wall, echo=True)
            actions += [Send(peer, digest) for peer in self._links]
        if self._blocks.expire(now) and self.publishes_blocks:
            actions.append(Publish(None))
        return actions


def _told(entries: Mapping[Place, Entry]) -> Iterable[Told]:
    return ((place.bucket, place.key, entry) for place, entry in entries.items())
