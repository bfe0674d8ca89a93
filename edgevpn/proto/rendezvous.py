"""Where and how the members of a network meet, at a given time.

All names are MD5s (hex) of one-time passwords (otp.py), so they change with the windows:

    rendezvous    MD5(code of otp.dht); the rendezvous string itself while otp.dht.key is empty
    topic         MD5(code of the room, with otp.crypto's interval and length)
    public topic  MD5(that same code + "public"), where strangers ask to be let in (peerguard.py)
    seal key      MD5(code of otp.crypto), whose 32 characters are an AES-256 key (seal.py)

In the DHT a rendezvous string is CIDv1(raw, sha2-256(string)), asked for by its multihash. A length of 0 or less
means 12 characters for the rendezvous and 6 for the others, as in Go.
"""

from __future__ import annotations

import base64
import hashlib
import math
from dataclasses import dataclass, field
from typing import ClassVar

from edgevpn.proto import otp
from edgevpn.proto.network_config import NetworkConfig

DHT_DEFAULT_LENGTH = 12
DEFAULT_MDNS_SERVICE = "_p2p._udp"  # libp2p's own, what an empty mdns name means
RING_SIZE = 2

_SHA2_256 = b"\x12\x20"  # multihash: function 0x12, 32 bytes
_CID_V1_RAW = b"\x01\x55"


@dataclass(frozen=True)
class Names:
    """The names of one window each; the seal key does not show in repr. Times are unix seconds, start <= t < end."""

    topic: str
    public_topic: str
    seal_key: str = field(repr=False)
    topic_start: float
    topic_end: float
    rendezvous: str
    rendezvous_start: float
    rendezvous_end: float
    __secrets__: ClassVar = ("seal_key",)

    @property
    def rendezvous_key(self) -> bytes:
        """The DHT key of the rendezvous string."""
        return dht_key(self.rendezvous)


@dataclass(frozen=True)
class Windows:
    """Names around a moment. Topic and rendezvous may rotate apart: each has its own times."""

    previous: Names
    current: Names
    next: Names


def rendezvous_at(config: NetworkConfig, now: float) -> str:
    """The rendezvous string at `now` (unix seconds)."""
    if not config.otp_dht.key:
        return config.rendezvous
    length = config.otp_dht.length if config.otp_dht.length > 0 else DHT_DEFAULT_LENGTH
    return otp.md5_hex(otp.totp(config.otp_dht.key, length, config.otp_dht.interval, now))


def _room_code(config: NetworkConfig, now: float) -> str:
    return otp.totp(config.room, config.otp_crypto.length, config.otp_crypto.interval, now)


def topic_at(config: NetworkConfig, now: float) -> str:
    """The gossip topic at `now` (unix seconds)."""
    return otp.md5_hex(_room_code(config, now))


def public_topic_at(config: NetworkConfig, now: float) -> str:
    """The public topic at `now` (unix seconds)."""
    return otp.md5_hex(_room_code(config, now) + "public")


def seal_key_at(config: NetworkConfig, now: float) -> str:
    """The seal key at `now` (unix seconds)."""
    crypto = config.otp_crypto
    return otp.md5_hex(otp.totp(crypto.key, crypto.length, crypto.interval, now))


def windows(config: NetworkConfig, now: float) -> Windows:
    """The names of the previous, the current and the next window at `now` (unix seconds)."""
    return Windows(_names(config, now, -1), _names(config, now, 0), _names(config, now, 1))


def _names(config: NetworkConfig, now: float, offset: int) -> Names:
    crypto = otp.window(config.otp_crypto.interval, now, offset)
    if config.otp_dht.key:
        dht = otp.window(config.otp_dht.interval, now, offset)
        start, end = float(dht.start), float(dht.end)
    else:
        start, end = -math.inf, math.inf
    return Names(
        topic=topic_at(config, crypto.start),
        public_topic=public_topic_at(config, crypto.start),
        seal_key=seal_key_at(config, crypto.start),
        topic_start=float(crypto.start),
        topic_end=float(crypto.end),
        rendezvous=rendezvous_at(config, start if config.otp_dht.key else now),
        rendezvous_start=start,
        rendezvous_end=end,
    )


def mdns_service(config: NetworkConfig) -> str:
    """The mDNS service name, without ".local."."""
    return config.mdns or DEFAULT_MDNS_SERVICE


def dht_key(rendezvous: str) -> bytes:
    """The multihash under which providers of a rendezvous string are kept in the DHT."""
    return _SHA2_256 + hashlib.sha256(rendezvous.encode()).digest()


def cid(rendezvous: str) -> str:
    """CIDv1 text (base32) of a rendezvous string."""
    return "b" + base64.b32encode(_CID_V1_RAW + dht_key(rendezvous)).decode().lower().rstrip("=")


def remember(ring: tuple[str, ...], rendezvous: str) -> tuple[str, ...]:
    """The rendezvous strings to announce (oldest first, two at most) once `rendezvous` is the newest."""
    if ring and ring[-1] == rendezvous:
        return ring
    return (*ring, rendezvous)[-RING_SIZE:]
