"""The loop around a way that carries less than the interface: two engines on loopback sockets."""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from edgevpn.proto.datagram_handshake import AES_256_GCM, Offering, Terms, answer_untrusted
from edgevpn.proto.ip import TCP, UDP
from edgevpn.proto.packet_stream import TAKES_TCP, TAKES_UDP
from edgevpn.tun import virtio
from edgevpn.tun.datagram_engine import DatagramEngine
from edgevpn.tun.udp_socket import open_udp
from tests.unit.test_fit import PAYLOAD, df, finished, syn
from tests.unit.test_virtio import frame_of, make

MTU, NARROW = 1420, 1280 - 28 - 38


class Side:
    """An engine, and what it gave its device."""

    def __init__(self, mtu: int, *, repairs: bool = False) -> None:
        self.sockets = open_udp()
        self.frames: list[bytes] = []
        self.engine = DatagramEngine(self.sockets, mtu, lambda: None, repairs=repairs)
        self.engine.write = self._write

    def _write(self, _: str, frame: memoryview) -> bool:
        virtio.check_untrusted(frame)
        self.frames.append(bytes(frame))
        return True

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.sockets[socket.AF_INET].getsockname()[1]

    def take(self) -> None:
        while select.select([self.sockets[socket.AF_INET]], [], [], 0.05)[0]:
            self.engine.on_readable(socket.AF_INET)

    def send(self, frame: bytes) -> bool:
        self.engine.sealer.frame[: len(frame)] = frame
        sent = self.engine.send(next(iter(self.engine.links.values())), len(frame))
        self.engine.flush()
        return sent


