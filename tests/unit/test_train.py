"""Super-packets as trains of datagrams: what arrives is what was sent, whatever is lost, doubled or out of order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from edgevpn.proto.datagram import OVERHEAD, Address, Answer, Probe, read_control_untrusted, write_answer, write_probe
from edgevpn.proto.datagram_handshake import AES_256_GCM, CHACHA20_POLY1305
from edgevpn.proto.ip import TCP, UDP
from edgevpn.tun import virtio
from edgevpn.tun.train import Opener, ReceiveKey, Sealer, SendKey, datagrams, seal_one
from tests.unit.test_virtio import frame_of, verify

KEY = bytes(range(32))


class Ends:
    """A sealer and an opener that share a session."""

    def __init__(self, cipher: int = AES_256_GCM) -> None:
        self.sealer, self.opener = Sealer(), Opener()
        self.send, self.receive = SendKey(cipher, KEY, 7), ReceiveKey(cipher, KEY, 7)
        self.frames: list[bytes] = []
        self.control: list[bytes] = []

    def seal(self, frame: bytes, room: int = 0) -> list[bytes]:
        self.sealer.frame[: len(frame)] = frame
        return list(datagrams(self.sealer.seal_train(self.send, len(frame), room)))

    def open(self, *arriving: bytes) -> list[bytes]:
        """Datagrams that one receive call gave; the frames that came out."""
        self.frames = []
        length = len(arriving[0])
        assert all(len(one) == length for one in arriving[:-1])
        assert len(arriving[-1]) <= length
        data = b"".join(arriving)
        self.opener.buffer[: len(data)] = data
        self.opener.open_untrusted(
            len(data),
            length,
            {7: self.receive},
            lambda _, frame: self.frames.append(bytes(frame)),
            lambda _, message: self.control.append(message),
        )
        return self.frames


def payloads(frame: bytes) -> list[bytes]:
    """What a frame delivers, every checksum verified."""
    return [verify(packet) for packet in virtio.segment(frame)]


def as_kernel_reads(frame: bytes) -> bytes:
    """A frame with its header length as virtio says, not as ours."""
    header = bytearray(frame)
    start = int.from_bytes(frame[6:8], "little")
    header[2:4] = (start + (8 if frame[1] == virtio.GSO_UDP else frame[10 + start + 12] >> 4 << 2)).to_bytes(
        2, "little"
    )
    return bytes(header)


@pytest.mark.parametrize("cipher", [AES_256_GCM, CHACHA20_POLY1305])
@pytest.mark.parametrize(("version", "protocol"), [(4, TCP), (6, TCP), (4, UDP), (6, UDP)])
def test_a_train_arrives_as_the_frame_it_was(version: int, protocol: int, cipher: int) -> None:
    ends = Ends(cipher)
    for number in range(3):  # the first one teaches the layout, the others go the fast way
        frame = frame_of(version, protocol, random.Random(number).randbytes(20_000 + number), 1200)
        sealed = ends.seal(frame)
        assert len(sealed) == 17
        assert ends.open(*sealed) == [as_kernel_reads(frame)]
    assert sum(ends.opener.counters.values()) == 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_left_of_a_train_is_delivered_right_and_once(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([4, 6]))
    protocol = data.draw(st.sampled_from([TCP, UDP]))
    size = data.draw(st.integers(300, 1400))
    count = data.draw(st.integers(2, 12))
    last = data.draw(st.integers(1, size))
    ends = Ends()
    body = random.Random(count).randbytes(size * (count - 1) + last)
    if data.draw(st.booleans()):
        ends.open(*ends.seal(frame_of(version, protocol, bytes(3 * size), size)))
    sealed = ends.seal(frame_of(version, protocol, body, size))
    order = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=2 * count))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    got: list[bytes] = []
    batch: list[bytes] = []
    for index in order:  # as GRO does: equal sizes, and a shorter one ends the batch
        batch.append(sealed[index])
        if index == count - 1 or data.draw(st.booleans()):
            got += [part for frame in ends.open(*_fit(batch)) for part in payloads(frame)]
            batch = []
    if batch:
        got += [part for frame in ends.open(*_fit(batch)) for part in payloads(frame)]
    assert sorted(got) == sorted(pieces[index] for index in set(order))


def _fit(batch: list[bytes]) -> list[bytes]:
    """A batch whose first one is not the shortest: else each by itself is what a socket gives; here just that one."""
    return batch if len(batch[0]) >= len(batch[-1]) else batch[-1:] + batch[:-1]


def test_datagrams_out_of_place_in_a_batch_do_not_land_in_the_wrong_place() -> None:
    ends = Ends()
    for number in range(2):
        ends.open(*ends.seal(frame_of(4, TCP, random.Random(number).randbytes(12_000), 1000)))
    body = random.Random(9).randbytes(12_000)
    sealed = ends.seal(frame_of(4, TCP, body, 1000))
    sealed[3], sealed[7] = sealed[7], sealed[3]  # first and last counters still look like a whole train
    got = [part for frame in ends.open(*sealed) for part in payloads(frame)]
    assert sorted(got) == sorted(body[at : at + 1000] for at in range(0, 12_000, 1000))


def test_a_doubled_datagram_inside_a_batch_is_taken_once() -> None:
    ends = Ends()
    for number in range(2):
        ends.open(*ends.seal(frame_of(4, TCP, random.Random(number).randbytes(12_000), 1000)))
    body = random.Random(9).randbytes(12_000)
    sealed = ends.seal(frame_of(4, TCP, body, 1000))
    sealed[5] = sealed[4]
    got = [part for frame in ends.open(*sealed) for part in payloads(frame)]
    assert len(got) == 11
    assert ends.opener.counters["datagrams_replayed"] == 1


def test_replayed_trains_and_datagrams_are_refused() -> None:
    ends = Ends()
    first = ends.seal(frame_of(4, TCP, bytes(5000), 1000))
    second = ends.seal(frame_of(4, TCP, bytes(5000), 1000))
    assert len(ends.open(*first)) == 1
    assert len(ends.open(*second)) == 1
    assert ends.open(*first) == []
    assert ends.open(*second) == []
    assert ends.open(second[2]) == []
    assert ends.opener.counters["datagrams_replayed"] == 11


def test_a_forged_bit_anywhere_is_noticed() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    ends = Ends()
    for number in range(2):
        ends.open(*ends.seal(frame_of(4, TCP, random.Random(number).randbytes(12_000), 1000)))
    for _ in range(300):
        body = chance.randbytes(5000)
        sealed = ends.seal(frame_of(4, TCP, body, 1000))
        at = chance.randrange(5)
        spoiled = bytearray(sealed[at])
        place = chance.randrange(len(spoiled))
        spoiled[place] ^= 1 << chance.randrange(8)
        sealed[at] = bytes(spoiled)
        got = [part for frame in ends.open(*sealed) for part in payloads(frame)]
        genuine = [body[i * 1000 : i * 1000 + 1000] for i in range(5)]
        if place >= 12 or len(got) < 5:  # a wrong number in its place in a train: it is known what it should be
            del genuine[at]
        assert sorted(got) == sorted(genuine)


def test_noise_of_any_length_is_nothing() -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    ends = Ends()
    for _ in range(2000):
        data = chance.choice([b"", (7).to_bytes(4, "big")]) + chance.randbytes(chance.randrange(3000))
        if data:
            ends.opener.buffer[: len(data)] = data
            ends.opener.open_untrusted(len(data), chance.randrange(1, len(data) + 1), {7: ends.receive}, _never, _never)


def _never(_: ReceiveKey, __: memoryview | bytes) -> None:
    raise AssertionError("noise was taken for a frame")


def test_a_member_that_seals_nonsense_gives_no_malformed_frame() -> None:
    """Genuine keys, hostile pieces: whatever comes out is checked by virtio.check_untrusted; nothing raises."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    ends = Ends()
    good = frame_of(4, TCP, bytes(3000), 1000)
    for _ in range(3000):
        piece = bytearray(good[: chance.randrange(11, 1100)])
        piece[2:4] = chance.choice([b"\0\x46", chance.randbytes(2)])
        for _ in range(chance.randrange(4)):
            piece[chance.randrange(len(piece))] = chance.randrange(256)
        ends.open(seal_one(ends.send, bytes(piece)))


