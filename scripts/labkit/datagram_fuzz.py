"""scripts/fuzz-datagrams: two nodes' datagram engines and a network that does everything wrong, on a virtual clock.

What the nodes send to each other is real: super-packets, small ones, probes, parity, asks, copies, sealed under keys of
real handshakes, which change every now and then. The network between them loses some and delivers the rest, and beside
them what it made of those that passed (datagram_evil.py): replayed, late, in another order, corrupted, cut, joined,
spliced, under another's head, from elsewhere, in receives of a wrong segment size. A third peer has keys of its own,
and seals nonsense with them; and each handshake is offered in mutated forms first.

Every packet that comes out is compared, byte for byte, with those that went in, each good for one delivery. An error
other than those the decoders may raise ends the run. The seed makes a run's mutations; keys are new each time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import socket
import struct
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.datagram import Address
from edgevpn.proto.datagram_handshake import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    Agreed,
    Offering,
    Terms,
    answer_untrusted,
)
from edgevpn.proto.datagram_repair import REPAIRS
from edgevpn.proto.packet_stream import PLAIN, TAKES_TCP, TAKES_UDP
from edgevpn.tun import datagram_engine, lone, repair_loop, virtio
from edgevpn.tun.datagram_engine import DatagramEngine
from edgevpn.tun.pump import Pump
from edgevpn.tun.router import Router
from edgevpn.tun.train import SendKey, seal_one
from edgevpn.tun.udp_socket import UDP_GRO
from scripts.labkit.datagram_evil import Receive, evil_plaintext, evil_receives, frame_of, mutate

MTU = 1420
FLAGS = TAKES_TCP | TAKES_UDP | REPAIRS
PLACES: dict[str, Address] = {"one": ("192.0.2.1", 1001), "two": ("192.0.2.2", 1002), "evil": ("192.0.2.3", 1003)}
_EXPECTED = 60_000  # packets that may still come
_CAPTURED = 4096
_STEP = 0.001
_REKEY_EACH = 400  # rounds


class WrongError(Exception):
    """Something came out that did not go in."""


class MemorySocket:
    """What the engine needs of a UDP socket."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[bytes], Address]] = []
        self.inbox: deque[Receive] = deque()
        self._real = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def fileno(self) -> int:
        """Of a socket that the kernel knows no times of."""
        return self._real.fileno()

    def close(self) -> None:
        self._real.close()

    def sendto(self, data: memoryview, address: Address) -> int:
        return self.sendmsg((data,), (), 0, address)

    def getsockname(self) -> Address:
        return "192.0.2.9", 1009

    def sendmsg(self, parts: Sequence[Any], control: Sequence[Any], _: int, address: Address) -> int:
        data = bytes(parts[0])
        size = struct.unpack("=H", control[0][2])[0] if control else len(data)
        self.sent.append(([data[at : at + size] for at in range(0, len(data), size)], address))
        return len(data)

    def recvmsg_into(self, views: Sequence[memoryview], _: int) -> tuple[int, list[Any], int, Address]:
        if not self.inbox:
            raise BlockingIOError
        data, size, source = self.inbox.popleft()
        data = data[: len(views[0])]
        views[0][: len(data)] = data
        control = [(socket.IPPROTO_UDP, UDP_GRO, struct.pack("=i", size))] if size else []
        return len(data), control, 0, source


