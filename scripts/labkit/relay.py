"""The wire of a lab that has delay, loss or a rate: a learning switch in userspace, run in the bridge's namespace.

One packet socket a port (packet(7)), non-blocking, on one epoll. Each frame is dropped with the given probability (from
a generator of its port's, seeded; what finds neighbours is spared, or a lossy lab would start with seconds of silence),
held for the delay, and given a place behind those before it on its way out at the rate. A port's queue holds at most
QUEUE_MS of the rate, and all of them together MOST_WAITING frames: what comes on top is dropped, as on a real link.
It ends with its maker, whose end of standard input closes.

It carries 700 Mbit/s of full-size TCP segments, or 25 000 datagrams a second, on one core of a small machine: enough
for bad links, not for speed tests.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import random
import select
import socket
import time

_ALL = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING: our own frame, seen again
QUEUE_MS = 30.0
MOST_WAITING = 65536
_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description="Relay frames between the ports v1..vN of this namespace.")
    parser.add_argument("--ports", type=int, required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="held this long in each direction")
    parser.add_argument("--loss", type=float, default=0.0, help="fraction of frames dropped")
    parser.add_argument("--rate-mbit", type=float, default=0.0, help="of each port, outgoing; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    relay(options.ports, options.delay_ms / 1000, options.loss, options.rate_mbit * 1e6 / 8, options.seed)


def relay(count: int, delay: float, loss: float, rate: float, seed: int) -> None:
    """Run until standard input closes. Seconds, fraction, bytes a second."""
    chances: dict[int, random.Random] = {}
    ports: dict[int, socket.socket] = {}
    poll = select.epoll()
    for k in range(1, count + 1):
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        port.bind((f"v{k}", 0))
        port.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            port.setsockopt(socket.SOL_SOCKET, option, 8 << 20)
        ports[port.fileno()] = port
        chances[port.fileno()] = random.Random(f"{seed}/{k}")
        poll.register(port.fileno(), select.EPOLLIN)
    poll.register(0, 0)  # hang-ups are always told
    free_at = dict.fromkeys(ports, 0.0)
    learned: dict[bytes, int] = {}
    waiting: list[tuple[float, int, int, bytes]] = []
    order = itertools.count()
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, out, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # the port's queue is full, or the interface is down: a lost frame
                ports[out].send(frame)
        for descriptor, _ in poll.poll(max(0.0, waiting[0][0] - now) if waiting else -1):
            if descriptor not in ports:
                return
            port, chance = ports[descriptor], chances[descriptor]
            for _ in range(_BATCH):
                try:
                    frame, address = port.recvfrom(65536)
                except BlockingIOError:
                    break
                if address[2] == _OUTGOING:
                    continue
                learned[frame[6:12]] = descriptor
                if loss and not finds_neighbours(frame) and chance.random() < loss:
                    continue
                if len(waiting) >= MOST_WAITING:
                    continue
                known = learned.get(frame[:6])
                now = time.monotonic()
                for out in [known] if known is not None else [p for p in ports if p != descriptor]:
                    start = now
                    if rate:
                        start = max(now, free_at[out])
                        if start - now > QUEUE_MS / 1000:
                            continue
                        free_at[out] = start + len(frame) / rate
                        start = free_at[out]
                    heapq.heappush(waiting, (start + delay, next(order), out, frame))


def finds_neighbours(frame: bytes) -> bool:
    """Whether an Ethernet frame is ARP, IPv6 neighbour discovery (RFC 4861) or multicast membership (RFC 3810).

    None of them is drawn for: they come when they like, and the losses of the rest are the same with the same seed.
    """
    kind = frame[12:14]
    if kind == b"\x86\xdd" and len(frame) > 54:
        # 58 is ICMPv6; 0 a hop-by-hop header, which only membership reports carry here
        return frame[20] == 0 or (frame[20] == 58 and 133 <= frame[54] <= 137)
    return kind == b"\x08\x06"


if __name__ == "__main__":
    main()
