"""The sending side of repair: what was sent lately, parity over it, and copies of what is asked for. Pure.

    quick     more than QUICK goes out, or comes in: nothing is done. So fast a way has no random loss that is worth it
    quiet     nothing was lost lately: sealed trains are kept, whole, and nothing else is done
    active    after an ask, or a report of losses: stamps each STAMP_EACH while something is sent, and parity. That is
              on trial until a report has told whether the losses were random. Calm ends parity, and stamps a while
              later; else ACTIVE after the last loss does

The ask that begins it is answered by parity over what went out since, too, at once: the other side has kept what came
after the hole, so a second loss within that round trip need not wait for a second ask. TCP inside gets over a first
loss that comes back late, if no other does before it has found out (RFC 3522, RFC 3708); else slow start is over.

Parity: rows of an erasure code (edgevpn/tun/erasure.py) over a group of up to `k` sealed datagrams, which ends when it
has as many, after FLUSH of silence, or when it is as old as a part of the round trip: what comes back later TCP has
sent again, and slowed down. How many and how large follows the loss that the other side reports
(edgevpn/tun/repair_plan.py), and a group that ends early gets no more rows than it needs; BUDGET bounds what all of it
may take. Where losses come in runs, `step` groups are interleaved, so that a run takes no more from each than its rows
bring back. A peer that knows no code gets the XOR.

A datagram that is asked for a fourth time did not get through, nor did two copies. That seldom is chance; larger ones
may not pass any more (`is_stuck`, which edgevpn/tun/datagram_link.py has looked into).

Kept: two round trips and KEPT_MORE, and at most KEPT_BYTES. Copies: no more than a share of what is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Set
from typing import Final, NamedTuple

from edgevpn.proto.datagram import HEAD, MAX_TRAIN
from edgevpn.proto.datagram_repair import (
    MAX_RANGES,
    PARITY_HEAD,
    RANGE_SIZE,
    WHOLE,
    Ask,
    Parity,
    Range,
    Report,
    Stamp,
    longest_wait,
    write_parity,
    write_stamp,
)
from edgevpn.tun.erasure import Rows, symbol
from edgevpn.tun.repair_plan import NO_PARITY, Plan, mean_run, plan, rows_needed
from edgevpn.tun.twice import Twice

ACTIVE: Final = 600.0  # seconds after a loss, if no calm ends it
STAMPS_AFTER: Final = 50.0  # seconds of stamps after parity has ended
STAMP_EACH: Final = 0.005
FLUSH, FLUSH_RUNS = 0.002, 0.004
SMALL_WAIT: Final = 0.004  # of a group of small ones: they are from flows that wait for each
BUDGET, BUDGET_FREE = 0.25, 1.0  # of a parity a datagram; where the way has no queue, so takes nobody's place
FREE: Final = 0.004  # seconds of queue
KEPT_MORE: Final = 0.1
KEPT_BYTES: Final = 8 << 20
QUICK: Final = 125_000_000  # bytes a second
_QUICK_IN = QUICK // 1400  # datagrams a second
FIRST_LOSS: Final = 0.03  # until it is known
_WINDOW, _EVICT_EACH = 0.1, 0.01
_CALM, _CALM_DATAGRAMS = 10.0, 3000  # seconds, and datagrams, without random loss after which parity ends
_CALM_MANY = 20_000  # datagrams: the same, however soon
_SHARE, _MOST_COPIES = 0.15, 256.0
_LEAST_MEMBERS = 2
_JUDGED, _JUDGED_LEAST = 4000, 1000
_MOST_BUDGET = 64.0
_SMALL = 256  # bytes
_STALE = 0.05  # seconds
_MOST_BACK = 400  # datagrams that went out before the ask
_SYMPATHY = 10.0  # seconds
_ASKED_APART, _STUCK, _STUCK_SIZE = 0.0015, 4, 600  # seconds; times; bytes
_ASKED_KEPT = 512
_RUNS_KNOWN = 8


class _Kept(NamedTuple):
    """A train, or (`each`) a run of trains of one datagram up to `last`, as it was sent."""

    train: int
    last: int
    first: int
    length: int
    data: bytes
    at: float
    each: bool


class _Group:
    """A parity that grows."""

    __slots__ = ("count", "ranges", "rows", "since", "size")

    def __init__(self, rows: int) -> None:
        self.rows = Rows(rows)
        self.size = self.count = 0
        self.since = 0.0
        self.ranges: list[list[int]] = []  # train, first, members

    def add(self, train: int, index: int, step: int, sealed: memoryview) -> None:
        self.rows.add(symbol(sealed))
        self.size = max(self.size, len(sealed))
        self.count += 1
        if self.ranges:
            last = self.ranges[-1]
            if last[0] == train and index == last[1] + last[2] * step:
                last[2] += 1
                return
        self.ranges.append([train, index, 1])


class RepairSender:
    """For one session."""

    def __init__(self, room: int, rtt: float, *, codes: bool = True, arrived: Callable[[], int] = lambda: 0) -> None:
        """`room`: bytes of a control message. `codes`: whether the other side knows the code.

        `arrived` tells how many datagrams of the session have come.
        """
        self.room = room
        self.rtt = rtt
        self.active_until = 0.0
        self.plan = NO_PARITY
        self.loss = 0.0
        self.run = 1.0  # how many are lost in a row, on average
        self.queue_delay = 0.0
        self.counters = {"parity_sent": 0, "copies_sent": 0, "copies_refused": 0, "sent_twice": 0}
        self._codes = codes
        self._runs_seen = 0  # that `run` is of
        self._budget = _MOST_BUDGET
        self._calm_at = 0.0
        self._since_loss = 0  # datagrams
        self._judged = 0  # datagrams that `loss` is of
        self._kept: deque[_Kept] = deque()  # looked through when something is asked for, which is seldom
        self._kept_bytes = 0
        self._groups: list[_Group] = [_Group(1)]
        self._lane = 0
        self._grouped_at: float | None = None  # when something was added last to groups that are open
        self._newest = 0
        self._stamped = 0.0
        self._to_stamp = False
        self._copies = 32.0
        self._evict_at = 0.0
        self._window_end = 0.0
        self._went = self._went_before = 0  # bytes of this window, and of the one before
        self._arrived = arrived
        self._arrived_before = 0
        self.is_quick = False
        self._quick_until = 0.0
        self._seen: tuple[int, int, int] | None = None  # what the last report said
        self._trial = False
        self._twice = Twice()
        self.is_stuck = False  # copies of large datagrams do not arrive: perhaps none of that size does
        self._asked: dict[int, tuple[int, float]] = {}  # trains: how often they were asked for, and when last

    def inherit(self, other: RepairSender) -> None:
        """Go on as the session before."""
        self.active_until = other.active_until
        self.loss, self.run, self._judged = other.loss, other.run, other._judged
        self._runs_seen = other._runs_seen
        self._calm_at, self._since_loss, self.rtt = other._calm_at, other._since_loss, other.rtt
        if other.plan.k:
            self._set(self._wanted())  # the peer may know more now, or less

    # --- out

    def on_sent(self, train: int, first: int, length: int, view: memoryview, now: float, *, each: bool) -> list[bytes]:
        """Datagrams of `length` bytes (the last maybe shorter) went out. Messages to send after them.

        They are of one train from index `first` on, or (`each`) of a train of its own each, from `train` on.
        """
        active = now < self.active_until
        if now > self._window_end:
            self._next_window(now)
        self._went += len(view)
        if self.is_quick or self._went_before + self._went > QUICK * _WINDOW:
            self.is_quick, self._quick_until = True, self._window_end
            if self._kept:
                self._forget_all()
            return []
        size = len(view)
        self._newest = last = train + (size - 1) // length if each else train
        kept = _Kept(train, last, first, length, bytes(view), now, each)
        self._kept.append(kept)
        self._kept_bytes += size
        if self._kept_bytes > KEPT_BYTES or now > self._evict_at:
            self._evict(now)
        if not active:
            return []
        count = (len(view) + length - 1) // length
        self._copies = min(_MOST_COPIES, self._copies + _SHARE * count)
        self._to_stamp = True
        return self._add_parity(kept, count, now) if self.plan.k else self._stamp_if_due(now)

    def passes(self, size: int, now: float) -> bool:
        """Whether these bytes went out on so quick a way that `on_sent` need not be told; then they are counted."""
        if now >= self._quick_until:
            return False
        self._went += size
        return True

    def _next_window(self, now: float) -> None:
        """Each WINDOW while something is sent: how quick is the way?"""
        before, self._arrived_before = self._arrived_before, self._arrived()
        part = _WINDOW / max(_WINDOW, now - self._window_end + _WINDOW)  # of the time since the last
        self._went_before, self._went = int(self._went * part), 0
        self._window_end = now + _WINDOW
        self.is_quick = (self._arrived_before - before) * part > _QUICK_IN * _WINDOW

    def on_lone(self, train: int, view: memoryview, now: float) -> bool:
        """A datagram went out after a pause, a train of its own. False: nothing was done, `on_sent` is to be told."""
        size = len(view)
        if now < self.active_until or self._kept_bytes > KEPT_BYTES:
            return False
        self._newest = train
        self._kept.append(_Kept(train, train, 0, size, bytes(view), now, True))
        self._kept_bytes += size
        return True

    def on_urgent(self, datagram: memoryview, now: float) -> None:
        """A small one went out that somebody waits for: it goes again, where there is parity."""
        if self.plan.k and self._twice.add(bytes(datagram), now):
            self.counters["sent_twice"] += 1

    def again(self, now: float) -> list[bytes]:
        """Those that are to be sent for the second time now, as they are."""
        return self._twice.due(now) if self._twice.waiting else []

    def _evict(self, now: float) -> None:
        self._evict_at = now + _EVICT_EACH
        oldest = now - 2 * self.rtt - KEPT_MORE
        kept = self._kept
        while kept and (kept[0].at < oldest or self._kept_bytes > KEPT_BYTES):
            self._kept_bytes -= len(kept.popleft().data)

    def expire(self, now: float) -> None:
        """Forget what is too old; for while nothing is sent."""
        self._evict(now)

    def _forget_all(self) -> None:
        self._new_groups()
        self._kept.clear()
        self._kept_bytes = 0

    def _new_groups(self) -> None:
        self._groups = [_Group(self.plan.rows) for _ in range(self.plan.step)]
        self._lane = 0
        self._grouped_at = None

    def _add_parity(self, kept: _Kept, count: int, now: float) -> list[bytes]:
        messages: list[bytes] = []
        view, length, each = memoryview(kept.data), kept.length, kept.each
        k, _, step = self.plan
        each_gives = BUDGET_FREE if self.queue_delay < FREE else BUDGET
        self._budget = min(_MOST_BUDGET, self._budget + each_gives * count)
        for i in range(count):
            group = self._groups[self._lane]
            if not group.count:
                group.since = now
            sealed = view[i * length + HEAD : i * length + length]
            group.add(kept.train + (i if each else 0), 0 if each else kept.first + i, step, sealed)
            if group.count >= k or len(group.ranges) >= MAX_RANGES:
                messages += self._close(self._lane, now)
            self._lane = (self._lane + 1) % step
        self._grouped_at = now
        return messages + self._close_old(now)

    def _close_old(self, now: float) -> list[bytes]:
        """Those groups whose time has come."""
        messages: list[bytes] = []
        in_runs = self.plan.step > 1
        silent = self._grouped_at is not None and now - self._grouped_at >= (FLUSH_RUNS if in_runs else FLUSH)
        longest = longest_wait(self.rtt, in_runs=in_runs)
        for lane, group in enumerate(self._groups):
            oldest = SMALL_WAIT if group.size < _SMALL and not in_runs else longest
            if group.count and (silent or now - group.since >= oldest):
                messages += self._close(lane, now)
        if not any(group.count for group in self._groups):
            self._grouped_at = None
        return messages

    def _close(self, lane: int, now: float) -> list[bytes]:
        """Its parities; when there is no budget for one, it stays as it is until there is, or it is stale."""
        group, k = self._groups[lane], self.plan.k
        rows = len(group.rows.values)
        if group.count < k and self.plan.step == 1:
            rows = rows_needed(group.count, rows, int(1000 * (self.loss or FIRST_LOSS)) + 1)
        rows = min(rows, int(self._budget))
        full = group.count >= k or len(group.ranges) >= MAX_RANGES
        if not rows and not full and now - group.since < _STALE:
            return []
        self._groups[lane] = _Group(self.plan.rows)
        if not rows or (group.count < _LEAST_MEMBERS and not self._codes):
            return []
        if group.ranges[-1][0] - group.ranges[0][0] > 0xFFFF:
            return []
        self._stamped, self._to_stamp = now, False
        messages = self._written(group, rows, int(now * 1e6))
        if messages:
            self._budget -= rows
            self.counters["parity_sent"] += rows
        return messages

    def _written(self, group: _Group, rows: int, time: int) -> list[bytes]:
        """In two pieces when it does not fit in one, all of one size; those of a row together, for a run of losses."""
        room = self.room - PARITY_HEAD - RANGE_SIZE * len(group.ranges)
        size = group.size + 2 if self._codes else group.size
        pieces = -(-size // room) if room > 0 else 0
        if not 1 <= pieces <= 2:
            return []
        ranges, step = tuple(Range(*one) for one in group.ranges), self.plan.step
        length = -(-size // pieces)
        size = length * pieces
        if not self._codes:
            value = group.rows.values[0]
            data = (value >> 16).to_bytes(size, "little")
            xor = [Parity(time, value & 0xFFFF, size, at, step, ranges, data[at : at + length])
                   for at in range(0, size, length)]  # fmt: skip
            return [write_parity(one) for one in xor]
        values = [value.to_bytes(size, "little") for value in group.rows.values[:rows]]
        return [
            write_parity(Parity(time, 0, size, at, step, ranges, data[at : at + length], row, rows))
            for row, data in enumerate(values)
            for at in range(0, size, length)
        ]

    def _stamp_if_due(self, now: float) -> list[bytes]:
        if not self._to_stamp or now - self._stamped < STAMP_EACH:
            return []
        self._stamped, self._to_stamp = now, False
        return [write_stamp(Stamp(int(now * 1e6), min(self._newest, MAX_TRAIN)))]

    def tick(self, now: float) -> list[bytes]:
        """Messages that are due."""
        messages = self._close_old(now) if self._grouped_at is not None else []
        return messages + self._stamp_if_due(now)

    def is_busy(self) -> bool:
        """Whether ticks are wanted."""
        return self._grouped_at is not None or self._to_stamp or bool(self._twice.waiting)

    # --- in

    def on_ask(self, ask: Ask, now: float) -> tuple[list[bytes], list[bytes]]:
        """Copies of what is asked for, as it was sent; messages."""
        begins = not self.plan.k
        if begins and not self._runs_seen and ask.wanted:
            self.run = mean_run(ask.wanted, self._lengths(ask.wanted.keys()))
        self._wake(now)
        copies: list[bytes] = []
        wanted = ask.wanted
        least, most = min(wanted, default=0), max(wanted, default=-1)
        for kept in self._kept:
            if kept.last < least or kept.train > most:
                continue
            for train in wanted.keys() & range(kept.train, kept.last + 1):
                copies += self._copies_of(kept, train, wanted[train])
            if len(copies) > self._copies:
                break
        room = max(0, int(self._copies))
        if len(copies) > room:
            self.counters["copies_refused"] += len(copies) - room
            del copies[room:]
        self._copies -= len(copies)
        self.counters["copies_sent"] += len(copies)
        self._note_asked(wanted.keys(), max(map(len, copies), default=0) > _STUCK_SIZE, now)
        return copies, self._look_back(least, now) if begins and wanted else []

    def _lengths(self, wanted: Set[int]) -> dict[int, int]:
        """How many datagrams those trains have, by what is kept."""
        lengths: dict[int, int] = {}
        for kept in self._kept:
            if not kept.each and kept.train in wanted:
                lengths[kept.train] = lengths.get(kept.train, 0) - (-len(kept.data) // kept.length)
        return lengths

    def _note_asked(self, wanted: Set[int], copied: bool, now: float) -> None:
        """These were asked for; `copied`: and large copies were sent."""
        asked = self._asked
        for train in wanted if copied else wanted & asked.keys():
            times, at = asked.pop(train, (0, 0.0))
            if now - at >= _ASKED_APART:
                times, at = times + 1, now
            self.is_stuck |= times >= _STUCK
            while len(asked) >= _ASKED_KEPT:
                del asked[next(iter(asked))]
            asked[train] = times, at

    def _look_back(self, train: int, now: float) -> list[bytes]:
        """Parity over what has gone out since that train, the newest of it."""
        later: list[tuple[_Kept, int]] = []
        total = 0
        for kept in reversed(self._kept):
            count = -(-len(kept.data) // kept.length)
            total += count
            if kept.train <= train or total > _MOST_BACK:
                break
            later.append((kept, count))
        messages = [message for kept, count in reversed(later) for message in self._add_parity(kept, count, now)]
        for lane in range(len(self._groups)):
            if self._groups[lane].count:
                messages += self._close(lane, now)
        return messages

    def on_loss_there(self, now: float) -> None:
        """What the other side sends is lost; then so is, mostly, what goes there: parity, on trial."""
        if not self.plan.k and now >= self.active_until:
            self._wake(now)
            self.active_until = now + _SYMPATHY

    def _copies_of(self, kept: _Kept, train: int, mask: int) -> list[bytes]:
        data, length = kept.data, kept.length
        if kept.each:
            at = (train - kept.train) * length
            return [data[at : at + length]]
        return [
            data[at : at + length]
            for index, at in enumerate(range(0, len(data), length), kept.first)
            if mask == WHOLE or mask >> index & 1
        ]

    def _wake(self, now: float) -> None:
        if now > self.active_until:
            self._to_stamp, self._stamped = True, 0.0
        self.active_until = now + ACTIVE
        self._calm_at, self._since_loss = now + _CALM, 0
        if not self.plan.k:
            self._trial = True
            self._set(self._wanted())

    def on_report(self, report: Report, now: float) -> None:
        rtt = ((int(now * 1e6) - report.echo - report.held) & 0xFFFFFFFF) / 1e6
        if rtt < 10.0:
            self.rtt += (rtt - self.rtt) / 8
        self.queue_delay = report.delay / 1e6
        seen, self._seen = self._seen, (report.received, report.lost, report.runs)
        if self._trial and report.lost == (seen[1] if seen else 0):  # all of it was a full queue's making
            self._set(NO_PARITY)
        self._trial = False
        if seen is None:
            return
        received, lost, runs = report.received - seen[0], report.lost - seen[1], report.runs - seen[2]
        if received <= 0 or lost < 0 or runs < 0:
            return
        self._since_loss += received
        if lost:
            self._wake(now)
        self._judged = min(_JUDGED, self._judged + received)
        self.loss += (lost / (received + lost) - self.loss) * min(1.0, received / self._judged)
        since = self._since_loss
        if since > _CALM_MANY or (now > self._calm_at and since > _CALM_DATAGRAMS):
            if self.plan.k:
                self.active_until = now + STAMPS_AFTER
            self._set(NO_PARITY)
        elif self.plan.k:
            if lost:
                self._runs_seen = min(_RUNS_KNOWN, self._runs_seen + max(1, runs))
                self.run += (lost / max(1, runs) - self.run) * min(1.0, max(1, runs) / self._runs_seen)
            self._set(self._wanted())

    def _wanted(self) -> Plan:
        """By what is known of the way."""
        loss = self.loss if self._judged >= _JUDGED_LEAST else max(self.loss, FIRST_LOSS)
        return plan(loss, self.run, codes=self._codes)

    def _set(self, wanted: Plan) -> None:
        if wanted != self.plan:
            changed = wanted[1:] != self.plan[1:]
            self.plan = wanted
            if changed:
                self._new_groups()
