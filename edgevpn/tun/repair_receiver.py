"""The receiving side of repair: which datagrams are missing, what parity brings back, what to ask for. Pure.

Everything that comes is delivered at once and in whatever order; here only numbers are kept, and, while the way loses
datagrams, what was received lately. A hole is closed by what comes late, by parity, or by a copy that was asked for:

    seen        a later train came, or a part of its own. For GUARD it may just be late
    confirmed   lost. With parity running it waits for that as long as a group may take, or until one could not help
    asked for   again each 1.15 measured round trips, TRIES times at most
    given up    after that, or GIVE_UP after it was seen; or at once when a full queue made it

A hole that is asked for while no parity is under way is asked for twice, GUARD apart: the ask may be lost, and the
copy, and TCP inside does not get over a second round trip. What comes after a hole is kept for a while, since the
sender's first parity reaches back to it.

Which losses a queue made, edgevpn/tun/queue_losses.py judges by the sender's stamps. They begin when something is asked
for; until then nobody can tell, so no more than BLIND datagrams are asked for before the first stamp.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edgevpn.proto.datagram import HEAD, INDEX_BITS, OVERHEAD
from edgevpn.proto.datagram_repair import WHOLE, Parity, Range, Report, Stamp, longest_wait, write_asks, write_report
from edgevpn.tun.erasure import bring_back, data_of, symbol
from edgevpn.tun.queue_losses import QueueLosses

GUARD: Final = 0.002
HOLD: Final = 0.006
HOLD_MORE: Final = 0.003  # than the longest wait of a group
TRIES: Final = 4
GIVE_UP: Final = 1.0
AGAIN: Final = 1.15  # round trips between asks
BLIND: Final = 8  # datagrams
REPORT_EACH: Final = 0.05
TICK: Final = 0.002
_MAX_HOLES = 2048
_MAX_GAP = 1024  # trains
_KEPT_BYTES, _KEPT_FOR = 4 << 20, 0.1
_EXPIRE_EACH = 0.01
_HALVES = 32
_MOST_EXCESS = 0.5  # seconds; more is no queue
_BLIND_AFTER = 1.0  # seconds without a stamp
_BLIND_AGAIN = 0.3
_MAX_CODED = 64
_ALONE = 0.1
_PARITY_GONE = 1.0  # seconds without parity after which nothing is kept


class _Hole:
    """What of a train has not come; `mask` -1: all of it, and how much that is is not known.

    Of a train that is just coming only what is below `top` is missing, until nothing more came for GUARD.
    """

    __slots__ = (
        "again", "asked_at", "confirmed", "counted", "covered", "grown", "mask", "noticed", "top", "tries", "was_full",
        "whole",
    )  # fmt: skip

    def __init__(self, mask: int, now: float, top: int, whole: int = 0) -> None:
        self.mask = mask
        self.whole = whole  # how many the train has; 0: not known
        self.top = top
        self.grown = now  # when something of it came last
        self.noticed = now if top < 0 or mask & (1 << top) - 1 else -1.0
        self.confirmed = False
        self.counted = 0  # as so many lost ones
        self.was_full = False  # the queue, at some time since it was missed
        self.covered = False  # a parity came that did not help
        self.asked_at = 0.0
        self.tries = 0
        self.again = False  # it is to be asked for once more, soon


class _Coded:
    """What came of the rows of one group: by offset, by row."""

    __slots__ = ("pieces", "rows", "size")

    def __init__(self, size: int, rows: int) -> None:
        self.size, self.rows = size, rows
        self.pieces: dict[int, dict[int, bytes]] = {}

    def add(self, parity: Parity) -> None:
        if parity.size == self.size and (len(self.pieces) < 2 or parity.offset in self.pieces):
            self.pieces.setdefault(parity.offset, {})[parity.row] = parity.data

    def parts(self, wanted: int) -> list[tuple[int, int, dict[int, bytes]]] | None:
        """Offset, length and rows of all parts, when each has as many rows as are wanted."""
        at = 0
        parts = []
        for offset in sorted(self.pieces):
            rows = self.pieces[offset]
            length = len(next(iter(rows.values())))
            if offset != at or len(rows) < wanted or any(len(one) != length for one in rows.values()):
                return None
            parts.append((offset, length, rows))
            at += length
        return parts if at == self.size else None


class RepairReceiver:
    """For one session. `counters`: what became of what was lost."""

    def __init__(self, head: bytes, room: int, rtt: float) -> None:
        """`head`: the session's number, 4 bytes; `room`: of a control message; `rtt`: the least that was seen."""
        self._head = head
        self.room = room
        self.rtt = self._least_rtt = rtt
        self.asked_at = 0.0  # when anything was asked for last
        self.next = 1  # the newest train that is known of, and one
        self.holes: dict[int, _Hole] = {}
        self.queue = QueueLosses()
        self.counters = {"repaired_by_parity": 0, "repaired_by_copy": 0, "left_to_the_queue": 0, "given_up": 0}
        self.received = self.lost = self.runs = 0
        self.took = [0] * 9  # holes filled in less than 1, 2, 4... ms after they were seen; the last: in more
        self._kept: dict[int, list[tuple[int, int, bytes]]] = {}
        self._order: deque[tuple[int, int, float]] = deque()
        self._kept_bytes = 0
        self._expire_at = 0.0
        self._halves: dict[tuple[Range, ...], Parity] = {}
        self._coded: dict[tuple[Range, ...], _Coded] = {}
        self._blind = 0  # datagrams asked for without a word on the queue
        self._unjudged = 0  # of those, back by now
        self._run_to = -1  # the train at whose end datagrams were lost
        self._hold = HOLD
        self._told = 0  # of what was received, to `queue`
        self._length = 1  # datagrams of the train that came last
        self._whole = 1  # datagrams of the last train that was not whole, or came after a gap
        self._parity_at = 0.0
        self._hole_at = 0.0
        self.on_hole: Callable[[float], None] = lambda _: None  # called when there is another hole
        self._stamp: tuple[int, float] | None = None  # the newest, and when it came; told by a report
        self._stamped = 0.0
        self._reported = 0.0

    def set_least_rtt(self, rtt: float) -> None:
        """What probes have shown; until the first, it was a guess."""
        self._least_rtt = rtt
        self.rtt = min(self.rtt, 2 * rtt) if self.counters["repaired_by_copy"] else rtt

    # --- what comes

    def expects_parity(self, now: float) -> bool:
        """Whether what comes is to be kept."""
        return now < self._parity_at + _PARITY_GONE or now < self._hole_at + 2 * self.rtt + _KEPT_FOR

    def on_run(self, train: int, first: int, count: int, whole: int, now: float) -> None:
        """`count` datagrams from index `first` of a train of `whole` came, and were new."""
        self.received += count
        self._length = whole
        if train == self.next and count == whole:
            self.next = train + 1
            return
        self._whole = whole
        full = (1 << whole) - 1
        mask = full & ~((1 << count) - 1 << first)
        if train >= self.next:
            if self.next > 1:  # the first train that comes is where it begins
                self._skip_to(train, now)
            if train - 1 in self.holes:
                self._begin_keeping(now)
            self.next = train + 1
            if mask and len(self.holes) < _MAX_HOLES:
                new = self.holes[train] = _Hole(mask, now, first + count, whole)
                if new.noticed > 0:
                    self._begin_keeping(now)
            return
        hole = self.holes.get(train)
        if hole is None:
            return
        hole.whole = whole
        if hole.mask < 0 and hole.counted:  # now it is known how many they were
            self.lost += max(0, whole - hole.counted)
        before = hole.mask & full
        hole.mask = before & mask
        waited = int(1000 * (now - hole.noticed)) if hole.noticed > 0 else 0
        self.took[min(len(self.took) - 1, waited.bit_length())] += (before & ~mask).bit_count()
        if hole.tries:
            self.counters["repaired_by_copy"] += (before & ~mask).bit_count()
            if not hole.confirmed:
                self._unjudged += (before & ~mask).bit_count()
            rtt = now - hole.asked_at
            if hole.tries == 1 and rtt > 0.9 * self._least_rtt:  # else it was late, not sent again
                self.rtt += (rtt - self.rtt) / 8
        if not hole.mask:
            del self.holes[train]
            return
        hole.grown = now
        hole.top = max(hole.top, first + count)
        if hole.noticed < 0 and hole.mask & (1 << hole.top) - 1:
            hole.noticed = now
            self._begin_keeping(now)

    def _skip_to(self, train: int, now: float) -> None:
        """All trains from `next` to before this one are holes."""
        begin = max(self.next, train - _MAX_GAP)
        for missing in range(begin, train):
            if len(self.holes) >= _MAX_HOLES:
                break
            self.holes[missing] = _Hole(-1, now, -1)

    def _begin_keeping(self, now: float) -> None:
        self._hole_at = now
        self.on_hole(now)

    def is_alone(self, now: float) -> bool:
        """Whether no parity is under way."""
        return now - self._parity_at >= _ALONE

    def has_hole_since(self, since: float) -> bool:
        """Whether something is missing that was seen to be at that time, or later."""
        return any(hole.noticed >= since for hole in self.holes.values())

    def keep(self, train: int, first: int, length: int, data: bytes, now: float) -> None:
        """Datagrams of `length` bytes each (the last maybe shorter), as they came, from index `first` on."""
        self._kept.setdefault(train, []).append((first, length, data))
        self._order.append((train, len(data), now))
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES or now > self._expire_at:
            self.expire(now)

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        self._expire_at = now + _EXPIRE_EACH
        while self._order and (self._kept_bytes > _KEPT_BYTES or now - self._order[0][2] > _KEPT_FOR):
            old, size, _ = self._order.popleft()
            self._kept_bytes -= size
            self._kept.pop(old, None)

    def _on_time(self, time: int, now: float) -> None:
        # The first comes as the answer to an ask: that gives a round trip, and the queue in it.
        excess = now - self.asked_at - self._least_rtt
        self.queue.received(self.received - self._told)
        self._told = self.received
        self.queue.on_stamp(time, now, excess if 0 < excess < _MOST_EXCESS else 0.0)
        self._stamp = time, now
        self._stamped, self._blind = now, 0
        if self._unjudged:
            if not self.queue.made(self._unjudged):
                self.lost, self.runs = self.lost + self._unjudged, self.runs + self._unjudged
            self._unjudged = 0

    def _is_blind(self, now: float) -> bool:
        return now - self._stamped > _BLIND_AFTER

    def on_stamp(self, stamp: Stamp, now: float) -> None:
        self._on_time(stamp.time, now)
        if self.next <= stamp.newest < self.next + _MAX_GAP:
            self._skip_to(stamp.newest + 1, now)
            self.next = stamp.newest + 1

    # --- parity

    def on_parity(self, parity: Parity, now: float) -> list[bytes]:
        """The datagrams that it brings back. They are not known to be genuine before they are opened."""
        self._on_time(parity.time, now)
        self._parity_at = now
        self._hold = longest_wait(self._least_rtt, in_runs=parity.step > 1) + HOLD_MORE
        newest = max(one.train for one in parity.ranges)
        if self.next <= newest < self.next + _MAX_GAP:
            self._skip_to(newest + 1, now)
            self.next = newest + 1
        missing = self._missing_of(parity)
        if not missing:
            self._coded.pop(parity.ranges, None)
            return []
        is_last = parity.row + 1 >= parity.rows and parity.offset + len(parity.data) == parity.size
        for train in sorted({train for train, _ in missing}):
            hole = self.holes[train]
            hole.covered |= is_last or len(missing) > max(1, parity.rows)
            self._confirm(train, hole, now)
        missing = [one for one in missing if one[0] in self.holes]  # but those that the queue made
        if not missing or len(missing) > max(1, parity.rows):
            return []
        if not parity.rows:
            whole = self._whole_of(parity)
            return [] if whole is None else self._bring_back(whole, *missing[0])
        return self._decode(parity, missing)

    def _decode(self, parity: Parity, missing: list[tuple[int, int]]) -> list[bytes]:
        coded = self._coded.get(parity.ranges)
        if coded is None:
            while len(self._coded) >= _MAX_CODED:
                del self._coded[next(iter(self._coded))]
            coded = self._coded[parity.ranges] = _Coded(parity.size, parity.rows)
        coded.add(parity)
        parts = coded.parts(len(missing))
        if parts is None:
            return []
        del self._coded[parity.ranges]
        members: list[int | None] = []
        lost = set(missing)
        order: list[tuple[int, int]] = []
        for train, first, count in parity.ranges:
            for i in range(first, first + count * parity.step, parity.step):
                sealed = None
                if (train, i) in lost:
                    order.append((train, i))
                else:
                    sealed = self._sealed(train, i)
                    if sealed is None:
                        return []
                members.append(None if sealed is None else symbol(sealed))
        found = [0] * len(missing)
        for offset, length, rows in parts:
            mask = (1 << 8 * length) - 1 << 8 * offset
            values = {row: int.from_bytes(data, "little") << 8 * offset for row, data in rows.items()}
            part = bring_back(values, [None if one is None else one & mask for one in members])
            if part is None or len(part) != len(found):
                return []
            found = [one | more for one, more in zip(found, part, strict=True)]
        datagrams = [data_of(value) for value in found]
        self.counters["repaired_by_parity"] += len(found)
        return [
            self._head + (train << INDEX_BITS | index).to_bytes(8, "big") + data
            for (train, index), data in zip(order, datagrams, strict=True)
            if data is not None and len(data) > OVERHEAD - HEAD
        ]

    def _missing_of(self, parity: Parity) -> list[tuple[int, int]]:
        """Train and index of those of the group that have not come."""
        missing = []
        for train, first, count in parity.ranges:
            hole = self.holes.get(train)
            if hole is not None:
                last = first + count * parity.step
                missing += [(train, i) for i in range(first, last, parity.step) if hole.mask >> i & 1]
        return missing

    def _whole_of(self, parity: Parity) -> Parity | None:
        """A parity that is larger than a datagram comes in two pieces."""
        if len(parity.data) == parity.size:
            return parity
        other = self._halves.pop(parity.ranges, None)
        if other is None:
            if len(self._halves) >= _HALVES:
                del self._halves[next(iter(self._halves))]
            self._halves[parity.ranges] = parity
            return None
        low, high = (parity, other) if parity.offset < other.offset else (other, parity)
        if low.offset or high.offset != len(low.data) or high.offset + len(high.data) != parity.size:
            return None
        return replace(parity, offset=0, data=low.data + high.data)

    def _bring_back(self, parity: Parity, lost: int, index: int) -> list[bytes]:
        value, length = int.from_bytes(parity.data, "little"), parity.lengths
        for train, first, count in parity.ranges:
            for i in range(first, first + count * parity.step, parity.step):
                if (train, i) != (lost, index):
                    sealed = self._sealed(train, i)
                    if sealed is None:
                        return []
                    value ^= int.from_bytes(sealed, "little")
                    length ^= len(sealed)
        if not OVERHEAD - HEAD < length <= len(parity.data):
            return []
        if value.bit_length() > 8 * length:
            return []
        data = value.to_bytes(length, "little")
        self.counters["repaired_by_parity"] += 1
        return [self._head + (lost << INDEX_BITS | index).to_bytes(8, "big") + data]

    def _sealed(self, train: int, index: int) -> bytes | None:
        for first, length, data in self._kept.get(train, ()):
            at = (index - first) * length
            if 0 <= at < len(data):
                return data[at + HEAD : at + length]
        return None

    # --- time

    def _confirm(self, train: int, hole: _Hole, now: float) -> None:
        """It is lost: count it, and leave it if the queue made it."""
        if hole.confirmed:
            return
        hole.confirmed = True
        lost = self._missing(train, hole, now)
        # A train of which nothing came: a small packet, or one of the long ones that a full queue takes whole.
        was_full = hole.was_full or self.queue.is_full
        unknown = self._whole if was_full else 1
        count, runs = (unknown, 1) if lost < 0 else (lost.bit_count(), (lost & ~(lost << 1)).bit_count())
        if self.queue.made(count, was_full=was_full):
            self.counters["left_to_the_queue"] += count
            del self.holes[train]
            return
        if lost & 1 and self._run_to == train - 1:
            runs -= 1  # it began in the train before
        self._run_to = train if lost < 0 or lost.bit_length() == hole.whole else -1
        self.lost += count
        self.runs += runs
        hole.counted = count

    def _missing(self, train: int, hole: _Hole, now: float) -> int:
        """What of it should have come by now."""
        is_coming = train == self.next - 1 and now - hole.grown < GUARD
        return hole.mask & (1 << hole.top) - 1 if is_coming and hole.top >= 0 else hole.mask

    def tick(self, now: float) -> list[bytes]:
        """Messages that are due. Wanted each TICK while there are holes, and with each stamp."""
        wanted: list[tuple[int, int]] = []
        alone = self.is_alone(now)
        hold = GUARD + (0.0 if alone else self._hold)
        pause = AGAIN * self.rtt
        blind = self._is_blind(now)
        if blind and self.asked_at + _BLIND_AGAIN < now:
            self._blind = 0
        for train, hole in list(self.holes.items()):
            if hole.noticed < 0:
                if train == self.next - 1 and now - hole.grown < GUARD:
                    continue
                hole.noticed = hole.grown
            age = now - hole.noticed
            hole.was_full |= self.queue.is_full
            # What is missing behind that goes with it: else TCP, told of all of it after the first ask, sends the rest
            # again before our copies, which are old then (edgevpn/tun/held_back.py).
            follows = alone and bool(wanted) and wanted[-1][0] == train - 1
            if age < GUARD and not follows:
                continue
            if hole.again and now - hole.asked_at >= GUARD:
                hole.again = False
                wanted.append((train, max(WHOLE, self._missing(train, hole, now))))
                continue
            if not blind:
                self._confirm(train, hole, now)
            elif self._blind >= BLIND:
                if age > GIVE_UP:
                    del self.holes[train]
                continue
            if train not in self.holes or (age < hold and not hole.covered and not follows):
                continue
            if hole.tries and now - hole.asked_at < pause:
                continue
            if hole.tries >= TRIES or age > GIVE_UP:
                self.counters["given_up"] += 1
                del self.holes[train]
                continue
            hole.tries += 1
            hole.asked_at = now
            hole.again = alone and hole.tries == 1
            missing = max(WHOLE, self._missing(train, hole, now))
            if blind:
                missing = _first_of(missing, BLIND - self._blind)
                self._blind += missing.bit_count() or self._length
            wanted.append((train, missing))
        if wanted:
            self.asked_at = now
        messages = write_asks(sorted(wanted), self.room) if wanted else []
        if self._stamp is not None and now - self._reported >= REPORT_EACH:
            time, at = self._stamp
            held = int((now - at) * 1e6)
            delay = int(self.queue.now * 1e6)
            messages.append(write_report(Report(time, held, self.received, self.lost, self.runs, delay)))
            self._stamp, self._reported = None, now
        return messages

    def is_busy(self) -> bool:
        """Whether ticks are wanted."""
        return bool(self.holes) or self._stamp is not None


def _first_of(mask: int, most: int) -> int:
    """The lowest `most` bits of it that are set; WHOLE is left."""
    while mask.bit_count() > most:
        mask &= ~(1 << mask.bit_length() - 1)
    return mask