class Side:
    """A node's engine and pump, and what must come out of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = MemorySocket()
        self.engine = DatagramEngine({socket.AF_INET: self.socket}, MTU, lambda: None, repairs=True)  # type: ignore[dict-item]
        self.engine.write = self._write
        lone.shorten(self.engine)
        self.expected: OrderedDict[bytes, None] = OrderedDict()
        self.counts: Counter[str] = Counter()
        self._null = open("/dev/null", "wb", buffering=0)  # noqa: SIM115 - as long as the run
        self._pump = Pump(self._null.fileno(), {}, lambda *_: None)
        self._pump.router = Router({"10.1.0.1": "one", "fd42::1": "one", "10.1.0.2": "two", "fd42::2": "two"})

    def _write(self, peer: str, frame: memoryview) -> bool:
        """As the tun actor does it; what it lets through is compared."""
        taken = self._pump.write_frame(peer, frame)
        if not taken:
            self.counts["refused by the pump"] += 1
        elif peer == "evil":
            raise WrongError(f"a frame of the evil peer's passed as another's: {bytes(frame[:60]).hex()}")
        else:
            for packet in virtio.segment(frame):
                if packet not in self.expected:
                    raise WrongError(
                        f"a packet came out that is not expected: {packet[:80].hex()}, {len(packet)} bytes"
                    )
                del self.expected[packet]
                self.counts["packets delivered"] += 1
        return taken

    def close(self) -> None:
        self._null.close()
        self.socket.close()


class Fuzz:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = SimpleNamespace(now=1000.0)
        self.one, self.two = Side("one"), Side("two")
        self.counts: Counter[str] = Counter()
        self._captured: list[bytes] = []  # of all that ever passed, and still is
        self._held: list[tuple[Side, Receive]] = []
        self._serial = itertools.count(1)
        self._numbers = itertools.count(7)
        self._evil_keys: list[SendKey] = []
        self._open: list[tuple[bytes, Agreed]] = []  # to read what the nodes say, and say it wrongly

    # --- handshakes

    def shake(self) -> None:
        """New keys for the two."""
        chance, (one, two) = self.chance, (self.one, self.two)
        if chance.random() < 0.5:
            one, two = two, one
        ciphers = chance.choice((AES_256_GCM, CHACHA20_POLY1305))
        mine, theirs = next(self._numbers), next(self._numbers)
        offering = Offering(Terms(FLAGS, ciphers, MTU, mine, (PLACES[one.name],)), one.name, two.name)
        terms = (FLAGS, MTU, theirs, [PLACES[two.name]], AES_256_GCM)
        for _ in range(4):
            self._may_refuse(lambda: answer_untrusted(mutate(chance, offering.message), *terms, one.name, two.name))
        message, agreed = answer_untrusted(offering.message, *terms, one.name, two.name)
        for _ in range(4):
            self._may_refuse(lambda: offering.finish_untrusted(mutate(chance, message)))
        two.engine.add_session(one.name, agreed, theirs, initiated=False)
        finished = offering.finish_untrusted(message)
        one.engine.add_session(two.name, finished, mine, initiated=True)
        self._open = [(theirs.to_bytes(4, "big"), agreed), (mine.to_bytes(4, "big"), finished), *self._open[:6]]

    def shake_with_evil(self, side: Side) -> None:
        number = next(self._numbers)
        offering = Offering(Terms(FLAGS, AES_256_GCM, MTU, 5, (PLACES["evil"],)), "evil", side.name)
        answer = answer_untrusted(offering.message, FLAGS, MTU, number, [], AES_256_GCM, "evil", side.name)
        side.engine.add_session("evil", answer[1], number, initiated=False)
        agreed = offering.finish_untrusted(answer[0])
        self._evil_keys.append(SendKey(agreed.cipher, agreed.send_key, number))

    def _may_refuse(self, call: Any) -> None:
        self.counts["handshakes mutated"] += 1
        try:
            call()
        except UntrustedDataError:
            self.counts["handshakes refused"] += 1

    # --- rounds

    def run(self, wanted: int) -> None:
        """Until so many mutated datagrams were delivered."""
        self.shake()
        for side in (self.one, self.two):
            self.shake_with_evil(side)
        for number in itertools.count(1):
            self._round(clean=number < 50)
            if number % _REKEY_EACH == 0:
                self.shake()
            if self.counts["datagrams fuzzed"] >= wanted:
                break
        for _ in range(50):
            self._round(clean=True)
        if min(side.counts["packets delivered"] for side in (self.one, self.two)) == 0:
            raise WrongError("nothing came through")

    def _round(self, *, clean: bool) -> None:
        self.clock.now += _STEP
        for here, there in ((self.one, self.two), (self.two, self.one)):
            self._send_some(here, there)
        for side in (self.one, self.two):
            side.engine.repairs.on_timer()
            if self.chance.random() < 0.03:
                side.engine.tick()
        for here, there in ((self.one, self.two), (self.two, self.one)):
            receives = [receive for target, receive in self._held if target is there]
            self._held = [(target, receive) for target, receive in self._held if target is not there]
            for datagrams, address in here.socket.sent:
                if address == PLACES[there.name]:
                    receives += self._carry(datagrams, PLACES[here.name], there, clean=clean)
            here.socket.sent.clear()
            if not clean:
                self._nonsense(receives)
            there.socket.inbox.extend(receives)
        for side in (self.one, self.two):
            while side.socket.inbox:
                side.engine.on_readable(socket.AF_INET)

    def _send_some(self, here: Side, there: Side) -> None:
        link = here.engine.live.get(there.name)
        if link is None:
            here.engine.tick()
            return
        for _ in range(self.chance.choice((0, 1, 1, 3))):
            frame = frame_of(self.chance, next(self._serial), from_one=here is self.one)
            for packet in virtio.segment(frame):
                there.expected[packet] = None
            here.engine.sealer.frame[: len(frame)] = frame
            alone = not frame[1] and self.chance.random() < 0.5
            if not alone or not lone.send_lone(here.engine, link, len(frame), self.clock.now):
                here.engine.send(link, len(frame))
            here.counts["frames sent"] += 1
        here.engine.flush()
        while len(there.expected) > _EXPECTED:
            there.expected.popitem(last=False)

    def _carry(self, datagrams: list[bytes], source: Address, there: Side, *, clean: bool) -> list[Receive]:
        """What the network makes of datagrams that were sent together."""
        chance = self.chance
        self.counts["datagrams sent"] += len(datagrams)
        for datagram in datagrams:
            if len(self._captured) < _CAPTURED:
                self._captured.append(datagram)
            else:
                self._captured[chance.randrange(_CAPTURED)] = datagram
        if clean or chance.random() < 0.5:
            size = len(datagrams[0]) if len(datagrams) > 1 else 0
            whole = [(b"".join(datagrams), size, source)]
        else:
            kept = [one for one in datagrams if chance.random() > 0.02]
            if chance.random() < 0.2:
                chance.shuffle(kept)
            whole = [(one, 0, source) for one in kept]
        if clean:
            return whole
        if chance.random() < 0.1:  # later
            self._held += [(there, one) for one in whole]
            whole = []
        evil = evil_receives(chance, datagrams, self._captured, source)
        self.counts["datagrams fuzzed"] += sum(-(-len(data) // size) if size else 1 for data, size, _ in evil)
        mixed = whole + evil
        if chance.random() < 0.5:
            chance.shuffle(mixed)
        return mixed

    def _nonsense(self, receives: list[Receive]) -> None:
        """Of the peer that has keys: both sides' own plaintexts, mutated, and sealed as it should be."""
        chance = self.chance
        if self._captured and chance.random() < 0.7:
            plaintext = self._read(chance.choice(self._captured))
            for key in self._evil_keys:
                key.train = max(1, key.train + chance.choice((0, 0, 1, 50, 5000)))
                receives.append((seal_one(key, evil_plaintext(chance, plaintext)), 0, PLACES["evil"]))
            self.counts["datagrams fuzzed"] += len(self._evil_keys)
            self.counts["nonsense under good keys"] += len(self._evil_keys)

    def _read(self, datagram: bytes) -> bytes:
        for head, agreed in self._open:
            if datagram[:4] == head:
                aead = (AESGCM if agreed.cipher == AES_256_GCM else ChaCha20Poly1305)(agreed.receive_key)
                try:
                    return aead.decrypt(datagram[:12], datagram[12:], None)
                except InvalidTag:
                    break
        return PLAIN + bytes(60)


