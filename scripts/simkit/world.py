"""A simulated network on a virtual clock: nodes, links between them, and what the links do to messages.

A link stands for a TCP connection: it delivers in order, after a delay; a lost segment costs a retransmission, now and
then one costs the connection. What was under way on a connection that ends is lost. Two nodes in different parts of a
partitioned network lose their connections a while after the partition begins, and find back to each other by the
back-off that the discovery has for peers it tries (edgevpn/proto/back_off.py). Everything random comes from one seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgevpn.proto.back_off import BackOff

START = 1_786_528_800.0  # unix seconds at virtual time 0
SEGMENT = 1400  # bytes
HEADERS = 52  # bytes of IPv4, TCP and its timestamps
MUX = 12 + 18  # a yamux frame and a noise message around it


@dataclass(frozen=True, slots=True)
class Weather:
    """What links are like. Seconds, and chances from 0 to 1 for each message."""

    delay: tuple[float, float] = (0.002, 0.04)
    loss: float = 0.0
    breaks: float = 0.0
    detect: tuple[float, float] = (3.0, 15.0)  # until a connection that leads nowhere is given up


class SimNode(Protocol):
    """What the network needs of a node."""

    number: int

    def link_up(self, other: int) -> None: ...

    def link_down(self, other: int) -> None: ...

    def receive(self, other: int, payload: object) -> None: ...


@dataclass(slots=True)
class _Link:
    delay: float
    generation: int
    ready: dict[int, float]  # by receiver: when the newest message arrives
    dead: bool = False  # something was lost on it: it will end


def wire_bytes(size: int) -> tuple[int, int]:
    """What a message of `size` bytes on a stream costs on the wire, and its acknowledgements the other way."""
    segments = max(1, -(-(size + MUX) // SEGMENT))
    return size + MUX + segments * HEADERS, segments * HEADERS


class World:
    """The clock, the nodes that are up, and the links."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.chance = random.Random(seed)
        self.weather = weather
        self.now = 0.0
        self.nodes: dict[int, SimNode] = {}
        self.sent: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.messages = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._links: dict[tuple[int, int], _Link] = {}
        self._near: dict[int, set[int]] = {}
        self._parts: dict[int, int] = {}  # of a partition, by node
        self._retrying: set[tuple[int, int]] = set()

    # --- the clock

    def at(self, moment: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (moment, next(self._count), call))

    def run(self, until: float) -> None:
        """Let everything happen that happens before `until`."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call = heapq.heappop(heap)
            call()
        self.now = until

    # --- nodes and links

    def add(self, node: SimNode) -> None:
        self.nodes[node.number] = node
        self._near[node.number] = set()
        self.sent.setdefault(node.number, 0)
        self.received.setdefault(node.number, 0)

    def remove(self, number: int) -> None:
        """The node is gone, and so are its connections."""
        del self.nodes[number]
        for other in sorted(self._near[number]):
            self.disconnect(number, other)
        del self._near[number]

    def neighbours(self, number: int) -> list[int]:
        return sorted(self._near[number])

    def connected(self, one: int, other: int) -> bool:
        return _pair(one, other) in self._links

    def can_reach(self, one: int, other: int) -> bool:
        return self._parts.get(one, 0) == self._parts.get(other, 0)

    def connect(self, one: int, other: int) -> None:
        """Keep two nodes connected from now on: at once, or as soon as the back-off finds it possible."""
        pair = _pair(one, other)
        if one == other or pair in self._links or pair in self._retrying:
            return
        self._retrying.add(pair)
        pause = BackOff(0.3, 5.0, self.chance)

        def attempt() -> None:
            if one not in self.nodes or other not in self.nodes or pair in self._links:
                self._retrying.discard(pair)
            elif self.can_reach(one, other):
                self._retrying.discard(pair)
                self._up(pair)
            else:
                self.at(self.now + pause.next(), attempt)

        self.at(self.now + self.chance.uniform(*self.weather.delay) * 4, attempt)

    def _up(self, pair: tuple[int, int]) -> None:
        self._links[pair] = _Link(self.chance.uniform(*self.weather.delay), next(self._count), {})
        for one, other in (pair, pair[::-1]):
            self._near[one].add(other)
            self.nodes[one].link_up(other)

    def disconnect(self, one: int, other: int) -> None:
        if self._links.pop(_pair(one, other), None) is None:
            return
        for here, there in ((one, other), (other, one)):
            self._near[here].discard(there)
            if here in self.nodes:
                self.nodes[here].link_down(there)

    def partition(self, parts: dict[int, int]) -> None:
        """Nodes reach only those of the same part. Their connections end after a while."""
        self._parts = parts
        for one, other in list(self._links):
            if not self.can_reach(one, other):
                self.at(self.now + self.chance.uniform(*self.weather.detect), lambda a=one, b=other: self._cut(a, b))

    def _cut(self, one: int, other: int) -> None:
        if not self.can_reach(one, other) and self.connected(one, other):
            self.disconnect(one, other)
            self.connect(one, other)

    def heal(self) -> None:
        self._parts = {}
        for (one, other), link in list(self._links.items()):
            if link.dead:
                self._break(one, other, link.generation)

    # --- messages

    def send(self, sender: int, receiver: int, size: int, payload: object, *, copies: int = 1) -> None:
        """A message of `size` bytes on the stream from one to the other; lost without a link."""
        link = self._links.get(_pair(sender, receiver))
        if link is None:
            return
        there, back = wire_bytes(size)
        self.messages += 1
        for node, out, into in ((sender, there, back), (receiver, back, there)):
            self.sent[node] += out * copies
            self.received[node] += into * copies
        delay = link.delay * self.chance.uniform(0.9, 1.3)
        if self.weather.loss and self.chance.random() < self.weather.loss:
            delay += self.chance.uniform(0.2, 1.0)
        if self.weather.breaks and self.chance.random() < self.weather.breaks:
            self.at(self.now + delay, lambda: self._break(sender, receiver, link.generation))
            return
        arrives = max(self.now + delay, link.ready.get(receiver, 0.0))
        link.ready[receiver] = arrives

        def arrive() -> None:
            now = self._links.get(_pair(sender, receiver))
            if now is None or now.generation != link.generation or receiver not in self.nodes:
                return
            if not self.can_reach(sender, receiver):
                now.dead = True
            elif not now.dead:
                self.nodes[receiver].receive(sender, payload)

        self.at(arrives, arrive)

    def _break(self, one: int, other: int, generation: int) -> None:
        link = self._links.get(_pair(one, other))
        if link is not None and link.generation == generation:
            self.disconnect(one, other)
            self.connect(one, other)


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
