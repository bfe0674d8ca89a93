"""Super-packets as trains of datagrams, and back: the inner loops of the datagram path. Pure; one for a process.

A train is sealed in place. Its plaintexts overlap in the buffer that the frame was read into: the headers are written
over the end of the segment before, which is sealed by then, so no payload is copied. All slices are made once for each
(header length, segment size), and each table has an output buffer in which only the changing bytes of the counters are
written: one strided assignment a byte place. Opening goes the same way from back to front; the nonces are those that
the datagrams should have, not those they state: what is out of place fails to open and takes the slow way, one by one.

With 1400-byte segments the AEAD is two thirds of what a train costs; anything done in Python for each segment shows.
Segments so small that several fit in a datagram travel so where the peer takes it: there is one AEAD for all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any, Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import CONTROL, HEAD, INDEX_BITS, MAX_PIECES, OVERHEAD, TAG
from edgevpn.proto.datagram_handshake import AES_256_GCM
from edgevpn.proto.packet_stream import MAX_FRAME, VIRTIO_HEADER
from edgevpn.tun import virtio
from edgevpn.tun.rebuild import layout_of, pieces_of, rebuild_untrusted
from edgevpn.tun.replay import ReplayWindow

MAX_SEND: Final = 65507  # bytes of one UDP_SEGMENT send
MAX_SEGMENTS: Final = 64  # datagrams of it
_TABLES = 64  # kept of each kind
_SMALL_ROOM = 2 * MAX_SEND
EARLY: Final = 300  # bytes of a datagram whose packet is written before anything else is done

_HEAD = struct.Struct(">IQ")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_INDEX_MASK = (1 << INDEX_BITS) - 1

Sends = list[tuple[memoryview, int]]  # what to send, and the size of the datagrams in it


class SendKey:
    """One direction of a session: seals, and numbers trains from 1, never twice the same."""

    __slots__ = ("_beside", "encrypt_into", "head", "session", "train")

    def __init__(self, cipher: int, key: bytes, session: int) -> None:
        self.encrypt_into: Any = _aead(cipher, key).encrypt_into
        self.session = session
        self.head = session.to_bytes(4, "big")
        self.train = 1
        self._beside = (-1, 0)

    def next_beside(self) -> int:
        """A counter for a control message that takes no train: an index of the last one's that no piece has."""
        train, index = self._beside
        if train == self.train - 1 and index < _INDEX_MASK:
            index += 1
        else:
            if train == self.train - 1:
                self.train += 1
            train, index = self.train - 1, MAX_PIECES
            if not train:
                train, self.train = 1, 2
        self._beside = train, index
        return train << INDEX_BITS | index


class Arrivals(Protocol):
    """Who wants to know of a session which datagrams have come (edgevpn/tun/repair_receiver.py)."""

    keeping: bool

    def on_run(self, train: int, first: int, count: int, whole: int, now: float) -> None: ...

    def keep(self, train: int, first: int, length: int, data: bytes, now: float) -> None: ...


class ReceiveKey:
    """The other direction. `arrivals`: who is told of what has come, if anybody."""

    __slots__ = ("arrivals", "decrypt", "decrypt_into", "head", "session", "window")

    def __init__(self, cipher: int, key: bytes, session: int) -> None:
        aead = _aead(cipher, key)
        self.decrypt_into: Any = aead.decrypt_into
        self.decrypt: Any = aead.decrypt
        self.session = session
        self.head = session.to_bytes(4, "big")
        self.window = ReplayWindow()
        self.arrivals: Arrivals | None = None


def _aead(cipher: int, key: bytes) -> Any:
    return (AESGCM if cipher == AES_256_GCM else ChaCha20Poly1305)(key)


def seal_one(key: SendKey, plaintext: bytes) -> bytes:
    """A datagram of its own, for control messages."""
    head = _HEAD.pack(key.session, key.train << INDEX_BITS)
    key.train += 1
    sealed = bytearray(len(plaintext) + TAG)
    key.encrypt_into(head, plaintext, None, sealed)
    return head + bytes(sealed)


def seal_beside(key: SendKey, plaintext: bytes) -> bytes:
    """A control message that leaves no gap in the trains."""
    head = key.head + key.next_beside().to_bytes(8, "big")
    sealed = bytearray(len(plaintext) + TAG)
    key.encrypt_into(head, plaintext, None, sealed)
    return head + bytes(sealed)