def test_a_new_session_needs_no_new_tables() -> None:
    ends = Ends()
    frame = frame_of(4, TCP, bytes(9000), 1000)
    ends.open(*ends.seal(frame))
    ends.send = SendKey(AES_256_GCM, KEY[::-1], 0xFEDCBA98)
    ends.receive = ReceiveKey(AES_256_GCM, KEY[::-1], 0xFEDCBA98)
    got: list[bytes] = []
    for _ in range(300):  # the counters pass a byte's end
        data = b"".join(ends.seal(frame))
        ends.opener.buffer[: len(data)] = data
        ends.opener.open_untrusted(
            len(data),
            10 + 20 + 32 + 1000 + OVERHEAD,
            {0xFEDCBA98: ends.receive},
            lambda _, one: got.append(bytes(one)),
            _never,
        )
    assert got == [as_kernel_reads(frame)] * 300
    assert sum(ends.opener.counters.values()) == 0


def test_control_messages_are_read_as_they_were_written() -> None:
    ends = Ends()
    address: Address = ("192.0.2.7", 4242)
    ends.open(seal_one(ends.send, write_probe(Probe(b"12345678"), 1300)))
    ends.open(seal_one(ends.send, write_answer(Answer(b"12345678", address))))
    assert [read_control_untrusted(one) for one in ends.control] == [Probe(b"12345678"), Answer(b"12345678", address)]
    assert len(seal_one(ends.send, write_probe(Probe(b"12345678"), 1300))) == 1300


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_several_small_segments_share_a_datagram_and_what_is_left_is_delivered_once(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from([4, 6]))
    protocol = data.draw(st.sampled_from([TCP, UDP]))
    size = data.draw(st.sampled_from([1, 7, 100, 333, 536]))
    count = data.draw(st.integers(2, 64))
    last = data.draw(st.integers(1, size))
    ends = Ends()
    body = random.Random(count).randbytes(size * (count - 1) + last)
    frame = frame_of(version, protocol, body, size)
    if data.draw(st.booleans()):
        ends.open(*ends.seal(frame, 1430))
    sealed = ends.seal(frame, 1430)
    assert len(sealed) <= -(-count // max(1, (1430 - 92) // size))
    assert all(len(one) <= 1430 + OVERHEAD for one in sealed)
    lost = data.draw(st.sets(st.integers(0, len(sealed) - 1)))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    together = -(-count // len(sealed)) if len(sealed) > 1 else count
    got: list[bytes] = []
    batch: list[bytes] = []
    whole = [payloads(one) for one in ends.open(*sealed)] if not lost else []
    if not lost:
        assert [part for one in whole for part in one] == pieces
        return
    for index, one in enumerate(sealed):
        if index not in lost:
            batch.append(one)
        elif batch:
            got += [part for made in ends.open(*batch) for part in payloads(made)]
            batch = []
    if batch:
        got += [part for made in ends.open(*batch) for part in payloads(made)]
    assert got == [piece for piece in pieces if piece in got]
    assert len(got) >= (len(sealed) - len(lost) - 1) * (together - 1)
    assert sum(ends.opener.counters.values()) == 0
