"""Identify 1.0 (libp2p spec identify): what a peer says of itself. Pure, over libp2p's protobuf message.

A message goes over the wire with its length in front (varint). What a peer says is bounded: `MAX_MESSAGE` bytes,
`MAX_PROTOCOLS` names, `MAX_ADDRS` addresses; the rest is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import UntrustedDataError

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
MAX_MESSAGE = 64 * 1024
MAX_PROTOCOLS = 256
MAX_ADDRS = 64
_MAX_NAME = 256


@dataclass(frozen=True)
class Identity:
    """What a peer said; addresses are multiaddrs in text, `observed` is where it sees us ("" if it does not say)."""

    agent: str
    protocols: frozenset[str]
    listen_addrs: tuple[str, ...]
    observed: str


def build(public_key: bytes, agent: str, protocols: Iterable[str], addrs: Iterable[str], observed: str) -> bytes:
    """An identify message with its length. `public_key`: in libp2p's protobuf form."""
    message = Identify(
        protocol_version="ipfs/0.1.0",
        agent_version=agent,
        public_key=public_key,
        listen_addrs=[Multiaddr(addr).to_bytes() for addr in addrs],
        protocols=sorted(protocols),
    )
    if observed:
        message.observed_addr = Multiaddr(observed).to_bytes()
    return encode_varint_prefixed(message.SerializeToString())


def parse_untrusted(body: bytes) -> Identity:
    """A message without its length. Raises UntrustedDataError."""
    message = Identify()
    try:
        message.ParseFromString(body)
    except (DecodeError, ValueError):
        raise UntrustedDataError("identify: not a message") from None
    return Identity(
        agent=_printable(message.agent_version),
        protocols=frozenset(p for p in list(message.protocols)[:MAX_PROTOCOLS] if len(p) <= _MAX_NAME),
        listen_addrs=tuple(text for raw in list(message.listen_addrs)[:MAX_ADDRS] if (text := addr_text(raw))),
        observed=addr_text(message.observed_addr),
    )


def _printable(text: str) -> str:
    return "".join(c for c in text[:_MAX_NAME] if c.isprintable())


def addr_text(raw: bytes) -> str:
    """The address in text, "" for anything that is none."""
    if not 0 < len(raw) <= 1024:
        return ""
    try:
        return str(Multiaddr(raw))
    except Exception:  # noqa: BLE001 - its codecs raise whatever their libraries raise
        return ""
