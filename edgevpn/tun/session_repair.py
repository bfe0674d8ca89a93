"""Both sides of repair for one session, and what they want sent. Pure; datagram_engine.py calls it.

What is returned is messages to be sealed and sent, and whole datagrams to be sent as they are (copies) or opened
(brought back by parity).
"""

from __future__ import annotations

from typing import NamedTuple

from edgevpn.proto.datagram_repair import Ask, Parity, Repair, Stamp
from edgevpn.tun.repair_receiver import TICK, RepairReceiver
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.replay import WIDE, ReplayWindow


class Outcome(NamedTuple):
    """Of a message: to send as they are; to open."""

    copies: list[bytes]
    repaired: list[bytes]


class SessionRepair:
    """Is told of all that goes out and comes in (`on_sent`, `on_run`)."""

    def __init__(self, head: bytes, window: ReplayWindow, room: int, rtt: float, *, codes: bool = True) -> None:
        """`head`, `window`: of the receiving key; `room`: bytes of a control message; `rtt`: a first guess.

        `codes`: whether the peer understands more parities of a group than the XOR.
        """
        self.sender = RepairSender(room, rtt, codes=codes)
        self.receiver = RepairReceiver(head, room, rtt)
        self.keeping = False
        self._window = window
        self.on_run = self.receiver.on_run
        self.on_sent = self.sender.on_sent
        self.on_lone = self.sender.on_lone

    def keep(self, train: int, first: int, length: int, data: bytes, now: float) -> None:
        """What came, as it came; asked for while `keeping`."""
        if self.receiver.expects_parity(now):
            self.receiver.keep(train, first, length, data, now)
        else:
            self.keeping = False

    def set_room(self, room: int) -> None:
        """The way carries control messages of `room` bytes now."""
        self.sender.room = self.receiver.room = room

    def set_least_rtt(self, rtt: float) -> None:
        """The shortest round trip that a probe of the way has taken."""
        self.receiver.set_least_rtt(rtt)

    @property
    def counters(self) -> dict[str, int]:
        return self.receiver.counters | self.sender.counters

    def on_message(self, message: Repair, now: float) -> Outcome:
        if isinstance(message, Ask):
            return Outcome(self.sender.on_ask(message, now), [])
        if isinstance(message, Parity):
            self.keeping = True
            return Outcome([], self.receiver.on_parity(message, now))
        if isinstance(message, Stamp):
            self.receiver.on_stamp(message, now)
        else:
            self.sender.on_report(message, now)
        return Outcome([], [])

    def tick(self, now: float) -> list[bytes]:
        """Messages that are due."""
        messages = self.sender.tick(now) + self.receiver.tick(now)
        keeping = self.receiver.expects_parity(now)
        if keeping and not self.keeping:
            self._window.widen(WIDE)
        self.keeping = keeping
        return messages

    def expire(self, now: float) -> None:
        """Forget what is too old, also while nothing comes or goes."""
        self.sender.expire(now)
        self.receiver.expire(now)

    def wants_tick(self) -> bool:
        """Whether `tick` is wanted within TICK."""
        return bool(self.receiver.holes) or self.sender.is_busy() or self.receiver.is_busy()


__all__ = ["TICK", "Outcome", "SessionRepair"]
