"""TCP's data that came behind a hole, for a few milliseconds, until the hole is asked for, or filled. Pure.

TCP tells its sender of a hole at once, so what was lost is sent again by TCP before the copy that we ask for has come;
then what we bring is too late, and worse: once a retransmission has filled the first of several holes, Linux takes the
copies for the others for old duplicates, by their timestamps (PAWS, RFC 7323), drops them, and can not find out any
more that it need not have slowed down (RFC 3522, RFC 3708). So the ask goes first, and then what came behind the hole.

Packets of other protocols are never held, nor small ones: a late acknowledgement looks like a queue (HyStart, RFC
9406).
"""

from __future__ import annotations

from typing import Final

from edgevpn.proto.ip import TCP
from edgevpn.proto.packet_stream import VIRTIO_HEADER

MOST_WAIT: Final = 0.006  # seconds; the ask ends it
MOST_BYTES: Final = 2 << 20
_SMALL: Final = 256


class HeldBack:
    """For one session."""

    def __init__(self) -> None:
        self.since = 0.0
        self.until = 0.0  # 0: nothing is to be held
        self._frames: list[bytes] = []
        self._size = 0

    def begin(self, now: float) -> None:
        """There is a hole. If one was there before, its time counts."""
        if not self.until:
            self.since, self.until = now, now + MOST_WAIT

    def takes(self, frame: memoryview, now: float) -> bool:
        """Whether the frame is held from now on; else it is to be written."""
        if now >= self.until or self._size > MOST_BYTES or len(frame) < _SMALL or not is_tcp(frame):
            return False
        self._frames.append(bytes(frame))
        self._size += len(frame)
        return True

    def end(self) -> list[bytes]:
        """All that was held."""
        frames, self._frames, self._size, self.until = self._frames, [], 0, 0.0
        return frames


def is_tcp(frame: memoryview | bytes) -> bool:
    at = VIRTIO_HEADER
    return frame[at + (9 if frame[at] >> 4 == 4 else 6)] == TCP
