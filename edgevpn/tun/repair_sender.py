"""The sending side of repair: what was sent lately, parity over it, and copies of what is asked for. Pure.

    quick     more than QUICK goes out: nothing is done. A way that fast has no random loss that is worth it
    quiet     nothing was lost lately: sealed trains are kept, whole, and nothing else is done
    active    after an ask, or a report of losses: stamps each STAMP_EACH while something is sent, and parity. Calm ends
              parity, and stamps a while later; else ACTIVE after the last loss does

Parity: the XOR of a group of `k` sealed datagrams, or of what there is after FLUSH of silence. `k` follows the loss
that the other side reports, and where losses come in runs, `step` groups are interleaved, so that a run hits each once.

Kept: two round trips and KEPT_MORE, and at most KEPT_BYTES. Copies: no more than a share of what is sent.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

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
    write_parity,
    write_stamp,
)

ACTIVE: Final = 600.0  # seconds after a loss, if no calm ends it
STAMPS_AFTER: Final = 50.0  # seconds of stamps after parity has ended
STAMP_EACH: Final = 0.005
FLUSH: Final = 0.002
KEPT_MORE: Final = 0.1
KEPT_BYTES: Final = 8 << 20
QUICK: Final = 125_000_000  # bytes a second
FIRST_K: Final = 8
MOST_STEP: Final = 8
_WINDOW = 0.1
_CALM, _CALM_DATAGRAMS = 10.0, 3000  # seconds, and datagrams, without random loss after which parity ends
_SHARE, _MOST_COPIES = 0.15, 256.0
_LEAST_MEMBERS = 2
_JUDGED, _JUDGED_LEAST = 4000, 1000
_RUNS = 1.6  # lost in a row, from which on groups are interleaved


def group_size(loss: float) -> int:
    """How many datagrams share a parity at this fraction lost."""
    for most, k in ((0.003, 16), (0.007, 12), (0.015, 8), (0.03, 6)):
        if loss <= most:
            return k
    return 5


class _Kept:
    """A train, or (`each`) a run of trains of one datagram, as it was sent."""

    __slots__ = ("at", "data", "each", "first", "last", "length", "train")

    def __init__(self, train: int, first: int, length: int, data: bytes, at: float, each: bool) -> None:
        self.train, self.first, self.length, self.data, self.at, self.each = train, first, length, data, at, each
        self.last = train + (len(data) - 1) // length if each else train


class _Group:
    """A parity that grows."""

    __slots__ = ("count", "lengths", "ranges", "size", "value")

    def __init__(self) -> None:
        self.value = self.lengths = self.size = self.count = 0
        self.ranges: list[Range] = []

    def add(self, train: int, index: int, step: int, sealed: memoryview) -> None:
        self.value ^= int.from_bytes(sealed, "little")
        self.lengths ^= len(sealed)
        self.size = max(self.size, len(sealed))
        self.count += 1
        if self.ranges:
            last = self.ranges[-1]
            if last.train == train and index == last.first + last.members * step:
                self.ranges[-1] = last._replace(members=last.members + 1)
                return
        self.ranges.append(Range(train, index, 1))


class RepairSender:
    """For one session."""

    def __init__(self, room: int, rtt: float) -> None:
        """`room`: bytes of a control message."""
        self.room = room
        self.rtt = rtt
        self.active_until = 0.0
        self.k = 0  # 0: no parity
        self.step = 1
        self.loss = 0.0
        self.run = 1.0  # how many are lost in a row, on average
        self.queue_delay = 0.0
        self.counters = {"parity_sent": 0, "copies_sent": 0, "copies_refused": 0}
        self._calm_at = 0.0
        self._since_loss = 0  # datagrams
        self._judged = 0  # datagrams that `loss` is of
        self._kept: dict[int, list[_Kept]] = {}
        self._order: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._groups: list[_Group] = [_Group()]
        self._lane = 0
        self._grouped_at: float | None = None  # when something was added last to groups that are open
        self._newest = 0
        self._stamped = 0.0
        self._to_stamp = False
        self._copies = 32.0
        self._window_end = 0.0
        self._window_bytes = self._bytes_before = 0
        self._seen: tuple[int, int, int] | None = None  # what the last report said

    def inherit(self, other: RepairSender) -> None:
        """Go on as the session before."""
        self.active_until, self.k, self.step = other.active_until, other.k, other.step
        self.loss, self.run, self._judged = other.loss, other.run, other._judged
        self._calm_at, self._since_loss, self.rtt = other._calm_at, other._since_loss, other.rtt
        self._groups = [_Group() for _ in range(self.step)]

    # --- out

    def on_sent(self, train: int, first: int, length: int, view: memoryview, now: float, *, each: bool) -> list[bytes]:
        """Datagrams of `length` bytes (the last maybe shorter) went out. Messages to send after them.

        They are of one train from index `first` on, or (`each`) of a train of its own each, from `train` on.
        """
        active = now < self.active_until
        if now > self._window_end:
            self._bytes_before, self._window_bytes = self._window_bytes, 0
            self._window_end = now + _WINDOW
        self._window_bytes += len(view)
        if self._bytes_before + self._window_bytes > QUICK * _WINDOW:
            if self._order:
                self._forget_all()
            return []
        kept = _Kept(train, first, length, bytes(view), now, each)
        self._newest = kept.last
        self._order.append(kept)
        self._kept_bytes += len(view)
        for number in range(train, kept.last + 1):
            self._kept.setdefault(number, []).append(kept)
        self._evict(now)
        if not active:
            return []
        count = (len(view) + length - 1) // length
        self._copies = min(_MOST_COPIES, self._copies + _SHARE * count)
        self._to_stamp = True
        return self._add_parity(kept, count, now) if self.k else self._stamp_if_due(now)

    def _evict(self, now: float) -> None:
        oldest = now - 2 * self.rtt - KEPT_MORE
        order = self._order
        while order and (order[0].at < oldest or self._kept_bytes > KEPT_BYTES):
            gone = order.popleft()
            self._kept_bytes -= len(gone.data)
            for number in range(gone.train, gone.last + 1):
                runs = self._kept.get(number)
                if runs is not None:
                    runs.remove(gone)
                    if not runs:
                        del self._kept[number]

    def expire(self, now: float) -> None:
        """Forget what is too old; for while nothing is sent."""
        self._evict(now)

    def _forget_all(self) -> None:
        self._grouped_at = None
        self._groups = [_Group() for _ in range(self.step)]
        self._order.clear()
        self._kept.clear()
        self._kept_bytes = 0

    def _add_parity(self, kept: _Kept, count: int, now: float) -> list[bytes]:
        messages: list[bytes] = []
        view, length, step, each = memoryview(kept.data), kept.length, self.step, kept.each
        for i in range(count):
            group = self._groups[self._lane]
            sealed = view[i * length + HEAD : i * length + length]
            group.add(kept.train + (i if each else 0), 0 if each else kept.first + i, step, sealed)
            if group.count >= self.k or len(group.ranges) >= MAX_RANGES:
                messages += self._close(self._lane, now)
            self._lane = (self._lane + 1) % step
        self._grouped_at = now if any(group.count for group in self._groups) else None
        return messages

    def _close(self, lane: int, now: float) -> list[bytes]:
        group, self._groups[lane] = self._groups[lane], _Group()
        if group.count < _LEAST_MEMBERS or group.ranges[-1].train - group.ranges[0].train > 0xFFFF:
            return []
        data = group.value.to_bytes(group.size, "little")
        room = self.room - PARITY_HEAD - RANGE_SIZE * len(group.ranges)
        pieces = -(-len(data) // room)
        if pieces > 2 or room <= 0:
            return []
        size = -(-len(data) // pieces)
        time = int(now * 1e6)
        self._stamped, self._to_stamp = now, False
        self.counters["parity_sent"] += 1
        return [
            write_parity(
                Parity(time, group.lengths, group.size, at, self.step, tuple(group.ranges), data[at : at + size])
            )
            for at in range(0, len(data), size)
        ]

    def _stamp_if_due(self, now: float) -> list[bytes]:
        if not self._to_stamp or now - self._stamped < STAMP_EACH:
            return []
        self._stamped, self._to_stamp = now, False
        return [write_stamp(Stamp(int(now * 1e6), min(self._newest, MAX_TRAIN)))]

    def tick(self, now: float) -> list[bytes]:
        """Messages that are due."""
        messages: list[bytes] = []
        if self._grouped_at is not None and now - self._grouped_at >= FLUSH:
            self._grouped_at = None
            for lane in range(len(self._groups)):
                messages += self._close(lane, now)
        return messages + self._stamp_if_due(now)

    def is_busy(self) -> bool:
        """Whether ticks are wanted."""
        return self._grouped_at is not None or self._to_stamp

    # --- in

    def on_ask(self, ask: Ask, now: float) -> list[bytes]:
        """Copies of what is asked for, as it was sent."""
        self._wake(now)
        copies: list[bytes] = []
        for train, mask in ask.wanted.items():
            if len(copies) > self._copies:
                break
            for kept in self._kept.get(train, ()):
                copies += self._copies_of(kept, train, mask)
        room = max(0, int(self._copies))
        if len(copies) > room:
            self.counters["copies_refused"] += len(copies) - room
            del copies[room:]
        self._copies -= len(copies)
        self.counters["copies_sent"] += len(copies)
        return copies

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
        if not self.k:
            self.k = FIRST_K

    def on_report(self, report: Report, now: float) -> None:
        rtt = ((int(now * 1e6) - report.echo - report.held) & 0xFFFFFFFF) / 1e6
        if rtt < 10.0:
            self.rtt += (rtt - self.rtt) / 8
        self.queue_delay = report.delay / 1e6
        seen, self._seen = self._seen, (report.received, report.lost, report.runs)
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
        if now > self._calm_at and self._since_loss > _CALM_DATAGRAMS:
            if self.k:
                self.active_until = now + STAMPS_AFTER
            self._set(0, 1)
        elif self.k:
            if lost:
                self.run += (lost / max(1, runs) - self.run) * min(1.0, runs / 8)
            k = group_size(self.loss) if self._judged >= _JUDGED_LEAST else FIRST_K
            self._set(k, 1 if self.run < _RUNS else min(MOST_STEP, ceil(self.run) + 2))

    def _set(self, k: int, step: int) -> None:
        self.k = k
        if step != self.step:
            self.step = step
            self._groups = [_Group() for _ in range(step)]
            self._lane = 0
            self._grouped_at = None