def fuzz(wanted: int, seed: int) -> dict[str, Any]:
    """Counts. Raises WrongError, or whatever the code raised that it must not."""
    run = Fuzz(seed)
    clock = SimpleNamespace(monotonic=lambda: run.clock.now, sleep=lambda _: None)
    timed = (datagram_engine, lone, repair_loop)
    for module in timed:
        module.__dict__["time"] = clock
    began, memory = time.monotonic(), _rss()
    try:
        run.run(wanted)
    finally:
        for module in timed:
            module.__dict__["time"] = time
        for side in (run.one, run.two):
            side.close()
    totals: Counter[str] = Counter(run.counts)
    for side in (run.one, run.two):
        totals.update(side.counts)
        totals.update(side.engine.opener.counters)
        totals.update(side.engine.counters)
        for link in side.engine.links.values():
            totals.update(link.repairs() or {})
    return {
        "seed": seed,
        "delivered wrong or twice": 0,
        **dict(sorted(totals.items())),
        "seconds": round(time.monotonic() - began, 1),
        "memory grew by MB": round((_rss() - memory) / 1e6, 1),
    }


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz-datagrams",
        description="Mutated datagrams against the datagram path: opening, replay window, reassembly, repair, ways.",
        epilog="example: scripts/fuzz-datagrams --datagrams 1000000 --seed 7      some minutes of a processor",
    )
    parser.add_argument("--datagrams", type=int, default=100_000, help="mutated ones (100000)")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run (a new one)")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    try:
        found = fuzz(options.datagrams, seed)
    except WrongError as exc:
        print(f"fuzz-datagrams: {exc}; again by --seed {seed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
