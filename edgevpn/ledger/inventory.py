"""What a ledger holds, as numbers: to see with a few bytes whether two ledgers are the same, and where they differ.

Every place (bucket and key) has a position, 64 bits of a hash, and every entry a mark, 128 bits of a hash over all that
is signed and the signature. The root is the sum of all marks modulo 2^128: it changes in one step with each entry. A
part of the ledger is named by a prefix of its positions in hexadecimal digits; 16 sums of the next digit tell where to
look on. (Range-based set reconciliation; A. Meyer, 2023, is the general form.)

Two things are told apart from plain entries:

- tombstones do not count: a node that never had a key refuses its tombstone (merge.py), so they differ rightly. Whoever
  shows an entry that we have a tombstone for is given the tombstone.
- heartbeats change all the time and say the same: a heartbeat counts, with a mark of its place alone, while it is
  younger than `fresh` seconds at a time that the asker names (`as_of`); older ones do not count.

So two ledgers have the same root as_of a time if the same nodes are there and all else is equal.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from edgevpn.ledger.merge import Place
from edgevpn.proto.block import Storage
from edgevpn.proto.entry import Entry, canonical_bytes
from edgevpn.proto.ledger_frames import HINT_TIME
from edgevpn.proto.values import HEALTHCHECK

ROOT_SIZE: Final = 16
DIGITS: Final = 16  # of a position
_ROOT: Final = 1 << 128
_SUM: Final = 1 << 64
_CHECK: Final = 1 << 32


class Item(NamedTuple):
    """One entry that counts: position (u64), version (u64; a heartbeat's is its own), mark (128 bits)."""

    position: int
    version: int
    mark: int

    @property
    def check(self) -> int:
        """32 bits of the mark, to tell apart entries of one version."""
        return self.mark % _CHECK


@lru_cache(maxsize=65_536)
def position_of(place: Place) -> int:
    """The place's position: the first 64 bits of SHA-256 over bucket, a zero byte and key (UTF-8)."""
    data = place.bucket.encode() + b"\0" + place.key.encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def mark_of(place: Place, entry: Entry) -> int:
    """The entry's mark: the first 128 bits of SHA-256 over what is signed (entry.py) and the signature.

    An entry that is written as a bare text loses its time on the way, so there it does not count.
    """
    updated_at = 0 if entry.is_bare else entry.updated_at
    plain = entry if updated_at == entry.updated_at else Entry(entry.value)
    data = canonical_bytes(place.bucket, place.key, plain) + (entry.sig or b"")
    return int.from_bytes(hashlib.sha256(data).digest()[:16], "big")


@lru_cache(maxsize=65_536)
def _beat_mark(position: int) -> int:
    return int.from_bytes(hashlib.sha256(b"heartbeat" + position.to_bytes(8, "big")).digest()[:16], "big")


class Inventory:
    """The numbers of one ledger, kept up with it by `put`. `fresh`: seconds, see above."""

    def __init__(self, fresh: float) -> None:
        self._fresh = fresh
        self._places: dict[int, Place] = {}
        self._short: dict[int, int] = {}  # positions by their upper bits, for hints
        self._items: dict[int, Item] = {}
        self._sum = 0
        self._beats: dict[int, tuple[int, int]] = {}  # updated_at and version by position
        self._beat_sums: dict[int, int] = {}  # by as_of, the last two
        self._sorted: tuple[int, list[Item], list[int]] | None = None

    def fill(self, storage: Storage) -> None:
        """Begin anew with what `storage` holds."""
        self._places.clear()
        self._short.clear()
        self._items.clear()
        self._beats.clear()
        self._beat_sums.clear()
        self._sum, self._sorted = 0, None
        for bucket, entries in storage.items():
            for key, entry in entries.items():
                self.put(Place(bucket, key), entry)

    def put(self, place: Place, entry: Entry | None) -> None:
        """What is at `place` now; None: nothing any more."""
        position = position_of(place)
        if entry is None:
            self._places.pop(position, None)
            self._short.pop(position >> HINT_TIME, None)
        else:
            self._places[position] = place
            self._short[position >> HINT_TIME] = position
        if place.bucket == HEALTHCHECK:
            self._put_beat(position, entry)
            return
        before = self._items.pop(position, None)
        if before is not None:
            self._sum = (self._sum - before.mark) % _ROOT
        if entry is not None and not entry.deleted:
            item = self._items[position] = Item(position, entry.version, mark_of(place, entry))
            self._sum = (self._sum + item.mark) % _ROOT
        self._sorted = None

    def __len__(self) -> int:
        """Entries that count, and heartbeats of any age."""
        return len(self._items) + len(self._beats)

    def _put_beat(self, position: int, entry: Entry | None) -> None:
        before = self._beats.pop(position, None)
        after = None if entry is None or entry.deleted else (entry.updated_at, entry.version)
        if after is not None:
            self._beats[position] = after
        for as_of in self._beat_sums:
            change = self._counts(after, as_of) - self._counts(before, as_of)
            self._beat_sums[as_of] = (self._beat_sums[as_of] + change * _beat_mark(position)) % _ROOT
        self._sorted = None

    def _counts(self, beat: tuple[int, int] | None, as_of: int) -> bool:
        return beat is not None and beat[0] > as_of - self._fresh

    def root(self, as_of: int) -> bytes:
        """The sum of all that counts at `as_of` (unix seconds), big-endian."""
        beats = self._beat_sums.get(as_of)
        if beats is None:
            if len(self._beat_sums) >= 2:
                del self._beat_sums[next(iter(self._beat_sums))]
            beats = sum(_beat_mark(position) for position, beat in self._beats.items() if self._counts(beat, as_of))
            self._beat_sums[as_of] = beats % _ROOT
        return ((self._sum + beats) % _ROOT).to_bytes(ROOT_SIZE, "big")

    def place_at(self, position: int) -> Place | None:
        """What is at a position, tombstones too."""
        return self._places.get(position)

    def position_near(self, hint: int) -> int | None:
        """The position that a hint (ledger_frames.py) means, if we have anything there."""
        return self._short.get(hint >> HINT_TIME)

    def places_at(self, positions: Iterable[int]) -> list[Place]:
        return [self._places[position] for position in positions if position in self._places]

    def _in_order(self, as_of: int) -> tuple[list[Item], list[int]]:
        """What counts, by position, and the sums of the marks before each."""
        if self._sorted is None or self._sorted[0] != as_of:
            items = list(self._items.values())
            items += [
                Item(position, beat[1], _beat_mark(position))
                for position, beat in self._beats.items()
                if self._counts(beat, as_of)
            ]
            items.sort()
            self._sorted = as_of, items, [0, *accumulate(item.mark for item in items)]
        return self._sorted[1], self._sorted[2]

    def part(self, prefix: str, as_of: int) -> list[Item]:
        """What counts and whose position begins with `prefix` (hexadecimal digits, at most 16)."""
        items, _ = self._in_order(as_of)
        first, last = _range(prefix)
        return items[bisect_left(items, (first,)) : bisect_left(items, (last,))]

    def sums(self, prefix: str, as_of: int) -> list[int]:
        """The 16 sums, modulo 2^64, of the parts with one digit more than `prefix` (at most 15). 0: nothing there."""
        items, before = self._in_order(as_of)
        first, last = _range(prefix)
        step = (last - first) // 16
        edges = [bisect_left(items, (first + n * step,)) for n in range(17)]
        return [(before[end] - before[start]) % _SUM for start, end in pairwise(edges)]


def _range(prefix: str) -> tuple[int, int]:
    width = 4 * (DIGITS - len(prefix))
    start = int(prefix or "0", 16) << width
    return start, start + (1 << width)
