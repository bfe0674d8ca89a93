"""Messages of the ledger actor: entries, routes and patterns of names."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class LedgerRequest(Message, frozen=True):
    """Entries of one bucket, or of all ("")."""

    bucket: str = ""


class LedgerEntry(Message, frozen=True):
    """One entry; also the value of the states "users", "services", "files" and "egress", by key (no tombstones)."""

    bucket: str
    key: str
    value: str
    owner: str
    version: int
    updated_at: int
    deleted: bool


class LedgerReply(Message, frozen=True):
    entries: list[LedgerEntry]


class BlockRequest(Message, frozen=True):
    """Answered by BlockReply."""


class BlockReply(Message, frozen=True):
    """The whole block, tombstones and signatures too: the JSON that is gossiped."""

    json: bytes


class BucketMark(Message, frozen=True):
    """Value of the state "buckets", by name: how many entries there are; `change` grows with every change of one."""

    entries: int
    change: int


class Announce(Message, frozen=True):
    """Write and sign an entry; it is gossiped at once and kept alive. Answered by Done."""

    bucket: str
    key: str
    value: str


class Withdraw(Message, frozen=True):
    """Delete an entry by a tombstone. Answered by Done."""

    bucket: str
    key: str


class Route(Message, frozen=True):
    """Value of the state "routes", by VPN address: the peer that may use that address."""

    peer_id: str
    hostname: str


class DhcpState(Message, frozen=True):
    """Value of the state "dhcp" at "dhcp": our addresses (CIDRs) by --dhcp, and what is waited for ("" for nothing)."""

    addresses: list[str]
    waiting: str


class DnsPattern(Message, frozen=True):
    """Value of the state "dns", by pattern: its JSON in the ledger, and its place in the order to take them."""

    value: str
    place: int


class ClockState(Message, frozen=True):
    """Value of the state "clock" at "clock": our clock against those of `peers` nodes heard lately.

    `offset_s`: how far ours is ahead (negative: behind); `text`: one line for the user, empty when all is well.
    """

    offset_s: float
    peers: int
    text: str


Bodies: TypeAlias = (
    LedgerRequest
    | LedgerReply
    | LedgerEntry
    | BlockRequest
    | BlockReply
    | BucketMark
    | Announce
    | Withdraw
    | Route
    | DhcpState
    | DnsPattern
    | ClockState
)
