"""The loop around the datagram path: the UDP sockets, every peer's link, and what goes between them and the device.

It runs in the packet thread; what trio calls takes the thread's lock (`PacketThread.paused`). Frames come in the
sealer's buffer and leave in the same turn: nothing is queued here but in the socket's buffer, and when that is full for
longer than WAIT the packet is lost, as in any router.
"""

from __future__ import annotations

import errno
import random
import secrets
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.back_off import BackOff
from edgevpn.proto.datagram import OVERHEAD, SEVERAL, Address, Probe, read_control_untrusted
from edgevpn.proto.datagram_handshake import Agreed
from edgevpn.proto.datagram_repair import is_repair
from edgevpn.proto.packet_stream import PLAIN, TAKES_TCP, TAKES_UDP, VIRTIO_HEADER
from edgevpn.proto.too_big import fragment, too_big_answer
from edgevpn.tun import virtio
from edgevpn.tun.datagram_link import ACTIVE, TICK, DatagramLink, Session
from edgevpn.tun.fit import MAX_SYN, Fit, clamp_mss, fit, udp_ends
from edgevpn.tun.pace import COALESCE, COALESCE_SMALL, MUCH, Pace
from edgevpn.tun.repair_loop import RepairLoop, WriteFrame
from edgevpn.tun.train import EARLY, MAX_SEGMENTS, MAX_SEND, Opener, ReceiveKey, Sealer, seal_beside, seal_one
from edgevpn.tun.twice import LARGEST
from edgevpn.tun.udp_socket import UDP_GRO, UDP_SEGMENT, waited

WAIT: Final = 5  # milliseconds for room in the socket's buffer
_RECEIVES_A_TURN = 64
_BYTES_A_TURN = 8 * 65536
_LONGEST, _STANDING = 0.1, 0.5  # seconds that something may lie in a socket's buffer, once that has lasted so long
_DROPPED_AT_ONCE = 8
_OFTEN = 24  # receives in a spell
_SMALL = 2048  # bytes of a datagram by itself
_MAX_LINKS = 4096
MOST_OBSERVED: Final = 4
_HANDSHAKE_FIRST, _HANDSHAKE_MOST = 0.25, 60.0
_ANSWERS_AT_ONCE, _ANSWERS_A_SECOND = 20, 20  # ICMP, to our own side
_NO_WAY = frozenset(
    (
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.ENODEV,
        errno.EPERM,
        errno.EACCES,
    )
)
_INT = struct.Struct("=i")
_U16 = struct.Struct("=H")


class Lone(IntEnum):
    """What became of a datagram that came first: left to the long way; taken; taken, and no other is likely."""

    LEFT, TAKEN, ALL = range(3)


LEFT, TAKEN, ALL = Lone


