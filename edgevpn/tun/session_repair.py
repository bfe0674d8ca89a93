"""Both sides of repair for one session, and what they want sent. Pure; datagram_engine.py calls it.

What is returned is messages to be sealed and sent, and whole datagrams to be sent as they are (copies) or opened
(brought back by parity).
"""

from __future__ import annotations

from typing import NamedTuple

from edgevpn.proto.datagram_repair import Ask, Parity, Repair, Stamp
from edgevpn.tun.held_back import HeldBack
from edgevpn.tun.repair_receiver import TICK, RepairReceiver
from edgevpn.tun.repair_sender import RepairSender
from edgevpn.tun.replay import WIDE, ReplayWindow


class Outcome(NamedTuple):
    """Of a message: to send as they are; to open; to be sealed and sent."""

    copies: list[bytes]
    repaired: list[bytes]
    messages: list[bytes]


class SessionRepair:
    """Is told of all that goes out and comes in (`on_sent`, `on_run`)."""

    def __init__(self, head: bytes, window: ReplayWindow, room: int, rtt: float, *, codes: bool = True) -> None:
        """`head`, `window`: of the receiving key; `room`: bytes of a control message; `rtt`: a first guess.

        `codes`: whether the peer understands more parities of a group than the XOR.
        """
        self.receiver = receiver = RepairReceiver(head, room, rtt)
        self.sender = RepairSender(room, rtt, codes=codes, arrived=lambda: receiver.received)
        self.keeping = False
        self.receiver.on_hole = self._on_hole
        self.held = HeldBack()
        self._window = window
        self._wide = False
        self.on_run = self.receiver.on_run
        self.on_sent = self.sender.on_sent
        self.on_lone = self.sender.on_lone

    def _on_hole(self, now: float) -> None:
        if self.sender.is_quick:
            return  # the other side keeps nothing either
        self.keeping = True
        if self.receiver.is_alone(now):  # parity is faster than TCP, and a late packet looks like a queue
            self.held.begin(now)

    def released(self, now: float) -> list[bytes]:
        """Frames that were held back and are to be written now. Ask after each tick, and when something was filled."""
        held, receiver = self.held, self.receiver
        if not held.until:
            return []
        asked = receiver.asked_at >= held.since
        if now < held.until and not asked and receiver.has_hole_since(held.since):
            return []
        return held.end()

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
            copies, messages = self.sender.on_ask(message, now)
            return Outcome(copies, [], messages)
        if isinstance(message, Parity):
            self.keeping = True
            if not self._wide:
                self._window.widen(WIDE)
                self._wide = True
            return Outcome([], self.receiver.on_parity(message, now), [])
        if isinstance(message, Stamp):
            self.receiver.on_stamp(message, now)
        else:
            self.sender.on_report(message, now)
        return Outcome([], [], [])

    def tick(self, now: float) -> list[bytes]:
        """Messages that are due."""
        messages = self.receiver.tick(now)
        if self.receiver.asked_at == now:
            self.sender.on_loss_there(now)
        return messages + self.sender.tick(now)

    def expire(self, now: float) -> None:
        """Forget what is too old, also while nothing comes or goes."""
        self.sender.expire(now)
        self.receiver.expire(now)

    def wants_tick(self) -> bool:
        """Whether `tick` is wanted within TICK."""
        return bool(self.held.until) or bool(self.receiver.holes) or self.sender.is_busy() or self.receiver.is_busy()


__all__ = ["TICK", "Outcome", "SessionRepair"]
