"""Which losses a full queue made: by those TCP inside learns the way's rate, so they stay. Pure.

The sender's stamps tell how far the delay is above the least of the last minute (as in RFC 6817). The queue is *full*
above FLOOR and above FULL of the longest of the last minute; a peak shorter than WINDOW, or of one stamp alone, was no
queue but a machine that had other things to do.

A full queue alone proves nothing: a flow that runs at the way's rate keeps it full, and what is lost at random then is
as random as before. So the rate decides: as many as MORE times what is lost while the queue is not full are random,
what is beyond is the queue's (counted anew each time it gets full, as if some hundred had come before). Where nothing
is lost at random, all is the queue's.
"""

from __future__ import annotations

from typing import Final

FLOOR: Final = 0.008  # seconds
FULL: Final = 0.85
MORE: Final = 3.0
WINDOW: Final = 0.025
_HALF_MINUTE = 30.0
_JUDGED, _JUDGED_FULL = 8000.0, 400.0  # datagrams


class _Share:
    """Lost of received, the older the less."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.received = self.lost = 0.0

    def add(self, received: int, lost: int) -> None:
        self.received += received
        self.lost += lost
        if self.received > self._most:
            self.received /= 2
            self.lost /= 2


class QueueLosses:
    """`now`: the queue's length, seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_full = False
        self._anchor: int | None = None
        self._least = [0.0, 0.0]  # of this half minute, and the one before
        self._most = [0.0, 0.0]
        self._since = 0.0
        self._before = 0.0  # the delay by the stamp before
        self._window_end = 0.0
        self._window_least = 0.0
        self._free, self._full, self._was_full = _Share(_JUDGED), _Share(2 * _JUDGED_FULL), _Share(2 * _JUDGED_FULL)

    def on_stamp(self, time: int, now: float, excess: float = 0.0) -> None:
        """`time`: of the sender's clock, microseconds modulo 2^32.

        `excess`: how far the delay was above the least when the first came, as far as is known.
        """
        arrived = int(now * 1e6)
        first = self._anchor is None
        if self._anchor is None:
            self._anchor = (arrived - time) & 0xFFFFFFFF
            self._since = now
            self._least = [-excess, -excess]
        late = ((arrived - time - self._anchor + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        delay = late / 1e6
        if now - self._since > _HALF_MINUTE:
            self._least, self._most, self._since = [delay, self._least[0]], [0.0, self._most[0]], now
        self._least[0] = min(self._least[0], delay)
        length = max(0.0, delay - min(self._least))
        self.now = length if first else min(length, self._before)
        self._before = length
        if first or now > self._window_end:
            self._most[0] = max(self._most[0], self.now if first else self._window_least)
            self._window_end, self._window_least = now + WINDOW, length
        else:
            self._window_least = min(self._window_least, length)
        before, self.is_full = self.is_full, self.now > FLOOR and self.now > FULL * max(self._most)
        if before and not self.is_full:
            self._was_full, self._full = self._full, self._was_full
        if not self.is_full:
            self._full.received, self._full.lost = _JUDGED_FULL, 0.0

    def received(self, count: int) -> None:
        (self._full if self.is_full else self._free).add(count, 0)

    def made(self, lost: int, *, was_full: bool = False) -> bool:
        """Whether these, lost now, are the queue's; else they are taken as random.

        `was_full`: whether the queue was full when they were missed. A sender that is told of many losses stops, and
        the queue is empty before all of them are judged.
        """
        if not self.is_full and not was_full:
            self._free.add(0, lost)
            return False
        share = self._full if self.is_full else self._was_full
        share.add(0, lost)
        usual = self._free.lost / max(1.0, self._free.received)
        return share.lost > MORE * usual * (share.received + share.lost)
