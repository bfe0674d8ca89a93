"""What a node knows of the datagram path to one peer: sessions, ways, and when to ask, move and give up. Pure.

A way is an address of the peer's. It is used once it has answered a small probe, which tells that it lives, and a large
one; how large the datagrams may be that go there, edgevpn/tun/path_mtu.py finds out. Which one:

    no way answers      the path is not live: packets take another path; all candidates are probed, ever more seldom
    a way answered      live. A better one takes over when it answers: one that carries more (round trip at most twice
                        this one's), or as much with a round trip under 0.7 of this one's
    sending             a probe each second, or after 0.4 s in which nothing came. What comes proves the other
                        direction; only answers prove ours. No answer: all candidates are probed, and whichever answers
                        is taken (the peer or we have moved, or a NAT forgot us); after 0.6 s and three round trips
                        without any answer the path is not live
    idle                a probe each 25 s, which keeps NATs' mappings open

The peer's datagrams may come from an address we did not know: it becomes a candidate, and is probed before it is used.

A session is used for sending from the moment the peer has used it, so the peer has its keys. A new one is wanted 120 s
after that, as soon as there is something to send. An old one stays good for receiving for as long as the peer uses it:
where both sides made one at the same time, each sends by its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgevpn.proto.back_off import BackOff
from edgevpn.proto.datagram import OVERHEAD, Address, Answer, Probe, write_answer, write_probe
from edgevpn.proto.datagram_handshake import Agreed
from edgevpn.proto.datagram_repair import REPAIRS
from edgevpn.proto.packet_stream import VIRTIO_HEADER
from edgevpn.tun.path import PathStats
from edgevpn.tun.path_mtu import RETRY, SMALL, PathMtu, Phase
from edgevpn.tun.session_repair import SessionRepair
from edgevpn.tun.train import ReceiveKey, SendKey

REKEY_AFTER = 120.0
REKEY_TRAINS = 2**48
SESSION_LIFE = 1800.0  # of an idle one
_KEEP_UNUSED = 10.0  # one that the peer never used
_MAX_SESSIONS = 4
_MAX_CANDIDATES = 32
_SILENCE = 0.4
_ASK_AGAIN = 1.0  # while sending
_PROBE_AGAIN = 0.15
_GIVE_UP = 0.6
_RTT_GUESS = 0.1
_KEEPALIVE = 25.0
_KEEP_REPLACED = 3 * _KEEPALIVE  # one in whose place the peer uses others: what it sends by, it uses more often
_ROUND_FIRST, _SLOWER, _ROUND_MOST = 0.25, 1.5, 30.0
_BETTER, _WORTH_MORE = 0.7, 2.0
_MAX_OUTSTANDING = 256
_TOO_NARROW = "the way carries small datagrams only"
_HEADER_V4, _HEADER_V6 = 28, 48  # IP and UDP
_MAX_DATAGRAM = 65535 - _HEADER_V6
ACTIVE = 3.0  # seconds after a packet during which ticks are frequent
TICK = 0.1

ProbeToSend = tuple["Session", Address, bytes]


@dataclass(eq=False, slots=True)
class Session:
    """Keys both ways. `takes`: what super-packets the peer takes."""

    number: int
    made_at: float
    send: SendKey = field(repr=False)
    receive: ReceiveKey = field(repr=False)
    takes: int
    cipher: int
    initiated: bool
    confirmed: bool = False  # the peer has used it
    used_at: float = 0.0  # when the peer last did; before: when it was made
    repair: SessionRepair | None = None  # when both sides want it


class DatagramLink:
    """The state of one peer's datagram path. Times are a monotonic clock's seconds."""

    def __init__(self, peer: str, mtu: int, back_off: BackOff, now: float, *, repairs: bool = False) -> None:
        """`back_off`: between handshakes that fail. `repairs`: whether we do, when the peer does."""
        self.peer = peer
        self.stats = PathStats()
        self.address: Address | None = None
        self.rtt = self.least_rtt = 0.0
        self.reason = "no keys yet"
        self.sending: Session | None = None
        self.sessions: list[Session] = []
        self.last_sent = self.last_received = now - 10 * ACTIVE
        self.mtu = 0  # of the packets that may go as one datagram
        self.narrow = True  # whether that is less than the interface's
        self._interface = mtu
        self._full = min(mtu + VIRTIO_HEADER + OVERHEAD, _MAX_DATAGRAM)
        self._ways: dict[Address, PathMtu] = {}  # of the candidates
        self._repairs = repairs
        self.repair_counters: Counter[str] = Counter()  # of sessions that are gone
        self._back_off = back_off
        self._next_handshake = now
        self._candidates: dict[Address, float] = {}  # when each answered last; 0: never
        self._outstanding: dict[bytes, tuple[Address, float, int]] = {}  # where to, when, size
        self._last_answer = 0.0
        self._asked_since: float | None = None  # when the first probe went out to which there was no answer yet
        self._probed_at = 0.0
        self._round = _ROUND_FIRST
        self._next_round = now

    @property
    def is_live(self) -> bool:
        """Whether packets can go this way."""
        return self.mtu > 0 and self.sending is not None

    # --- sessions

    def add_session(self, agreed: Agreed, number: int, initiated: bool, now: float) -> tuple[Session, list[Session]]:
        """A handshake was done: its session, and those that it pushes out. `number`: what the peer will send us."""
        session = Session(
            number=number,
            made_at=now,
            send=SendKey(agreed.cipher, agreed.send_key, agreed.terms.session),
            receive=ReceiveKey(agreed.cipher, agreed.receive_key, number),
            takes=agreed.terms.flags,
            cipher=agreed.cipher,
            initiated=initiated,
            used_at=now,
        )
        if self._repairs and agreed.terms.flags & REPAIRS:
            repair = SessionRepair(
                session.receive.head, session.receive.window, self._room, self.least_rtt or _RTT_GUESS
            )
            session.repair = session.receive.arrivals = repair
            if self.sending is not None and self.sending.repair is not None:
                repair.sender.inherit(self.sending.repair.sender)
        self.sessions.append(session)
        self._next_handshake = now + 1.0 + self._back_off.next()  # if no way answers; else when the keys are old
        self.add_candidates(agreed.terms.candidates)
        self._round, self._next_round = _ROUND_FIRST, now
        if self.address is None:
            self.reason = "no way answers yet"
        unused = sorted((one for one in self.sessions[:-1] if one is not self.sending), key=lambda one: one.used_at)
        gone = unused[: max(0, len(self.sessions) - _MAX_SESSIONS)]
        self._drop(gone)
        return session, gone

    def _drop(self, gone: Sequence[Session]) -> None:
        self.sessions = [one for one in self.sessions if one not in gone]
        for session in gone:
            if session.repair is not None:
                self.repair_counters.update(session.repair.counters)

    def repairs(self) -> Counter[str] | None:
        """What became of what was lost, since the link was made; None where there is no repair."""
        running = [one.repair for one in self.sessions if one.repair is not None]
        if not running:
            return None
        total = Counter(self.repair_counters)
        for repair in running:
            total.update(repair.counters)
        return total

    def handshake_failed(self, now: float, reason: str) -> None:
        self.reason = self.reason if self.is_live else reason
        self._next_handshake = now + self._back_off.next()

    def wants_handshake(self, now: float) -> bool:
        """Whether to do one now. It is for the caller to say `handshake_began`."""
        if now < self._next_handshake:
            return False
        if not self.is_live or self.sending is None:
            return now - self.last_sent < 10 * ACTIVE or self.sending is None
        used_up = self.sending.send.train > REKEY_TRAINS
        old = now - self.sending.made_at > REKEY_AFTER * (1.0 if self.sending.initiated else 1.2)
        return (old or used_up) and (now - self.last_sent < 2 * TICK or now - self.sending.made_at > SESSION_LIFE)

    def leave_handshake_to_peer(self, now: float) -> None:
        """For a second: it is the peer's turn."""
        self._next_handshake = now + 1.0

    def handshake_began(self, now: float) -> None:
        self._next_handshake = now + 5.0

    # --- ways

    def add_candidates(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            if address not in self._candidates and address[1]:
                if len(self._candidates) >= _MAX_CANDIDATES:
                    worst = min(
                        (one for one in self._candidates if one != self.address), key=self._candidates.__getitem__
                    )
                    del self._candidates[worst]
                    self._ways.pop(worst, None)
                self._candidates[address] = 0.0

    def _way(self, address: Address) -> PathMtu:
        way = self._ways.get(address)
        if way is None:
            header = _HEADER_V6 if ":" in address[0] else _HEADER_V4
            way = PathMtu(self._full, header)
            if address in self._candidates:
                self._ways[address] = way
        return way

    @property
    def _room(self) -> int:
        """For a control message, bytes."""
        return (self.mtu or self._full - VIRTIO_HEADER - OVERHEAD) + VIRTIO_HEADER

    def _measure(self) -> bool:
        """Make the figures those of the way in use; whether they have changed."""
        way = self._ways.get(self.address) if self.address is not None else None
        mtu = max(0, way.size - VIRTIO_HEADER - OVERHEAD) if way is not None else 0
        if way is not None and not mtu:
            self.reason = _TOO_NARROW
        elif way is not None and self.reason == _TOO_NARROW:
            self.reason = "it carries large datagrams"
        if mtu == self.mtu:
            return False
        self.mtu = mtu
        self.narrow = mtu < self._interface
        for session in self.sessions:
            if session.repair is not None:
                session.repair.set_room(self._room)
        return True

    @property
    def told_mtu(self) -> int:
        """What others may be told that is narrow here, or 0: not what holds only until the search has ended."""
        way = self._ways.get(self.address) if self.narrow and self.address is not None else None
        return self.mtu if way is not None and way.phase is Phase.COMPLETE else 0

    def too_big(self, address: Address, size: int, now: float) -> bool:
        """The system refused to send a datagram of `size` bytes there. Whether the figures have changed."""
        way = self._ways.get(address)
        if way is not None:
            way.too_big(size, now)
        return self._measure()

    def on_received(self, session: Session, address: Address, now: float) -> bool:
        """A genuine datagram came. Whether something is to be done about it (tick soon)."""
        self.last_received = session.used_at = now
        if session.confirmed and address == self.address:
            return False
        news = False
        if not session.confirmed:
            session.confirmed = True
            if self.sending is None or session.made_at >= self.sending.made_at:
                self.sending = session
            news = True
        if address not in self._candidates:
            self.add_candidates([address])
            self._round, self._next_round = _ROUND_FIRST, now
            news = True
        elif address != self.address and now - self._probed_at > _ASK_AGAIN and self._moved_to(address, now):
            self._next_round = now
            news = True
        return news

    def _moved_to(self, address: Address, now: float) -> bool:
        """The peer sends from elsewhere than where we send to: worth a look when that is the better of the two."""
        return self.address is None or now - self._candidates.get(address, 0.0) > 1.0

    def answer_to(self, probe: Probe, address: Address) -> bytes:
        return write_answer(Answer(probe.number, address))

    def on_answer(self, answer: Answer, now: float) -> bool:
        """Whether the way has changed."""
        asked = self._outstanding.pop(answer.number, None)
        if asked is None:
            return False
        address, at, size = asked
        rtt = now - at
        if address not in self._candidates:
            return False  # it had to go meanwhile
        self._candidates[address] = now
        self._way(address).on_answer(size, at, now)
        self._back_off.reset()
        if address != self.address or not self.least_rtt or rtt < self.least_rtt:
            self.least_rtt = rtt
        if address == self.address:
            self.rtt = rtt if not self.rtt else 0.8 * self.rtt + 0.2 * rtt
            self._last_answer, self._asked_since = now, None
            return self._measure()
        in_doubt = self._asked_since is not None and now - self._asked_since > self._patience
        if self.address is not None and not in_doubt and not self._is_better(size, rtt):
            return False
        self.address, self.rtt, self.reason = (
            address,
            rtt,
            "it answered first" if self.address is None else "it is better",
        )
        self._last_answer, self._asked_since = now, None
        if size < self._way(address).size:  # the large probe went before the small one, and was not answered
            self._way(address).doubt()
        self._round = _ROUND_FIRST
        self._measure()
        return True

    def _is_better(self, proved: int, rtt: float) -> bool:
        """Whether another way, that has just answered a probe of `proved` bytes, is better than the one in use."""
        size = self.mtu + VIRTIO_HEADER + OVERHEAD if self.mtu else SMALL
        if proved == size:
            return rtt <= _BETTER * self.rtt
        return proved > size and (not self.mtu or rtt < _WORTH_MORE * self.rtt)

    @property
    def _patience(self) -> float:
        """How long an answer may take before other ways are tried."""
        return max(_PROBE_AGAIN, 2 * self.rtt)

    # --- time

    def tick(self, now: float) -> list[ProbeToSend]:
        """What is to be sent now."""
        self._forget(now)
        session = self.sending or (self.sessions[-1] if self.sessions else None)
        if session is None:
            return []
        newest = self.sessions[-1]
        if not newest.confirmed and newest.initiated and newest is not session:
            return self._probe(newest, [self.address] if self.address else list(self._candidates), now)
        if self.address is None:
            if now >= self._next_round:
                self._next_round = now + self._round
                self._round = min(_SLOWER * self._round, _ROUND_MOST)
                return self._probe(session, list(self._candidates), now)
            return []
        quiet = now - self.last_received
        if self._asked_since is not None:
            asked = now - self._asked_since
            if asked > _GIVE_UP + 3 * self.rtt:
                self._lose(now)
                return []
            return self._probe(session, list(self._candidates) if asked > self._patience else [self.address], now)
        if now - self.last_sent < ACTIVE and now - self._last_answer > _SILENCE:
            silent = self.last_sent > self.last_received and quiet > max(_SILENCE, 3 * self.rtt)
            if silent or now - self._last_answer > _ASK_AGAIN:
                self._asked_since = now
                return self._probe(session, [self.address], now)
        if self._next_round <= now and any(not at for at in self._candidates.values()) and self._round < _ROUND_MOST:
            self._next_round = now + self._round
            self._round = _SLOWER * self._round
            return self._probe(session, [one for one, at in self._candidates.items() if not at], now)
        way = self._way(self.address)
        if now - self._last_answer > _KEEPALIVE or way.is_due(now, self._patience, self._is_active(now)):
            self._asked_since = now
            return self._probe(session, [self.address], now)
        return []

    def _is_active(self, now: float) -> bool:
        return now - self.last_sent < ACTIVE

    def next_tick(self, now: float) -> float:
        """Seconds until a tick has something to do."""
        if not self.sessions:
            return TICK if now < self._next_handshake < now + ACTIVE else _KEEPALIVE
        if now - self.last_sent < ACTIVE or self._asked_since is not None:
            return TICK
        if self.address is None:
            return max(TICK, self._next_round - now)
        if any(not one.confirmed for one in self.sessions):
            return _ROUND_FIRST
        if self._way(self.address).phase not in (Phase.COMPLETE, Phase.ERROR):
            return TICK
        if not self.mtu:
            return RETRY
        return max(TICK, _KEEPALIVE - (now - self._last_answer))

    def _lose(self, now: float) -> None:
        self.address, self.reason = None, "the peer fell silent"
        self._asked_since = None
        self._measure()
        self._round, self._next_round = _ROUND_FIRST, now
        self._next_handshake = min(self._next_handshake, now)

    def _probe(self, session: Session, addresses: Sequence[Address], now: float) -> list[ProbeToSend]:
        if now - self._probed_at < _PROBE_AGAIN:
            return []
        self._probed_at = now
        probes: list[ProbeToSend] = []
        for address in addresses:
            for size in self._sizes(address, now):
                number = os.urandom(8)
                while len(self._outstanding) >= _MAX_OUTSTANDING:
                    del self._outstanding[next(iter(self._outstanding))]
                self._outstanding[number] = address, now, size
                probes.append((session, address, write_probe(Probe(number), size)))
        return probes

    def _sizes(self, address: Address, now: float) -> list[int]:
        """Of the probes for a way: what is to be found out about its size, and a small one last."""
        way = self._way(address)
        small = min(SMALL, self._full)
        if not way.size and not self._candidates.get(address):
            return list(dict.fromkeys((*way.first(), small)))
        if address != self.address:
            return list(dict.fromkeys((way.size or way.full, small)))
        wanted = way.step(now, self._patience, self._is_active(now))
        return [small] if wanted is None or wanted == small else [wanted, small]

    def _forget(self, now: float) -> None:
        """Sessions that the peer has left for others, or never used."""
        used = max((one.used_at for one in self.sessions if one.confirmed), default=now)
        gone = [
            one
            for one in self.sessions
            if one is not self.sending
            and (used - one.used_at > _KEEP_REPLACED if one.confirmed else now - one.made_at > _KEEP_UNUSED)
        ]
        if gone:
            self._drop(gone)
