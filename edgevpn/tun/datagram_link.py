"""What a node knows of the datagram path to one peer: sessions, ways, and when to ask, move and give up. Pure.

A way is an address of the peer's (edgevpn/tun/way.py). It is used once it has answered a small probe, which tells that
it lives, and a large one; how large the datagrams may be that go there, edgevpn/tun/path_mtu.py finds out. Which one:

    no way answers      the path is not live: packets take another path; all candidates are probed, ever more seldom
    a way answered      live. A better one takes over: one that carries more as soon as it answers (its round trip at
                        most twice this one's); one that costs less (round trip and loss) by three tenths and half a
                        millisecond, steadily, not sooner than HOLD after the last move
    sending             a probe each 0.6 s, or after 0.2 s in which nothing came. What comes proves the other
                        direction; only answers prove ours. The best of the other ways is asked each second, too, so
                        that it is warm
    in doubt            no answer, or the peer sends from elsewhere, or our own addresses have changed, or the system
                        refuses to send: this way, the second and the one the peer sends from are asked each 0.07 s.
                        After 0.15 s and three round trips the best of those that have answered takes over, and all
                        candidates are asked; after 0.6 s and three round trips without any answer the path is not live
    idle                a probe of this way and the second each 25 s, which keeps NATs' mappings open
    idle, and no way    has answered on three sessions: a few small probes with each new session, each five minutes

The peer's datagrams may come from an address we did not know: it becomes a candidate, and is probed before it is used.

A session is used for sending from the moment the peer has used it, so the peer has its keys. A new one is wanted 120 s
after that, as soon as there is something to send, or when `renew` asks for it. An old one stays good for receiving for
as long as the peer uses it: where both sides made one at the same time, each sends by its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgevpn.proto.back_off import BackOff
from edgevpn.proto.datagram import OVERHEAD, Address, Answer, Probe, write_answer, write_probe
from edgevpn.proto.datagram_handshake import Agreed
from edgevpn.proto.datagram_repair import CODES, REPAIRS
from edgevpn.proto.packet_stream import VIRTIO_HEADER
from edgevpn.tun.path import PathStats
from edgevpn.tun.path_mtu import RETRY, SMALL, Phase
from edgevpn.tun.session_repair import SessionRepair
from edgevpn.tun.train import ReceiveKey, SendKey
from edgevpn.tun.way import Outstanding, Way, compared, is_one_host

REKEY_AFTER = 120.0
REKEY_TRAINS = 2**48
SESSION_LIFE = 1800.0  # of an idle one
_INTRODUCING = 0.5  # seconds in which a new one is all that is probed by
_KEEP_UNUSED = 10.0  # one that the peer never used
_MAX_SESSIONS = 4
_MAX_CANDIDATES = 32
_SILENCE = 0.2  # while sending
_ASK_AGAIN = 1.0
_PROBE_AGAIN = 0.07
_PATIENCE = 0.15
_GIVE_UP = 0.6
_RTT_GUESS = 0.1
_MUCH = 16  # packets
_KEEPALIVE = 25.0
_WARM = 1.0  # seconds between probes of the second, while sending
_REVIEW = 30.0  # of all that have ever answered
_HOLD = 10.0
_STEADY = 5.0  # for so long a way must be better
_KEEP_REPLACED = 3 * _KEEPALIVE  # one in whose place the peer uses others: what it sends by, it uses more often
_ROUND_FIRST, _SLOWER, _ROUND_MOST = 0.25, 1.5, 30.0
_ROUND_WANTED = 5.0  # the most while packets wait for a way
_IN_VAIN = 3  # sessions on which no way has answered: then idle links try with little, and seldom
_ROUND_IN_VAIN, _HANDSHAKE_SELDOM = 2.0, 5.0  # the first pause; by so much longer are those between handshakes
_HANDSHAKE_AGAIN = 30.0  # seconds after the last, when packets come for such a link
_WORTH_MORE, _LOSSY = 2.0, 0.1
_TOO_NARROW = "the way carries small datagrams only"
_MAX_DATAGRAM = 65535 - 48  # what IP and UDP take
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
        self._ways: dict[Address, Way] = {}  # all candidates
        self._way: Way | None = None  # the one in use
        self.second: Way | None = None
        self.observed: dict[bool, Address] = {}  # where the peer sees us, by IPv6
        self.moves = 0
        self._repairs = repairs
        self.repair_counters: Counter[str] = Counter()  # of sessions that are gone
        self._back_off = back_off
        self._next_handshake = now
        self._renew = False
        self._vouched_for = 0  # bytes sent by when the size was doubted last
        self._outstanding = Outstanding()
        self._last_answer = 0.0
        self._asked_since: float | None = None  # since when there is doubt: the first probe without an answer yet
        self._refused = False  # by the system
        self._elsewhere: Way | None = None  # that the peer sent from last, if not the one in use
        self._better: Way | None = None  # that has been cheaper, and since when
        self._elsewhere_at = self._better_since = self._looked_at = self._probed_at = self._hold_until = (
            self._reviewed
        ) = 0.0
        self._round = _ROUND_FIRST
        self._next_round = now
        self._in_vain = 0  # sessions made since a way last answered, or there was anything new to try
        self._session_made = now

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
            rtt, codes = self.least_rtt or _RTT_GUESS, bool(agreed.terms.flags & CODES)
            repair = SessionRepair(session.receive.head, session.receive.window, self._room, rtt, codes=codes)
            session.repair = session.receive.arrivals = repair
            if self.sending is not None and self.sending.repair is not None:
                repair.sender.inherit(self.sending.repair.sender)
        self.sessions.append(session)
        self.add_candidates(agreed.terms.candidates)
        in_vain = self._is_in_vain(now)
        pause = self._back_off.next() * (_HANDSHAKE_SELDOM if in_vain else 1.0)
        self._next_handshake = now + 1.0 + pause  # if no way answers; else when the keys are old
        self._renew = False
        self._round, self._next_round = _ROUND_IN_VAIN if in_vain else _ROUND_FIRST, now
        self._in_vain += 1
        self._session_made = now
        if self.address is None:
            self.reason = "no way answers yet"
        unused = sorted((one for one in self.sessions[:-1] if one is not self.sending), key=lambda one: one.used_at)
        gone = unused[: max(0, len(self.sessions) - _MAX_SESSIONS)]
        self._drop(gone)
        return session, gone

    def _is_in_vain(self, now: float) -> bool:
        """Whether no way has answered for long, and nobody waits for one: the peer is behind a relay for good."""
        return self._way is None and self._in_vain >= _IN_VAIN and now - self.last_sent > 10 * ACTIVE

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
        if self._renew:
            return True
        old = now - self.sending.made_at > REKEY_AFTER * (1.0 if self.sending.initiated else 1.2)
        return (old or used_up) and (now - self.last_sent < 2 * TICK or now - self.sending.made_at > SESSION_LIFE)

    def renew(self, now: float) -> None:
        """Make a new session as soon as may be, which also tells the peer our candidates."""
        self._renew = True
        self._next_handshake = now
        self._in_vain = 0

    def leave_handshake_to_peer(self, now: float) -> None:
        """For a second: it is the peer's turn."""
        self._next_handshake = now + 1.0

    def handshake_began(self, now: float) -> None:
        self._next_handshake = now + 5.0

    # --- ways

    def add_candidates(self, addresses: Sequence[Address]) -> None:
        for address in addresses:
            if address in self._ways or not address[1] or not is_one_host(address[0]):
                continue
            if len(self._ways) >= _MAX_CANDIDATES:
                kept = (self._way, self.second)
                worst = min((one for one in self._ways.values() if one not in kept), key=lambda one: one.answered)
                del self._ways[worst.address]
            self._ways[address] = Way(address, self._full)
            self._in_vain = 0

    def has_way(self, address: Address) -> bool:
        return address in self._ways

    @property
    def _room(self) -> int:
        """For a control message, bytes."""
        return (self.mtu or self._full - VIRTIO_HEADER - OVERHEAD) + VIRTIO_HEADER

    def _measure(self) -> bool:
        """Make the figures those of the way in use; whether they have changed."""
        way = self._way
        mtu = max(0, way.mtu.size - VIRTIO_HEADER - OVERHEAD) if way is not None else 0
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
        way = self._way if self.narrow else None
        return self.mtu if way is not None and way.mtu.phase is Phase.COMPLETE else 0

    def too_big(self, address: Address, size: int, now: float) -> bool:
        """The system refused to send a datagram of `size` bytes there. Whether the figures have changed."""
        way = self._ways.get(address)
        if way is not None:
            way.mtu.too_big(size, now)
        return self._measure()

    def refused(self, address: Address, now: float) -> bool:
        """The system does not send there at all. Whether something is to be done about it (tick soon)."""
        way = self._ways.get(address)
        if way is not None:
            way.refused = now
        if self._refused or address != self.address:
            return False
        self._refused = True
        self.look(now)
        return True

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
        if address == self.address:
            return news
        self._elsewhere_at = now
        way = self._ways.get(address)
        if way is None:
            self.add_candidates([address])
            way = self._ways.get(address)
            if way is None:
                return news
        is_news = self._elsewhere is not way or now - max(way.answered, way.asked) > _ASK_AGAIN
        if is_news and now - self._looked_at > _SILENCE:
            self._elsewhere = way
            self.look(now)
            return True
        return news

    def look(self, now: float) -> None:
        """Something has changed, here or there: ask at once, at the next tick."""
        self._looked_at = now
        self._probed_at = 0.0
        self._round, self._next_round = _ROUND_FIRST, now
        if self._way is None and self._in_vain >= _IN_VAIN:
            self._next_handshake = min(self._next_handshake, max(now, self._session_made + _HANDSHAKE_AGAIN))
        if self._way is not None and self._asked_since is None:
            self._asked_since = now

    def answer_to(self, probe: Probe, address: Address) -> bytes:
        return write_answer(Answer(probe.number, address))

    def on_answer(self, answer: Answer, now: float) -> bool:
        """Whether the way has changed."""
        asked = self._outstanding.take(answer.number)
        if asked is None:
            return False
        way, at, size = asked
        if self._ways.get(way.address) is not way:
            return False  # it had to go meanwhile
        self.observed[":" in answer.observed[0]] = answer.observed
        self._in_vain = 0
        way.on_answer(size, at, now)
        self._back_off.reset()
        if way is self._way:
            self.rtt = way.rtt
            self._set_least_rtt(min(self.least_rtt or way.least, way.least))
            self._last_answer, self._asked_since, self._refused = now, None, False
            return self._measure()
        in_doubt = self._asked_since is not None and (self._refused or now - self._asked_since > self._patience)
        if self._way is None:
            self._take(way, "it answered first", now)
        elif in_doubt:
            self._take(way, self._why_left(), now)
        elif self._is_better(way, size, now):
            self._take(way, compared(way, self._way), now)
        else:
            self._consider_as_second(way, now)
            return False
        if size < way.mtu.size:  # the large probe went before the small one, and was not answered
            way.mtu.doubt()
            self._measure()
        return True

    def _why_left(self) -> str:
        return "the system does not send by the one before" if self._refused else "the one before fell silent"

    def _take(self, way: Way, reason: str, now: float) -> None:
        """Use this way from now on."""
        before = self._way
        if before is None:
            way.begin_anew()
        else:
            self.moves += 1
        self._way, self.address, self.reason = way, way.address, reason
        self.rtt = way.rtt
        self._set_least_rtt(way.least)
        self._last_answer, self._asked_since, self._refused = max(way.answered, self._last_answer), None, False
        self._hold_until = now + (2 * _WARM if before is None else _HOLD)
        self._round = _ROUND_FIRST
        self.second = self._best_other(now - 2 * _WARM)
        if not way.carries_its_size(now):
            way.mtu.doubt()
        self._measure()

    def _set_least_rtt(self, least_rtt: float) -> None:
        if least_rtt != self.least_rtt:
            self.least_rtt = least_rtt
            for session in self.sessions:
                if session.repair is not None:
                    session.repair.set_least_rtt(least_rtt)

    def _is_better(self, way: Way, proved: int, now: float) -> bool:
        """Whether another way, that has just answered a probe of `proved` bytes, is better than the one in use."""
        size = self.mtu + VIRTIO_HEADER + OVERHEAD if self.mtu else SMALL
        if proved > size:
            return not self.mtu or (way.rtt < _WORTH_MORE * self.rtt and way.loss < _LOSSY)
        used = self._way
        known = used is not None and way.is_known and used.is_known and way.carries_its_size(now)
        if used is None or not known or way.mtu.size < size or way.rtt > used.rtt or not way.is_cheaper(used):
            if self._better is way:
                self._better = None
            return False
        if self._better is not way:
            self._better, self._better_since = way, now
        return now > max(self._hold_until, self._better_since + _STEADY)

    def _best_other(self, since: float) -> Way | None:
        """The best but for the one in use of those that have answered since then."""
        others = [
            one for one in self._ways.values() if one is not self._way and one.answered > max(since, 0.0, one.refused)
        ]
        return min(others, key=lambda one: (not one.mtu.size, one.cost), default=None)

    def _consider_as_second(self, way: Way, now: float) -> None:
        second = self.second
        gone = second is None or second is self._way or now - second.answered > 3 * _WARM
        if gone or second is None or (way.is_known and way.is_cheaper(second)):
            self.second = way

    @property
    def _patience(self) -> float:
        """How long an answer may take before another way is taken."""
        return max(_PATIENCE, 3 * self.rtt)

    @property
    def _large_patience(self) -> float:
        """How long an answer to a large probe may take when a small one was answered."""
        return max(0.15, 2 * self.rtt)

    # --- time

    def tick(self, now: float) -> list[ProbeToSend]:
        """What is to be sent now."""
        self._forget(now)
        self._outstanding.expire(now)
        session = self.sending or (self.sessions[-1] if self.sessions else None)
        if session is None:
            return []
        newest, way, active = self.sessions[-1], self._way, self._is_active(now)
        is_new = not newest.confirmed and newest.initiated and newest is not session
        if is_new and now - newest.made_at < _INTRODUCING:
            return self._probe(newest, [way] if way else list(self._ways.values()), now)
        if way is None:
            if now < self._next_round:
                return []
            self._next_round = now + self._round
            self._round = min(_SLOWER * self._round, _ROUND_WANTED if active else _ROUND_MOST)
            return self._probe(session, list(self._ways.values()), now)
        if session.repair is not None and session.repair.sender.is_stuck:
            session.repair.sender.is_stuck = False
            way.mtu.suspect()
        if self._asked_since is not None:
            return self._tick_in_doubt(session, way, now - self._asked_since, now)
        if active and self._is_silent(now):
            self._asked_since = now
            if self.stats.sent_bytes - self._vouched_for > _MUCH * self.mtu:
                way.mtu.suspect()
                self._vouched_for = self.stats.sent_bytes
            return self._probe(session, [way], now)
        silent = [one for one in self._ways.values() if not one.answered]
        if self._next_round <= now and silent and self._round < _ROUND_MOST:
            self._next_round = now + self._round
            self._round = _SLOWER * self._round
            return self._probe(session, silent, now)
        return self._probe(session, self._due(way, active, now), now)

    def _tick_in_doubt(self, session: Session, way: Way, asked: float, now: float) -> list[ProbeToSend]:
        late = asked > self._patience
        if late or self._refused:
            other = self._best_other(now - asked - 2 * _WARM if self._refused else now - asked)
            if other is not None:
                self._take(other, self._why_left(), now)
                return self._probe(session, [other], now)
        if asked > (_PATIENCE if self._refused else _GIVE_UP) + 3 * self.rtt:
            self._lose(now)
            return []
        if late:
            return self._probe(session, list(self._ways.values()), now)
        if now - self._probed_at < 1.1 * self.rtt:
            return []
        asking = dict.fromkeys(one for one in (way, self.second, self._elsewhere) if one is not None)
        return self._probe(session, list(asking), now)

    def _is_silent(self, now: float) -> bool:
        """While sending: whether it is time to ask, since nothing tells that the way lives."""
        if now - self._last_answer <= _SILENCE:
            return False
        here = self._last_answer if self._elsewhere_at >= self.last_received else self.last_received
        silent = self.last_sent > here and now - here > max(_SILENCE, 3 * self.rtt)
        return silent or now - self._last_answer > _ASK_AGAIN

    def _due(self, way: Way, active: bool, now: float) -> list[Way]:
        """What is to be asked in peace."""
        asking: list[Way] = []
        if now - self._last_answer > _KEEPALIVE or way.mtu.is_due(now, self._large_patience, active):
            self._asked_since = now
            asking.append(way)
        second = self.second
        if second is not None and (now - second.asked > _WARM if active else asking):
            asking.append(second)
        if active and now - self._reviewed > _REVIEW:
            self._reviewed = now
            asking += [one for one in self._ways.values() if one not in (way, second)]
        return asking

    def _is_active(self, now: float) -> bool:
        return now - self.last_sent < ACTIVE

    def next_tick(self, now: float) -> float:
        """Seconds until a tick has something to do."""
        if not self.sessions:
            return TICK if now < self._next_handshake < now + ACTIVE else _KEEPALIVE
        if self._asked_since is not None:
            return TICK / 2
        if self._way is None:
            return max(TICK, self._next_round - now)
        if self._is_active(now):
            return TICK
        if any(not one.confirmed for one in self.sessions):
            return _ROUND_FIRST
        if self._way.mtu.phase not in (Phase.COMPLETE, Phase.ERROR):
            return TICK
        if not self.mtu:
            return RETRY
        return max(TICK, _KEEPALIVE - (now - self._last_answer))

    def _lose(self, now: float) -> None:
        self._way = self.second = self.address = self._asked_since = self._elsewhere = self._better = None
        self._refused, self.reason = False, "the peer fell silent"
        self._measure()
        self._round, self._next_round = _ROUND_FIRST, now
        self._next_handshake = min(self._next_handshake, now)

    def _probe(self, session: Session, ways: Sequence[Way], now: float) -> list[ProbeToSend]:
        if now - self._probed_at < _PROBE_AGAIN or not ways:
            return []
        self._probed_at = now
        return [
            (session, way.address, write_probe(Probe(self._outstanding.add(way, size, now)), size))
            for way in ways
            for size in self._sizes(way, now)
        ]

    def _sizes(self, way: Way, now: float) -> list[int]:
        """Of the probes for a way: what is to be found out about its size, and a small one last."""
        small = min(SMALL, self._full)
        if not way.mtu.size and not way.answered:
            if self._way is None and (self._round > _ROUND_WANTED or self._is_in_vain(now)):
                return [small]  # nobody waits for it: what it carries is asked for when it has answered
            return list(dict.fromkeys((*way.mtu.first(), small)))
        if way is not self._way:
            if way.mtu.size and not self._is_active(now):
                return [small]  # whether it lives; what it carries is asked again as soon as packets go
            return list(dict.fromkeys((way.mtu.size or way.mtu.full, small)))
        wanted = way.mtu.step(now, self._large_patience, self._is_active(now))
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
