"""Small packets that somebody waits for, sent a second time a moment later, where the way loses some. Pure.

Parity brings back what is lost some milliseconds late, and what is lost in a run often not without a round trip. A
large transfer does not mind; an echo, a key press, a frame of speech or a question of DNS does, and is so small that it
may as well go twice. The second goes a tick later, when a run of losses is over. Of what arrives twice the replay
window takes one.

Not for TCP's bare acknowledgements: there are many, and each says what the one before said. PUSH tells small data
from them (RFC 9293, 3.9.1.2).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edgevpn.proto.ip import IPV6_HEADER, TCP
from edgevpn.proto.packet_stream import VIRTIO_HEADER

LARGEST: Final = 256  # bytes of a frame
LATER: Final = 0.001  # seconds; ticks are 2 ms apart
A_SECOND, AT_ONCE = 500.0, 50.0  # so many
_PUSH = 0x08
_FLAGS_AT = 13


def is_urgent(frame: memoryview | bytes | bytearray) -> bool:
    """Whether a whole small packet of our device's, behind its virtio header, is worth being sent twice."""
    size = len(frame)
    if not VIRTIO_HEADER + 20 <= size <= LARGEST:
        return False
    ip = VIRTIO_HEADER
    if frame[ip] >> 4 == 4:
        protocol, start = frame[ip + 9], ip + (frame[ip] & 15) * 4
    else:
        protocol, start = frame[ip + 6], ip + IPV6_HEADER
    return protocol != TCP or (size > start + _FLAGS_AT and bool(frame[start + _FLAGS_AT] & _PUSH))


class Twice:
    """Of one session: sealed datagrams that wait for their second time; no more than A_SECOND."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, bytes]] = deque()  # when, what
        self._left, self._at = AT_ONCE, 0.0

    def add(self, datagram: bytes, now: float) -> bool:
        """It went out now. Whether it will go again."""
        self._left = min(AT_ONCE, self._left + (now - self._at) * A_SECOND)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        self.waiting.append((now + LATER, datagram))
        return True

    def due(self, now: float) -> list[bytes]:
        """What is to be sent now, as it is."""
        found = []
        while self.waiting and self.waiting[0][0] <= now:
            found.append(self.waiting.popleft()[1])
        return found
