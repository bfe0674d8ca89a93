"""Repair's part of the loop around the datagram path: what it sends beside the trains, when, and what it holds back.

Each session's rules are in session_repair.py; here is what carries them out for all sessions, between the engine's
sockets and the device. It runs in the packet thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from edgevpn.proto.datagram import Address
from edgevpn.proto.datagram_repair import read_repair_untrusted
from edgevpn.tun.datagram_link import DatagramLink, Session
from edgevpn.tun.session_repair import TICK, SessionRepair
from edgevpn.tun.train import MAX_SEND, Opener, ReceiveKey, seal_beside
from edgevpn.tun.twice import is_urgent

WriteFrame = Callable[[str, "memoryview | bytes"], bool]


class Engine(Protocol):
    """What this needs of the engine (datagram_engine.py)."""

    sessions: dict[int, tuple[DatagramLink, Session]]
    counters: dict[str, int]
    opener: Opener
    write: WriteFrame

    def send_datagrams(self, view: memoryview | bytes, length: int, address: Address) -> None: ...
    def on_control(self, key: ReceiveKey, data: bytes) -> None: ...


class RepairLoop:
    """Of all sessions. `heard`: those that something came on in this turn, and that have repair."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._awake: dict[int, tuple[DatagramLink, Session]] = {}  # they want to be ticked
        self._next_tick = 0.0
        self.heard: dict[int, tuple[DatagramLink, Session]] = {}

    def forget(self, number: int) -> None:
        """A session is over."""
        self._awake.pop(number, None)

    # --- out

    def note_sent(
        self,
        link: DatagramLink,
        session: Session,
        train: int,
        first: int,
        length: int,
        view: memoryview,
        now: float,
        *,
        each: bool,
    ) -> None:
        """Datagrams went out, see RepairSender.on_sent."""
        repair = session.repair
        if repair is not None:
            messages = repair.on_sent(train, first, length, view, now, each=each)
            if messages:
                self._send(link, session, messages)
            if repair.sender.is_busy():
                self.rouse(link, session, now)

    def note_urgent(self, link: DatagramLink, session: Session, frame: memoryview | bytes, sealed: memoryview) -> None:
        """This small frame goes out now."""
        sender = session.repair.sender if session.repair is not None else None
        if sender is not None and sender.plan.k and is_urgent(frame):
            sender.on_urgent(sealed, link.last_sent)
            self.rouse(link, session, link.last_sent)

    def _send(self, link: DatagramLink, session: Session, messages: list[bytes]) -> None:
        """Control messages beside the trains; those of one size that follow each other in one send."""
        if link.address is None:
            return
        engine = self._engine
        run: list[bytes] = []
        for message in messages:
            datagram = seal_beside(session.send, message)
            if run and (len(datagram) != len(run[0]) or (len(run) + 1) * len(datagram) > MAX_SEND):
                engine.send_datagrams(b"".join(run), len(run[0]), link.address)
                run = []
            run.append(datagram)
            engine.counters["beside_sent_bytes"] += len(datagram)
        engine.send_datagrams(b"".join(run), len(run[0]), link.address)

    def _send_as_they_are(self, link: DatagramLink, copies: list[bytes]) -> None:
        if link.address is None:
            return
        for copy in copies:
            self._engine.counters["beside_sent_bytes"] += len(copy)
            self._engine.send_datagrams(copy, len(copy), link.address)

    # --- time

    def rouse(self, link: DatagramLink, session: Session, now: float) -> None:
        """See to it that the session's repair is ticked."""
        if session.number not in self._awake:
            if not self._awake:
                self._next_tick = now + TICK
            self._awake[session.number] = link, session

    def on_timer(self) -> float | None:
        """Do what is due; seconds until the next call is wanted. Called by the packet thread each turn."""
        if not self._awake:
            return None
        now = time.monotonic()
        if now < self._next_tick:
            return self._next_tick - now
        self._next_tick = now + TICK
        for number, (link, session) in list(self._awake.items()):
            repair = session.repair
            if repair is None:
                continue
            messages = repair.tick(now)
            if messages:
                self._send(link, session, messages)
            self._send_as_they_are(link, repair.sender.again(now))
            self._write_held(link, repair, now)
            if not repair.wants_tick():
                del self._awake[number]
        return TICK if self._awake else None

    def end_turn(self, now: float) -> None:
        """Nothing more has come for now; most gaps were filled in the same turn."""
        for link, session in self.heard.values():
            if session.repair is not None and session.repair.receiver.holes:
                self.rouse(link, session, now)
            elif session.repair is not None:
                self._write_held(link, session.repair, now)
        self.heard.clear()

    # --- in

    def on_message_untrusted(self, link: DatagramLink, session: Session, data: bytes, now: float) -> None:
        """A message of the other side's repair. Raises UntrustedDataError."""
        repair, engine = session.repair, self._engine
        if repair is None:
            engine.counters["control_refused"] += 1
            return
        outcome = repair.on_message(read_repair_untrusted(data), now)
        self._send_as_they_are(link, outcome.copies)
        if outcome.messages:
            self._send(link, session, outcome.messages)
        for datagram in outcome.repaired:
            engine.opener.open_repaired(datagram, session.receive, self._on_mended, engine.on_control)
        if outcome.repaired:
            self._write_held(link, repair, now)
        self.rouse(link, session, now)

    def write(self, link: DatagramLink, repair: SessionRepair, frame: memoryview, now: float) -> bool:
        """While frames are held back: write this one, or hold it back behind a hole, too; whether it was taken."""
        if repair.receiver.holes and repair.held.takes(frame, now):
            return True
        written = self._engine.write(link.peer, frame)
        if not repair.receiver.holes:  # it closed the last one: it goes before those that waited for it
            self._write_held(link, repair, now)
        return written

    def _on_mended(self, key: ReceiveKey, frame: memoryview) -> None:
        """One that was lost: it goes before those that wait for it."""
        owner = self._engine.sessions.get(key.session)
        if owner is not None and self._engine.write(owner[0].peer, frame):
            stats = owner[0].stats
            stats.received_packets += 1
            stats.received_bytes += len(frame)

    def _write_held(self, link: DatagramLink, repair: SessionRepair, now: float) -> None:
        for frame in repair.released(now):
            self._engine.write(link.peer, memoryview(frame))
