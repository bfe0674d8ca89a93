"""The short way of a small packet that comes alone, between device and socket.

A processor that has rested for some milliseconds has forgotten our code and data, and every function and object that is
touched then costs a microsecond or more: more than half of what an idle machine's ping spends here. So such a packet is
sealed, or opened, and passed on in as few steps as can be; what is to be noted of it is noted when it has gone.
Anything that is not plain (no way yet, a narrow way, a new session or address, a control message, several segments)
goes the long way through pump.py and datagram_engine.py, which come to the same.
"""

from __future__ import annotations

import socket
import struct
import time
from functools import partial
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from edgevpn.proto.datagram import CONTROL, HEAD, INDEX_BITS, MAX_PIECES, OVERHEAD
from edgevpn.tun.datagram_engine import ALL, LEFT, TAKEN, DatagramEngine, Lone
from edgevpn.tun.datagram_link import DatagramLink
from edgevpn.tun.twice import LARGEST

APART: Final = 0.002  # seconds after the last one: what comes sooner is company, and is sent with others
_LEAST = OVERHEAD + 30
_INDEX_MASK = (1 << INDEX_BITS) - 1
_HEAD = struct.Struct(">IQ")


def shorten(engine: DatagramEngine) -> None:
    """Have the engine take what it receives alone the short way."""
    engine.take_lone = partial(receive_lone, engine)


def send_lone(engine: DatagramEngine, link: DatagramLink, size: int, now: float) -> bool:
    """Send the plain frame in sealer.frame[:size] to a live link. False: nothing was done, it needs the long way."""
    session, address = link.sending, link.address
    if session is None or address is None or link.narrow or engine.run_count:
        return False
    sock = engine.sockets.get(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    if sock is None:
        return False
    sealer = engine.sealer
    key, room, end = session.send, sealer.small, size + OVERHEAD
    _HEAD.pack_into(room, 0, key.session, key.train << INDEX_BITS)
    key.train += 1
    datagram = room[:end]
    key.encrypt_into(room[:HEAD], sealer.frame[:size], None, room[HEAD:end])
    try:
        sock.sendto(datagram, address)
    except OSError:
        engine.send_datagrams(datagram, end, address)  # it waits, and knows what to do about which error
    engine.note_sent(link, size, now)
    repair = session.repair
    if repair is not None and not repair.on_lone(key.train - 1, datagram, now):
        engine.repairs.note_sent(link, session, key.train - 1, 0, end, datagram, now, each=True)
        if size <= LARGEST:
            engine.repairs.note_urgent(link, session, sealer.frame[:size], datagram)
    return True


def receive_lone(engine: DatagramEngine, size: int, source: tuple[Any, ...]) -> Lone:
    """Take the datagram in opener.buffer[:size]. LEFT: nothing was done, it needs the long way. Nothing raises."""
    if size < _LEAST:
        return LEFT
    opener = engine.opener
    number, counter = _HEAD.unpack_from(opener.buffer)
    owner = engine.sessions.get(number)
    if owner is None:
        return LEFT
    link, session = owner
    key, train = session.receive, counter >> INDEX_BITS
    window = key.window
    if train <= window.newest or not session.confirmed or link.narrow or link.address != source[:2]:
        return LEFT
    before, engine.now = engine.now, time.monotonic()
    now = engine.now
    view = opener.view
    try:
        piece: bytes = key.decrypt(view[:HEAD], view[HEAD:size], None)
    except InvalidTag:
        opener.counters["datagrams_forged"] += 1
        return TAKEN
    index = counter & _INDEX_MASK
    window.mark(train, 1 << index)
    if piece[0] == CONTROL or piece[1]:
        engine.take_opened(key, train, index, view[:size], piece, source, now)
        return TAKEN
    written = engine.write(link.peer, piece)
    engine.on_small(now)
    repair, more = session.repair, now - before < APART
    if repair is not None and index < MAX_PIECES:
        repair.on_run(train, index, 1, 1, now)
        if repair.keeping:
            repair.keep(train, index, size, bytes(view[:size]), now)
        if repair.receiver.holes or repair.held.until:
            engine.repairs.heard[number] = owner
            more = True
    link.last_received = session.used_at = now
    if written:
        stats = link.stats
        stats.received_packets += 1
        stats.received_bytes += len(piece)
    return TAKEN if more else ALL
