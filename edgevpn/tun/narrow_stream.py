"""Packets towards a peer whose interface takes less than ours, where there are no datagrams: a Go node's stream. Pure.

The same rules as on a narrow datagram way (edgevpn/tun/fit.py): TCP is cut finer and told a smaller MSS, IPv4 that may
be is fragmented, the sender of what is left is answered "too big". IPv6 packets of up to 1280 bytes go as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from edgevpn.errors import UntrustedDataError
from edgevpn.proto.too_big import fragment, too_big_answer
from edgevpn.tun import virtio
from edgevpn.tun.fit import MAX_SYN, Fit, clamp_mss, fit

_ANSWERS_AT_ONCE, _ANSWERS_A_SECOND = 20, 20


class NarrowStream:
    """`mtu`: of the peer's interface. `answer` gives our own device an ICMP packet. Counts what it `refused`."""

    def __init__(self, mtu: int, answer: Callable[[bytes], object]) -> None:
        self.mtu = mtu
        self.refused = 0
        self._answer = answer
        self._answers = float(_ANSWERS_AT_ONCE)
        self._answered_at = 0.0

    def packets(self, frame: bytes, now: float) -> list[bytes]:
        """The packets that a frame of our own device becomes; none where its sender is told."""
        buffer = bytearray(frame)
        try:
            outcome = fit(buffer, len(buffer), self.mtu)
            if outcome is Fit.FITS and len(buffer) <= MAX_SYN:
                clamp_mss(buffer, len(buffer), self.mtu)
            packets = virtio.segment(memoryview(buffer))
        except UntrustedDataError:
            self.refused += 1
            return []
        if outcome is Fit.FRAGMENT:
            return [piece for packet in packets for piece in fragment(packet, self.mtu)]
        if outcome is Fit.REFUSE:
            self._refuse(packets[0], now)
            return []
        return packets

    def clamp(self, frame: bytes | memoryview) -> bytes | memoryview:
        """A frame of the peer's: its connections are told the same."""
        if len(frame) > MAX_SYN:
            return frame
        buffer = bytearray(frame)
        return bytes(buffer) if clamp_mss(buffer, len(buffer), self.mtu) else frame

    def _refuse(self, packet: bytes, now: float) -> None:
        self.refused += 1
        self._answers = min(_ANSWERS_AT_ONCE, self._answers + (now - self._answered_at) * _ANSWERS_A_SECOND)
        self._answered_at = now
        answer = too_big_answer(packet, self.mtu) if self._answers >= 1 else None
        if answer is not None:
            self._answers -= 1
            self._answer(answer)
