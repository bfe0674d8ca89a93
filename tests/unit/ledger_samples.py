"""Peers and entries that the ledger's tests share."""

from __future__ import annotations

import hashlib

from edgevpn.proto.entry import Entry, sign_entry
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.proto.values import Machine, write_heartbeat, write_value

NOW = 1_786_528_800.0
TTL = 480.0


def peer(number: int) -> PrivateKey:
    """The same peer for the same number."""
    return PrivateKey(hashlib.sha256(b"peer %d" % number).digest())


ALICE, BOB, CAROL = sorted((peer(number) for number in range(3)), key=lambda key: key.peer_id)


def machine_value(owner: PrivateKey, hostname: str = "") -> str:
    return write_value(Machine(owner.peer_id, hostname))


def machine(
    owner: PrivateKey, version: int = 1, hostname: str = "", key: str = "10.1.0.1", updated_at: float = NOW
) -> Entry:
    return sign_entry(owner, "machines", key, machine_value(owner, hostname), version, int(updated_at))


def tombstone(
    author: PrivateKey, version: int, bucket: str = "machines", key: str = "10.1.0.1", updated_at: float = NOW
) -> Entry:
    return sign_entry(author, bucket, key, "", version, int(updated_at), deleted=True)


def heartbeat(owner: PrivateKey, at: float = NOW, version: int = 1) -> Entry:
    return sign_entry(owner, "healthcheck", owner.peer_id, write_heartbeat(at), version, int(at))


def heartbeats(*owners: PrivateKey, at: float = NOW) -> dict[str, Entry]:
    return {owner.peer_id: heartbeat(owner, at) for owner in owners}