class DatagramEngine:
    """Sends and receives for all links. `live`: those that packets can take now, by peer."""

    def __init__(
        self,
        sockets: Mapping[int, socket.socket],
        mtu: int,
        wake: Callable[[], None],
        *,
        repairs: bool = False,
    ) -> None:
        """`sockets`: by address family. `wake` asks for a tick, soon. Who has the device sets `write` and `on_small`.

        `repairs`: whether lost datagrams are repaired with peers that do it, too.
        """
        self.sockets = sockets
        self._own_ports = {sock.getsockname()[1] for sock in sockets.values()}
        self.write: WriteFrame = lambda _peer, _frame: False  # gives the device a peer's frame; whether it took it
        self._mtu = mtu
        self._wake = wake
        self._with_repair = repairs
        self.repairs = RepairLoop(self)
        self._segment_size: dict[int, Sequence[tuple[int, int, bytes]]] = {}
        self.sessions: dict[int, tuple[DatagramLink, Session]] = {}
        self.keys: dict[int, ReceiveKey] = {}
        self.on_small: Callable[[float], None] = lambda _now: None  # after a small packet: it may be answered
        self.take_lone: Callable[[int, tuple[Any, ...]], Lone] = lambda _size, _source: LEFT  # edgevpn/tun/lone.py
        self._may_be_answered = False
        self.sealer = Sealer()
        self.opener = Opener()
        self._into = [self.opener.view[:65536]]
        self._scrap = bytearray(1)
        for sock in sockets.values():
            waited(sock)  # from now on the kernel takes times
        self.links: dict[str, DatagramLink] = {}
        self.live: dict[str, DatagramLink] = {}
        self.counters = {
            "datagrams_not_sent": 0,
            "receives_too_late": 0,
            "control_refused": 0,
            "packets_fragmented": 0,
            "too_big_answered": 0,
            "beside_sent_bytes": 0,  # probes, answers, and what repair sends
            "beside_received_bytes": 0,
        }
        self._answers = float(_ANSWERS_AT_ONCE)  # left
        self._answered_at = 0.0
        # the run of small frames that is being collected: for whom, from where, size of each
        self._run_link: DatagramLink | None = None
        self._run_session: Session | None = None
        self._run_end = self._run_length = self.run_count = 0
        self._from: Address = ("", 0)
        self._gathering = False
        self._pace = Pace(_OFTEN)  # of what comes
        self._sent_lately = 0
        self._late_since = 0.0
        self.now = 0.0

    # --- links, from trio

    def link(self, peer: str, now: float) -> DatagramLink:
        """The peer's link, made when it is new."""
        found = self.links.get(peer)
        if found is None:
            if len(self.links) >= _MAX_LINKS:
                self.remove(next(iter(self.links)))
            back_off = BackOff(_HANDSHAKE_FIRST, _HANDSHAKE_MOST, random.Random())  # noqa: S311
            found = self.links[peer] = DatagramLink(peer, self._mtu, back_off, now, repairs=self._with_repair)
        return found

    def remove(self, peer: str) -> None:
        link = self.links.pop(peer, None)
        self.live.pop(peer, None)
        if link is not None:
            self._sync(link)

    def new_number(self) -> int:
        """A session number that is free."""
        while True:
            number = secrets.randbits(32)
            if number and number not in self.sessions:
                return number

    def add_session(self, peer: str, agreed: Agreed, number: int, *, initiated: bool) -> None:
        now = time.monotonic()
        link = self.link(peer, now)
        link.add_session(agreed, number, initiated, now)
        self._sync(link)
        if initiated:
            self.tick_link(link, now)

    def _sync(self, link: DatagramLink) -> None:
        """Make the tables agree with a link's sessions."""
        for number, (owner, session) in list(self.sessions.items()):
            if owner is link and (session not in link.sessions or self.links.get(link.peer) is not link):
                del self.sessions[number], self.keys[number]
                self.repairs.forget(number)
        if self.links.get(link.peer) is link:
            for session in link.sessions:
                self.sessions[session.number] = link, session
                self.keys[session.number] = session.receive

    def tick(self) -> float:
        """Send the probes that are due; seconds until the next tick."""
        now = time.monotonic()
        pause = 25.0
        for link in list(self.links.values()):
            self.tick_link(link, now)
            pause = min(pause, link.next_tick(now))
        return max(TICK / 2, pause)

    def look(self) -> None:
        """This machine's addresses or routes have changed: ask at once whether the ways still work."""
        now = time.monotonic()
        for link in self.links.values():
            link.look(now)

    def tick_link(self, link: DatagramLink, now: float) -> None:
        before = len(link.sessions)
        for one in link.sessions:
            if one.repair is not None:
                one.repair.expire(now)
        for session, address, plaintext in link.tick(now):
            self._send_bytes(self._seal(session, plaintext), address)
        if len(link.sessions) != before:
            self._sync(link)
        self._show(link)

    def _show(self, link: DatagramLink) -> None:
        if link.is_live:
            self.live[link.peer] = link
        else:
            self.live.pop(link.peer, None)

    def wanted(self, peer: str) -> None:
        """Packets for this peer went another way: look for one for datagrams more often."""
        link = self.links.get(peer)
        if link is not None and not link.is_live:
            now = time.monotonic()
            if now - link.last_sent > ACTIVE:
                link.look(now)
                self._wake()
            link.last_sent = now

    def observed(self) -> list[Address]:
        """Where peers see us, what most of them say first; a few."""
        told = Counter(address for link in list(self.links.values()) for address in link.observed.values())
        return [address for address, _ in told.most_common(MOST_OBSERVED)]

    def is_own(self, frame: memoryview | bytearray) -> bool:
        """Whether the device gave us a datagram of our own: from our port to where a peer may be reached."""
        ends = udp_ends(frame)
        if ends is None or ends[0] not in self._own_ports:
            return False
        return any(link.has_way((ends[1], ends[2])) for link in self.links.values())

    # --- out

    def send(self, link: DatagramLink, size: int) -> bool:
        """Send the frame in sealer.frame[:size] to a live link. False: it does not fit this path."""
        session, address = link.sending, link.address
        if session is None or address is None:
            return False
        now = time.monotonic()
        self._note_use(link, now)
        sealer = self.sealer
        if link.narrow:
            if not link.mtu:
                return False
            outcome = fit(sealer.buffer, size, link.mtu)
            if outcome is not Fit.FITS:
                return self._send_unfit(link, session, size, outcome, now)
            if size <= MAX_SYN and link.told_mtu:
                clamp_mss(sealer.buffer, size, link.mtu)
        if not sealer.buffer[1]:
            self._add_small(link, session, sealer.frame[:size])
        else:
            wanted = TAKES_UDP if sealer.buffer[1] & 0x7F == virtio.GSO_UDP else TAKES_TCP
            try:
                if not session.takes & wanted or not self._send_train(link, session, address, size, now):
                    self._send_cut(link, session, bytes(sealer.frame[:size]))
            except UntrustedDataError:
                link.stats.dropped += 1
                return True
        self._note_size(link, size)
        return True

    def note_sent(self, link: DatagramLink, size: int, now: float) -> None:
        """A frame of `size` bytes went to a live link."""
        self._note_use(link, now)
        self._note_size(link, size)

    def _note_use(self, link: DatagramLink, now: float) -> None:
        if now - link.last_sent > ACTIVE - 2 * TICK:
            self._wake()
        link.last_sent = now

    def _note_size(self, link: DatagramLink, size: int) -> None:
        stats = link.stats
        stats.sent_packets += 1
        stats.sent_bytes += size
        self._sent_lately += size

    def _send_unfit(self, link: DatagramLink, session: Session, size: int, outcome: Fit, now: float) -> bool:
        """A frame that the way does not carry whole."""
        if outcome is Fit.ELSEWHERE:
            return False
        stats = link.stats
        try:
            packets = virtio.segment(self.sealer.frame[:size])
        except UntrustedDataError:
            stats.dropped += 1
            return True
        if outcome is Fit.FRAGMENT:
            for packet in packets:
                for piece in fragment(packet, link.mtu):
                    self._add_small(link, session, PLAIN + piece)
            self.counters["packets_fragmented"] += len(packets)
            self._note_size(link, size)
            return True
        stats.dropped += 1
        self._answers = min(_ANSWERS_AT_ONCE, self._answers + (now - self._answered_at) * _ANSWERS_A_SECOND)
        self._answered_at = now
        if self._answers >= 1 and link.told_mtu:
            answer = too_big_answer(packets[0], link.mtu)
            if answer is not None and self.write(link.peer, memoryview(PLAIN + answer)):
                self._answers -= 1
                self.counters["too_big_answered"] += 1
        return True

    def _send_train(self, link: DatagramLink, session: Session, address: Address, size: int, now: float) -> bool:
        """False: the frame makes no train."""
        self.flush()
        try:
            sends = self.sealer.seal_train(
                session.send, size, link.mtu + VIRTIO_HEADER if session.takes & SEVERAL else 0
            )
        except UntrustedDataError:
            return False
        for view, length in sends:
            self.send_datagrams(view, length, address)
        repair = session.repair
        if repair is not None and not repair.sender.passes(size, now):
            first = 0
            for view, length in sends:
                self.repairs.note_sent(link, session, session.send.train - 1, first, length, view, now, each=False)
                first += len(view) // length
        return True

    def _send_cut(self, link: DatagramLink, session: Session, frame: bytes) -> None:
        for packet in virtio.segment(frame):
            self._add_small(link, session, bytes(virtio.HEADER.size) + packet)

    def _add_small(self, link: DatagramLink, session: Session, frame: memoryview | bytes) -> None:
        """Collect frames of one size for one send; a shorter one may be the last."""
        length = len(frame) + OVERHEAD
        if (
            session is not self._run_session
            or length > self._run_length
            or self.run_count >= MAX_SEGMENTS
            or self._run_end + length > MAX_SEND
        ):
            self.flush()
            self._run_link, self._run_session, self._run_length = link, session, length
        start, self._run_end = self._run_end, self.sealer.seal_small(session.send, frame, self._run_end)
        if session.repair is not None and len(frame) <= LARGEST:
            self.repairs.note_urgent(link, session, frame, self.sealer.small[start : self._run_end])
        self.run_count += 1
        if length < self._run_length:
            self.flush()

    def flush(self) -> None:
        """Send what was collected. Called after each batch from the device."""
        link, session, end = self._run_link, self._run_session, self._run_end
        if link is not None and session is not None and end and link.address is not None:
            view, length = self.sealer.small[:end], self._run_length
            self.send_datagrams(view, length, link.address)
            repair = session.repair
            if repair is not None and not repair.sender.passes(end, link.last_sent):
                train = session.send.train - self.run_count
                self.repairs.note_sent(link, session, train, 0, length, view, link.last_sent, each=True)
        self._run_link = self._run_session = None
        self._run_end = self.run_count = self._run_length = 0

    def send_datagrams(self, view: memoryview | bytes, length: int, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = self.sockets.get(family)
        if sock is None:
            self.counters["datagrams_not_sent"] += 1
            return
        control = self._segment_size.get(length) if len(view) > length else ()
        if control is None:
            if len(self._segment_size) > 2048:
                self._segment_size.clear()
            control = self._segment_size[length] = [(socket.IPPROTO_UDP, UDP_SEGMENT, _U16.pack(length))]
        for last in (False, True):
            try:
                sock.sendmsg((view,), control, 0, address)
            except BlockingIOError:
                if not last:
                    poll = select.poll()
                    poll.register(sock, select.POLLOUT)
                    poll.poll(WAIT)
                    continue
                self.counters["datagrams_not_sent"] += 1
            except OSError as exc:
                self.counters["datagrams_not_sent"] += 1
                # EINVAL: the same for UDP_SEGMENT, in older kernels
                if exc.errno == errno.EMSGSIZE or (exc.errno == errno.EINVAL and len(view) > length):
                    self._on_too_big(address, length)
                elif exc.errno in _NO_WAY:
                    self._on_no_way(address)
            return

    def _on_no_way(self, address: Address) -> None:
        """There is no route any more, or no address of ours to send from."""
        now = time.monotonic()
        refused = [link.refused(address, now) for link in self.links.values()]
        if any(refused):
            self._wake()

    def _on_too_big(self, address: Address, size: int) -> None:
        """The link in front of us has become smaller."""
        now = time.monotonic()
        changed = [link.too_big(address, size, now) for link in self.links.values()]
        if any(changed):
            self._wake()

    def _seal(self, session: Session, plaintext: bytes) -> bytes:
        """A control message, without a gap in the trains where the other side would look for it."""
        return (seal_one if session.repair is None else seal_beside)(session.send, plaintext)

    def _send_bytes(self, datagram: bytes, address: Address) -> None:
        self.counters["beside_sent_bytes"] += len(datagram)
        self.send_datagrams(datagram, len(datagram), address)

    # --- in

    def on_readable(self, family: int) -> None:
        """Take in what a socket has. Called by the packet thread, again while there is more."""
        sock = self.sockets[family]
        opener = self.opener
        views = self._into
        taken = count = 0
        if self._gathering:  # datagrams come one by one and often: many are cheaper than each by itself
            time.sleep(COALESCE_SMALL)
        elif self._pace.much:
            time.sleep(COALESCE)
        while taken < _BYTES_A_TURN and count < _RECEIVES_A_TURN:
            try:
                size, ancillary, _, source = sock.recvmsg_into(views, 32)
            except OSError:
                break  # BlockingIOError: nothing more; others tell of an earlier send
            if not count and size < EARLY and not ancillary:
                became = self.take_lone(size, source)
                if became is ALL:
                    self._gathering = False  # nothing comes often
                    self._late_since = 0.0
                    return
                if became:
                    count, taken = 1, size
                    continue
            length = size
            for level, kind, data in ancillary:
                if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                    length = _INT.unpack(data)[0]
            count += 1
            taken += size
            self._from = source[0], source[1]
            self.now = opener.now = time.monotonic()
            self._may_be_answered = count == 1 and size < _SMALL
            opener.open_untrusted(size, max(length, 1), self.keys, self._on_frame, self.on_control, more=True)
        opener.end_turn()
        if self.repairs.heard:
            self.repairs.end_turn(self.now)
        self._count(count, taken)
        if count >= _RECEIVES_A_TURN or taken >= _BYTES_A_TURN:
            self._shed(sock)
        elif self._late_since:
            self._late_since = 0.0

    def _shed(self, sock: socket.socket) -> None:
        """Drop what has waited too long: where more comes than we can open, it should not be late as well.

        Not at once (as in RFC 8289): what came while this machine stood still is soon read.
        """
        longest = _LONGEST
        if waited(sock) <= longest:
            self._late_since = 0.0
            return
        self._late_since = self._late_since or self.now
        if self.now - self._late_since < _STANDING:
            return
        while waited(sock) > longest:
            longest = _LONGEST / 2
            for _ in range(_DROPPED_AT_ONCE):
                try:
                    sock.recv_into(self._scrap)  # its beginning; the kernel drops the rest
                except OSError:
                    return
                self.counters["receives_too_late"] += 1

    def take_opened(
        self, key: ReceiveKey, train: int, index: int, sealed: memoryview, piece: bytes, source: Address, now: float
    ) -> None:
        """A datagram that came first in its turn, and was opened: `piece`."""
        self._from = source[0], source[1]
        self.now = self.opener.now = now
        self._may_be_answered = False
        self.opener.take_opened(key, train, index, sealed, piece, self._on_frame, self.on_control)

    def _count(self, count: int, taken: int) -> None:
        if self._pace.note(count, taken, self.now):
            idle = self._sent_lately < MUCH  # not while it has much to send
            self._gathering = idle and self._pace.often and count < _RECEIVES_A_TURN // 4 and taken < 2048 * count
            self._sent_lately = 0

    def _on_frame(self, key: ReceiveKey, frame: memoryview) -> None:
        owner = self.sessions.get(key.session)
        if owner is None:
            return  # it went in this turn, after the pieces had come
        link, session = owner
        if link.narrow and len(frame) <= MAX_SYN and link.told_mtu:
            frame = memoryview(bytearray(frame))
            clamp_mss(frame, len(frame), link.mtu)
        repair = session.repair
        if repair is not None:
            self.repairs.heard[session.number] = owner
        if repair is None or not repair.held.until:
            taken = self.write(link.peer, frame)
        else:
            taken = self.repairs.write(link, repair, frame, self.now)
        if taken:
            stats = link.stats
            stats.received_packets += 1
            stats.received_bytes += len(frame)
        if link.on_received(session, self._from, self.now):
            self._show(link)
            self._wake()
        if self._may_be_answered:
            self._may_be_answered = False
            self.on_small(self.now)

    def on_control(self, key: ReceiveKey, data: bytes) -> None:
        link, session = self.sessions[key.session]
        self.counters["beside_received_bytes"] += len(data) + OVERHEAD
        news = link.on_received(session, self._from, self.now)
        try:
            if is_repair(data):
                self.repairs.on_message_untrusted(link, session, data, self.now)
                return
            message = read_control_untrusted(data)
        except UntrustedDataError:
            self.counters["control_refused"] += 1
            return
        if isinstance(message, Probe):
            self._send_bytes(self._seal(session, link.answer_to(message, self._from)), self._from)
        else:
            news |= link.on_answer(message, self.now)
        if news:
            self.tick_link(link, self.now)  # at once: a first packet may be waiting for this
            self._wake()
