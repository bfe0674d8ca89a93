"""What a block heard on the topic lacks of what we have, so that its sender is told once (gossip_core.py)."""

from __future__ import annotations

import hashlib

from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState
from edgevpn.proto.block import Block
from edgevpn.proto.entry import same_entry
from edgevpn.proto.values import HEALTHCHECK


def lack_of(state: LedgerState, block: Block) -> bytes:
    """A hash of what a whole block on the topic lacks, or has an older version of, that we have; b"": nothing.

    For blocks of some entries (index 0, see LedgerState.partial_block) it has no meaning.
    """
    if state.mode is Mode.OFF:
        ours = state.block
        if (block.index, block.hash) >= (ours.index, ours.hash):
            return b""
        return hashlib.sha256(f"{block.index} {block.hash} {ours.index} {ours.hash}".encode()).digest()
    lacking = hashlib.sha256()
    lacks = False
    leeway = 0.25 * state.ttl
    for bucket, entries in state.storage.items():
        theirs = block.storage.get(bucket, {})
        for key, entry in entries.items():
            other = theirs.get(key)
            if other is not None and bucket == HEALTHCHECK and entry.updated_at - other.updated_at < leeway:
                continue  # a heartbeat that is under way
            if other is None or (other.version < entry.version and not same_entry(other, entry)):
                lacks = True
                lacking.update(f"{bucket}\0{key}\0{entry.version}\0".encode())
    return lacking.digest() if lacks else b""
