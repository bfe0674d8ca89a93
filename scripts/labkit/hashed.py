"""Transfers between two nodes of a lab whose every byte is compared: a TCP stream by its SHA-256, UDP packet by packet.

Programs of their own, run in the nodes' namespaces: `python scripts/labkit/hashed.py WHAT HOST ...`

take-tcp HOST             takes one stream to its end, prints its SHA-256
give-tcp HOST MEGABYTES   gives one of so many, from a generator; prints its SHA-256
take-udp HOST             until nothing has come for 4 s: prints how many different packets came, how many were wrong,
                          how many came twice
give-udp HOST COUNT RATE  packets of 36 to 1036 bytes, each with the SHA-256 of the rest; RATE a second, and never more
                          than IN_FLIGHT on their way: what is lost was lost by the path, however busy the machine is
"""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.labkit.namespaces import Node

TCP_PORT, UDP_PORT = 7000, 7001
MEGABYTE = 1 << 20
_SO_RCVBUFFORCE = 33
_SILENCE = 4.0  # seconds
_A_PAUSE = 50  # packets
IN_FLIGHT = 250  # packets
_A_WORD = 25  # packets, after which the taker says how far it is
_PATIENCE = 0.3  # seconds for a word that may be lost


@dataclass(frozen=True, slots=True)
class Packets:
    """Of those that were sent: how many came, came altered, came twice."""

    sent: int
    came: int
    wrong: int
    twice: int


def transfer(server: Node, client: Node, address: str, megabytes: int, timeout: float) -> float:
    """A stream from client to server; Mbit/s. Raises LabError: it did not end in time, or it is not what was sent."""
    from scripts.labkit.namespaces import LabError

    taking = server.popen(_words("take-tcp", address), stdout=subprocess.PIPE)
    _await_ready(taking)
    began = time.monotonic()
    sent = client.run(_words("give-tcp", address, megabytes), timeout=timeout).stdout.strip()
    took = time.monotonic() - began
    came = taking.communicate(timeout=10)[0].decode().strip()
    server.processes.remove(taking)
    if came != sent or not sent:
        raise LabError(f"{megabytes} MB arrived at {address}, but not as they were sent")
    return megabytes * MEGABYTE * 8 / 1e6 / took


def packets(server: Node, client: Node, address: str, count: int, rate: float) -> Packets:
    """UDP packets from client to server."""
    taking = server.popen(_words("take-udp", address), stdout=subprocess.PIPE)
    _await_ready(taking)
    client.run(_words("give-udp", address, count, rate), timeout=10 * count / rate + 60)
    came, wrong, twice = map(int, taking.communicate(timeout=_SILENCE + 30)[0].split())
    server.processes.remove(taking)
    return Packets(count, came, wrong, twice)


def _words(*words: object) -> list[str]:
    return [sys.executable, str(Path(__file__)), *map(str, words)]


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise RuntimeError("the taker did not start")


# --- the programs


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def take_tcp(host: str) -> None:
    with socket.create_server((host, TCP_PORT), family=_family(host)) as listening:
        print("ready", flush=True)
        taken, digest = listening.accept()[0], hashlib.sha256()
        with taken:
            while data := taken.recv(MEGABYTE):
                digest.update(data)
    print(digest.hexdigest(), flush=True)


def give_tcp(host: str, megabytes: int) -> None:
    chance, digest = random.Random(1), hashlib.sha256()
    with socket.create_connection((host, TCP_PORT)) as sock:
        for _ in range(megabytes):
            data = chance.randbytes(MEGABYTE)
            digest.update(data)
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)  # its end: the other side has all
    print(digest.hexdigest())


def take_udp(host: str) -> None:
    seen: set[int] = set()
    wrong = twice = 0
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        sock.bind((host, UDP_PORT))
        print("ready", flush=True)
        try:
            while True:
                data, giver = sock.recvfrom(2048)
                sock.settimeout(_SILENCE)
                wrong += hashlib.sha256(data[32:]).digest() != data[:32]
                number = int.from_bytes(data[32:36], "big")
                twice += number in seen
                seen.add(number)
                if len(seen) % _A_WORD == 0:
                    sock.sendto(number.to_bytes(4, "big"), giver)
        except TimeoutError:
            print(len(seen), wrong, twice, flush=True)


def give_udp(host: str, count: int, rate: float) -> None:
    chance = random.Random(2)
    began, known = time.monotonic(), 0
    with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
        sock.connect((host, UDP_PORT))
        sock.settimeout(_PATIENCE)
        for number in range(count):
            body = number.to_bytes(4, "big") + chance.randbytes(chance.randint(0, 1000))
            sock.send(hashlib.sha256(body).digest() + body)
            if number % _A_PAUSE == 0:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            while number - known > IN_FLIGHT:
                try:
                    known = max(known, int.from_bytes(sock.recv(4), "big"))
                except TimeoutError:
                    known = number


if __name__ == "__main__":
    what, host, *more = sys.argv[1:]
    if what == "take-tcp":
        take_tcp(host)
    elif what == "give-tcp":
        give_tcp(host, int(more[0]))
    elif what == "take-udp":
        take_udp(host)
    else:
        give_udp(host, int(more[0]), float(more[1]))