class _Heads:
    """Session, train and index, HEAD bytes each `apart` from the other: of the first `count` datagrams of a train."""

    def __init__(self, count: int, apart: int) -> None:
        self.count = count
        self.buffer = memoryview(bytearray(count * apart))
        for index in range(count):
            _HEAD.pack_into(self.buffer, index * apart, 0, index)
        self._lanes = [self.buffer[place::apart] for place in range(11)]  # byte `place` of each
        self._now = bytes(11)  # what they hold

    def number(self, head: bytes | bytearray) -> None:
        """Write session and train into all of them: 11 bytes, the last one differs most often."""
        now = self._now
        if now[:10] != head[:10]:
            for place in range(10):
                if now[place] != head[place]:
                    self._lanes[place][:] = head[place : place + 1] * self.count
        self._lanes[10][:] = head[10:11] * self.count
        self._now = bytes(head)


class _Nonces(_Heads):
    """By themselves; `views`: from the last to the first."""

    def __init__(self, count: int) -> None:
        super().__init__(count, HEAD)
        self.views = [self.buffer[index * HEAD : index * HEAD + HEAD] for index in range(count - 1, -1, -1)]


class _SealTable(_Heads):
    """For one header length and segment size: the output buffer, and the slices of all segments."""

    def __init__(self, frame: memoryview, header: int, size: int) -> None:
        self.length = length = header + size + OVERHEAD
        super().__init__(min(MAX_PIECES, (MAX_FRAME - header + size - 1) // size), length)
        self.segments = [
            (
                frame[index * size : index * size + header],
                frame[index * size : index * size + header + size],
                self.buffer[index * length : index * length + HEAD],
                self.buffer[index * length + HEAD : index * length + length],
            )
            for index in range(self.count)
        ]


class Sealer:
    """Turns frames in `frame` into datagrams. What `seal` returns is valid until its next call."""

    def __init__(self) -> None:
        self.buffer = bytearray(MAX_FRAME + 64)
        self.frame = memoryview(self.buffer)  # read frames into this
        self._tables: dict[tuple[int, int], _SealTable] = {}
        self.small = memoryview(bytearray(_SMALL_ROOM))

    def is_train(self) -> bool:
        return self.buffer[1] != 0

    def seal_train(self, key: SendKey, size: int, room: int = 0) -> Sends:
        """The super-packet in frame[:size]. Raises UntrustedDataError when its headers make no sense.

        `room`: bytes of plaintext that a datagram may have, where it may have several segments; 0: one each.
        """
        buffer, frame = self.buffer, self.frame
        _, kind, _, segment, start, _ = virtio.HEADER.unpack_from(buffer)
        header = (
            VIRTIO_HEADER
            + start
            + (8 if kind & 0x7F == virtio.GSO_UDP else buffer[VIRTIO_HEADER + start + 12] >> 4 << 2)
        )
        if not segment or header >= size or header > 0xFF:
            raise UntrustedDataError("a super-packet that makes no train")
        together = min(0x100, max(1, (room - header) // segment))
        buffer[2], buffer[3] = together - 1, header
        segment *= together
        if (size - header) > segment * MAX_PIECES:
            raise UntrustedDataError("a super-packet that makes no train")
        table = self._tables.get((header, segment))
        if table is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            table = self._tables[header, segment] = _SealTable(frame, header, segment)
        table.number(key.head + (key.train << INDEX_BITS).to_bytes(8, "big")[:7])
        key.train += 1
        count = (size - header + segment - 1) // segment
        length, out, encrypt = table.length, table.buffer, key.encrypt_into
        headers = buffer[:header]
        for header_place, plaintext, nonce, sealed in table.segments[: count - 1]:
            header_place[:] = headers
            encrypt(nonce, plaintext, None, sealed)
        at, begin = (count - 1) * length, (count - 1) * segment
        frame[begin : begin + header] = headers
        end = at + OVERHEAD + size - begin
        encrypt(out[at : at + HEAD], frame[begin:size], None, out[at + HEAD : end])
        most = min(MAX_SEGMENTS, MAX_SEND // length) * length
        if end <= most:
            return [(out[:end], length)]
        return [(out[at : min(at + most, end)], length) for at in range(0, end, most)]

    def seal_small(self, key: SendKey, plaintext: memoryview | bytes, at: int) -> int:
        """Seal one frame that is no train into `small` at `at`; where it ends. There must be room (`room_at`)."""
        _HEAD.pack_into(self.small, at, key.session, key.train << INDEX_BITS)
        key.train += 1
        end = at + OVERHEAD + len(plaintext)
        key.encrypt_into(self.small[at : at + HEAD], plaintext, None, self.small[at + HEAD : end])
        return end


class _OpenTable(NamedTuple):
    """For one datagram size and layout: what to open, and where to; from the last to the first."""

    sealed: list[memoryview]
    opened: list[memoryview]


class Opener:
    """Turns what was received into `buffer` into frames and control messages.

    `counters`: of what was refused.
    """

    def __init__(self) -> None:
        self.buffer = bytearray(65536 + 64)
        self.view = memoryview(self.buffer)
        self.now = 0.0  # when it came, for who is told of arrivals
        self.counters = {"datagrams_forged": 0, "datagrams_replayed": 0, "datagrams_unknown": 0, "trains_refused": 0}
        self._out = bytearray(2 * 65536 + 1024)
        self._out_view = memoryview(self._out)
        self._layouts: dict[int, tuple[int, int]] = {}  # datagram size -> lengths of header and payload seen last
        self._tables: dict[tuple[int, int], _OpenTable] = {}
        self._few, self._all = _Nonces(MAX_SEGMENTS), _Nonces(MAX_PIECES)
        self._run = _Run(self)

    def open_untrusted(
        self,
        size: int,
        length: int,
        keys: Mapping[int, ReceiveKey],
        write: Callable[[ReceiveKey, memoryview], None],
        control: Callable[[ReceiveKey, bytes], None],
        *,
        more: bool = False,
    ) -> None:
        """What is in buffer[:size]: datagrams of `length` bytes, the last one maybe shorter. Nothing raises.

        `write` gets frames that are whole but otherwise as the peer made them; `control` gets control messages. With
        `more` a train's pieces that came one by one are joined with those of the next call, until `end_turn`.
        """
        if size < HEAD:
            return
        key = keys.get(_U32.unpack_from(self.buffer)[0])
        if key is not None and size > length and self._open_train(size, length, key, write):
            return
        run = self._run
        run.write = write
        for at in range(0, size, length):
            self._open_one(at, min(at + length, size), keys, run, control)
        if not more:
            run.end()

    def end_turn(self) -> None:
        """Write what was held back to be joined."""
        self._run.end()

    def _open_train(
        self, size: int, length: int, key: ReceiveKey, write: Callable[[ReceiveKey, memoryview], None]
    ) -> bool:
        """The fast way: all datagrams are of one train, in order. Whether it was gone."""
        layout = self._layouts.get(length)
        count = (size + length - 1) // length
        if layout is None:
            return False
        header, segment = layout
        buffer, view = self.buffer, self.view
        last = (count - 1) * length
        (counter,) = _U64.unpack_from(buffer, 4)
        train, first = counter >> INDEX_BITS, counter & _INDEX_MASK
        (final,) = _U64.unpack_from(buffer, last + 4) if size - last > header + OVERHEAD else (0,)
        if final - counter != count - 1 or final >> INDEX_BITS != train or first + count > MAX_PIECES:
            return False
        mask = (1 << count) - 1 << first
        if not key.window.is_fresh(train, mask):
            return False
        table = self._table(length, header, segment)
        nonces = self._few if first + count <= MAX_SEGMENTS else self._all
        nonces.number(key.head + buffer[4:11])
        out = self._out_view
        end = (count - 1) * segment + size - last - OVERHEAD
        skip = nonces.count - first - count
        begin = len(table.sealed) - count + 1
        try:
            key.decrypt_into(nonces.views[skip], view[last + HEAD : size], None, out[(count - 1) * segment : end])
            for _ in map(
                key.decrypt_into,
                nonces.views[skip + 1 : nonces.count - first],
                table.sealed[begin:],
                repeat(None),
                table.opened[begin:],
            ):
                pass
        except InvalidTag:
            return False  # one of them is not what it seemed: each by itself
        if layout_of(self._out) != layout:
            return False
        key.window.mark(train, mask)
        arrivals = key.arrivals
        if arrivals is not None:
            arrivals.on_run(train, first, count, pieces_of(self._out, header, segment), self.now)
            if arrivals.keeping:
                arrivals.keep(train, first, length, bytes(view[:size]), self.now)
        self._run.end()  # it came before
        self._emit(key, self._out, end, first, write)
        return True

    def _table(self, length: int, header: int, segment: int) -> _OpenTable:
        table = self._tables.get((length, header))
        if table is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            order = range(len(self.buffer) // length - 1, -1, -1)
            table = self._tables[length, header] = _OpenTable(
                [self.view[i * length + HEAD : i * length + length] for i in order],
                [self._out_view[i * segment : i * segment + header + segment] for i in order],
            )
        return table

    def _open_one(
        self,
        at: int,
        end: int,
        keys: Mapping[int, ReceiveKey],
        run: _Run,
        control: Callable[[ReceiveKey, bytes], None],
    ) -> None:
        """The slow way: any datagram."""
        counters = self.counters
        if end - at <= OVERHEAD:
            counters["datagrams_unknown"] += 1
            return
        session, counter = _HEAD.unpack_from(self.buffer, at)
        key = keys.get(session)
        if key is None:
            counters["datagrams_unknown"] += 1
            return
        train, index = counter >> INDEX_BITS, counter & _INDEX_MASK
        if not key.window.is_fresh(train, 1 << index):
            counters["datagrams_replayed"] += 1
            return
        self._open_piece(key, train, index, self.view[at:end], run, control)

    def open_repaired(
        self,
        datagram: bytes,
        key: ReceiveKey,
        write: Callable[[ReceiveKey, memoryview], None],
        control: Callable[[ReceiveKey, bytes], None],
    ) -> None:
        """One that was not received but made out of others. Nothing raises; it must be genuine, as any."""
        (counter,) = _U64.unpack_from(datagram, 4)
        train, index = counter >> INDEX_BITS, counter & _INDEX_MASK
        if key.window.is_fresh(train, 1 << index):
            run = _Run(self)
            run.write = write
            self._open_piece(key, train, index, memoryview(datagram), run, control)
            run.end()

    def _open_piece(
        self,
        key: ReceiveKey,
        train: int,
        index: int,
        datagram: memoryview,
        run: _Run,
        control: Callable[[ReceiveKey, bytes], None],
    ) -> None:
        try:
            piece: bytes = key.decrypt(datagram[:HEAD], datagram[HEAD:], None)
        except InvalidTag:
            self.counters["datagrams_forged"] += 1
            return
        key.window.mark(train, 1 << index)
        self._take(key, train, index, datagram, piece, run, control)

    def take_opened(
        self,
        key: ReceiveKey,
        train: int,
        index: int,
        datagram: memoryview,
        piece: bytes,
        write: Callable[[ReceiveKey, memoryview], None],
        control: Callable[[ReceiveKey, bytes], None],
    ) -> None:
        """One that somebody else has opened, and marked as come: `piece` is what it says."""
        self._run.write = write
        self._take(key, train, index, datagram, piece, self._run, control)

    def _take(
        self,
        key: ReceiveKey,
        train: int,
        index: int,
        datagram: memoryview,
        piece: bytes,
        run: _Run,
        control: Callable[[ReceiveKey, bytes], None],
    ) -> None:
        size = len(datagram)
        alone = piece[0] != CONTROL and (len(piece) < VIRTIO_HEADER + 20 or not piece[1])
        early = alone and size < EARLY
        if early:  # bookkeeping comes after it
            run.end()
            run.write(key, memoryview(piece))
        arrivals = key.arrivals
        if arrivals is not None and index < MAX_PIECES:
            whole = 1
            if not alone and piece[0] != CONTROL:
                whole = pieces_of(piece, *layout_of(piece))
            arrivals.on_run(train, index, 1, whole, self.now)
            if arrivals.keeping:
                arrivals.keep(train, index, size, bytes(datagram), self.now)
        if piece[0] == CONTROL:
            control(key, piece)
        elif alone and not early:
            run.end()
            run.write(key, memoryview(piece))
        elif not alone:
            run.add(key, train, index, piece)
            header, segment = layout = layout_of(piece)
            if header + segment + OVERHEAD == size and segment:
                if len(self._layouts) >= _TABLES:
                    self._layouts.clear()
                self._layouts[size] = layout

    def _emit(
        self,
        key: ReceiveKey,
        frame: bytearray,
        size: int,
        first: int,
        write: Callable[[ReceiveKey, memoryview], None],
    ) -> None:
        try:
            rebuild_untrusted(frame, size, first)
        except (UntrustedDataError, IndexError, struct.error):
            self.counters["trains_refused"] += 1
            return
        write(key, memoryview(frame)[:size])


class _Run:
    """Pieces of one train that follow each other, on the slow way."""

    write: Callable[[ReceiveKey, memoryview], None]

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._key: ReceiveKey | None = None
        self._train = self._first = self._next = self._header = 0
        self._parts: list[bytes] = []

    def add(self, key: ReceiveKey, train: int, index: int, piece: bytes) -> None:
        header = piece[3]
        if (key, train, index, header) == (self._key, self._train, self._next, self._header):
            self._parts.append(piece[header:])
        else:
            self.end()
            self._key, self._train, self._first, self._header = key, train, index, header
            self._parts = [piece]
        self._next = index + 1

    def end(self) -> None:
        if self._key is not None:
            frame = bytearray().join(self._parts)
            self._opener._emit(self._key, frame, len(frame), self._first, self.write)
            self._key = None


def datagrams(sends: Sends) -> Iterator[bytes]:
    """Each datagram of what is to be sent by itself."""
    for view, length in sends:
        for at in range(0, len(view), length):
            yield bytes(view[at : at + length])