class Narrow:
    """A socket before a link with an MTU of 1280, which answers as Linux does (the real one: tests/netns)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recvmsg_into = sock.recvmsg_into

    def sendmsg(self, parts: Sequence[bytes], control: Sequence[object], flags: int, address: tuple[str, int]) -> int:
        (view,) = parts
        if control and struct.unpack("=H", control[0][2])[0] > 1252:  # type: ignore[index]
            raise OSError(errno.EINVAL, "")
        if not control and len(view) > 1252:
            raise OSError(errno.EMSGSIZE, "")
        return self._sock.sendmsg(parts, control, flags, address)  # type: ignore[arg-type]


@contextmanager
def pair(mtu: int, *, flags: int = TAKES_TCP | TAKES_UDP, repairs: bool = False) -> Iterator[tuple[Side, Side]]:
    """Two that have keys, and have asked each other."""
    one, two = Side(mtu, repairs=repairs), Side(mtu, repairs=repairs)
    try:
        offering = Offering(Terms(flags, AES_256_GCM, mtu, 1, (one.address,)), "i", "r")
        message, agreed = answer_untrusted(offering.message, flags, mtu, 2, (two.address,), AES_256_GCM, "i", "r")
        two.engine.add_session("one", agreed, 2, initiated=False)
        one.engine.add_session("two", offering.finish_untrusted(message), 1, initiated=True)
        for _ in range(4):
            two.take()
            one.take()
            one.engine.tick()
            two.engine.tick()
        yield one, two
    finally:
        for side in (one, two):
            for sock in side.sockets.values():
                sock.close()


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    with pair(MTU) as (one, two):
        assert one.engine.live
        assert two.engine.live
        assert one.engine.links["two"].mtu == MTU
        yield one, two


def narrow(side: Side) -> None:
    (link,) = side.engine.links.values()
    assert link.address is not None
    assert link.too_big(link.address, MTU + 38, time.monotonic())
    assert (link.mtu, link.narrow) == (NARROW, True)


def settle(side: Side, other: Side) -> None:
    """Until the search has found nothing larger, with a socket in front of such a link."""
    (link,) = side.engine.links.values()
    side.engine.sockets = {socket.AF_INET: Narrow(side.sockets[socket.AF_INET])}  # type: ignore[dict-item]
    until = time.monotonic() + 10
    while not link.told_mtu and time.monotonic() < until:
        side.engine.tick()
        other.take()
        side.take()
    assert link.told_mtu == NARROW


def packets(side: Side) -> list[bytes]:
    found = [packet for frame in side.frames for packet in virtio.segment(frame)]
    side.frames.clear()
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [1340, 60000])
def test_tcp_goes_on_in_smaller_segments(sides: tuple[Side, Side], version: int, length: int) -> None:
    one, two = sides
    narrow(one)
    assert one.send(frame_of(version, TCP, PAYLOAD[:length], 1348))
    two.take()
    came = packets(two)
    start = 20 if version == 4 else 40
    assert b"".join(packet[start + 32 :] for packet in came) == PAYLOAD[:length]
    assert all(len(packet) <= NARROW and finished(version, packet) for packet in came)


def test_what_may_be_fragmented_is(sides: tuple[Side, Side]) -> None:
    one, two = sides
    narrow(one)
    packet = df(virtio.segment(frame_of(4, UDP, PAYLOAD[:1380], 2000))[0], dont=False)
    assert one.send(bytes(10) + packet)
    two.take()
    came = packets(two)
    assert [len(piece) <= NARROW for piece in came] == [True, True]
    assert b"".join(piece[20:] for piece in came) == packet[20:]
    assert one.engine.counters["packets_fragmented"] == 1


def test_the_sender_of_what_may_not_is_told_some_times_a_second(sides: tuple[Side, Side]) -> None:
    one, two = sides
    narrow(one)
    packet = make(4, UDP, PAYLOAD[:1380])
    assert one.send(bytes(10) + packet)
    assert one.frames == [], "the search goes on: what it finds may be more"
    settle(one, two)
    for _ in range(500):
        assert one.send(bytes(10) + packet)
    assert 20 <= len(one.frames) <= 30
    (answer, *_) = packets(one)
    assert (answer[9], answer[20:22], struct.unpack_from(">H", answer, 26)[0]) == (1, b"\3\4", NARROW)
    two.take()
    assert packets(two) == []
    assert one.engine.links["two"].stats.dropped == 501


def test_syns_of_both_directions_get_an_mss_that_fits(sides: tuple[Side, Side]) -> None:
    one, two = sides
    narrow(one)
    settle(one, two)
    for source, target, partial in ((one, two, True), (two, one, True), (one, two, False), (two, one, False)):
        assert source.send(bytes(syn(4, b"\2\4\5\144", partial=partial)))
        target.take()
        (packet,) = packets(target)
        assert packet[40:44] == b"\2\4" + (NARROW - 40).to_bytes(2, "big")
        assert finished(4, packet)


def test_a_way_without_a_size_takes_nothing(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    narrow(one)
    link = one.engine.links["two"]
    assert link.address is not None
    link.too_big(link.address, 100, time.monotonic())
    assert not link.is_live
    assert not one.send(bytes(10) + make(4, UDP, b"small"))
    one.engine.tick()
    assert not one.engine.live


@pytest.mark.parametrize("length", [1340, 60000])
def test_what_the_system_refuses_to_send_lowers_the_size_at_once(sides: tuple[Side, Side], length: int) -> None:
    one, two = sides
    one.engine.sockets = {socket.AF_INET: Narrow(one.sockets[socket.AF_INET])}  # type: ignore[dict-item]
    frame = frame_of(4, TCP, PAYLOAD[:length], 1348)
    assert one.send(frame), "it is lost"
    assert one.engine.links["two"].mtu == NARROW
    assert one.send(frame)
    two.take()
    assert b"".join(packet[52:] for packet in packets(two)) == PAYLOAD[:length]


def test_packets_that_no_datagram_can_hold_are_cut() -> None:
    """An interface MTU of 65535."""
    with pair(65535) as (one, two):
        link = one.engine.links["two"]
        assert link.is_live
        assert (link.mtu, link.narrow) == (65535 - 48 - 38, True)
        payload = random.Random(3).randbytes(65460)
        assert one.send(frame_of(4, TCP, payload, 65535))
        two.take()
        assert b"".join(packet[52:] for packet in packets(two)) == payload
