"""Checkers for entries, blocks and the ledger's rules: block, sign, merge, reap, leader, dhcp.

Each takes a case (a JSON object of a vector file) and returns None where we agree with the Go program, else why not.
`lenient` cases may be refused, `panics` cases must not be run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from edgevpn.errors import UntrustedDataError
from edgevpn.ledger import leader, merge
from edgevpn.ledger.dhcp import address_after_highest
from edgevpn.ledger.leases import Leases
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.reap import reap
from edgevpn.proto.block import (
    Block,
    Storage,
    checksum,
    first_block,
    hash_input,
    next_block,
    read_block_untrusted,
    write_block,
)
from edgevpn.proto.entry import Entry, canonical_bytes, sign_entry, verify_entry
from edgevpn.proto.peer_key import PrivateKey
from tests.vectors.cases_proto import differ, first, refusable

Case = dict[str, Any]


def read_json_untrusted(value: Any) -> Block:
    """A block given as JSON inside the vector file, not as its text."""
    return read_block_untrusted(json.dumps(value))


def storage_json(storage: Storage) -> Any:
    """A storage as the JSON value that Go would write."""
    return json.loads(write_block(Block(storage=storage)))["Storage"]


@refusable
def check_block(case: Case) -> str | None:
    if "read" in case:
        return check_reading(case)
    block = read_block_untrusted(case["json"])
    finding = differ("hash after reading", case["hash_after_reading"], checksum(block))
    if finding or case.get("lenient"):
        return finding
    # Where reading JSON loses something (a bare entry's time), Go's block in memory had another hash input than ours.
    in_memory = base64.b64decode(case["hash_input"])
    findings = [
        differ("json", case["json"], write_block(block).decode()),
        differ("hash of its input", case["hash"], hashlib.sha256(in_memory).hexdigest()),
    ]
    if case["hash"] == case["hash_after_reading"]:
        findings.append(differ("hash input", in_memory, hash_input(block)))
        findings.append(differ("hash", case["hash"], checksum(block)))
    if case["name"] == "genesis":
        findings.append(differ("genesis", (0, case["hash"], ""), _first()))
    if "previous" in case:
        storage = read_json_untrusted({"Storage": json.loads(case["storage"])}).storage
        ours = next_block(read_block_untrusted(case["previous"]), storage, case["timestamp"])
        findings.append(differ("next", case["json"], write_block(ours).decode()))
    return first(*findings)


def _first() -> tuple[int, str, str]:
    block = first_block(0)
    return block.index, block.hash, block.prev_hash


def check_reading(case: Case) -> str | None:
    try:
        block = read_block_untrusted(case["read"])
    except UntrustedDataError:
        if case["error"]:
            return None
        raise
    if case["error"]:
        return f"must be refused, got {block!r}"
    return differ("json", case["json"], write_block(block).decode())


@refusable
def check_sign(case: Case) -> str | None:
    bucket, key = case["bucket"], case["key"]
    signature = base64.b64decode(case["sig"])
    entry = Entry(
        case["value"], case["owner"], case["version"], case["updated_at"], case.get("deleted", False), signature
    )
    findings = [differ("canonical", case["canonical"], canonical_bytes(bucket, key, entry).hex())]
    valid = verify_entry(bucket, key, entry)
    if valid or not case.get("lenient"):
        findings.append(differ("valid", case["valid"], valid))
    if "seed" in case:
        signer = PrivateKey(bytes.fromhex(case["seed"]))
        marshalled = base64.b64decode(case["private_key"])
        read = PrivateKey.from_marshalled_untrusted(marshalled)
        ours = sign_entry(signer, bucket, key, entry.value, entry.version, entry.updated_at, deleted=entry.deleted)
        findings += [
            differ("owner", case["owner"], signer.peer_id),
            differ("private key", marshalled, signer.marshal()),
            differ("owner of the private key", case["owner"], read.peer_id),
            differ("entry", entry, ours),
        ]
    return first(*findings)


@refusable
def check_merge(case: Case) -> str | None:
    local, expect, mode = read_json_untrusted(case["local"]), case["expect"], Mode(case["mode"])
    try:
        incoming = read_block_untrusted(case["incoming"])
    except UntrustedDataError:
        if expect.get("error"):
            return None
        raise
    if expect.get("error"):
        return "the block must be refused"
    leases = Leases(local.storage, case["now"], case["ttl"])
    live = {peer: leases.is_live(peer) for peer in case.get("live") or {}}
    finding = differ("live", case.get("live") or {}, live)
    if finding:
        return finding
    if mode is Mode.OFF:
        return _check_adoption(local, incoming, expect)
    result = merge.merge_storage(local.storage, incoming.storage, mode=mode, now=case["now"], ttl=case["ttl"])
    expected = {(item["bucket"], item["key"]): item["reason"] for item in expect.get("violations") or []}
    reasons: dict[tuple[str, str], str] = {}
    for violation in result.violations:
        place = violation.place.bucket, violation.place.key
        reasons[place] = violation.reason
        forged = not verify_entry(*place, violation.entry)
        if forged and expected.get(place) == merge.BAD_SIGNATURE:
            reasons[place] = merge.BAD_SIGNATURE  # Go checks it first, we last: another broken rule may be named
    return first(
        differ("changed", expect["changed"], bool(result.changed)),
        differ("index", expect["index"], local.index + bool(result.changed)),
        differ("storage", expect["storage"], storage_json(result.storage)),
        differ("violations", expected, reasons),
    )


def _check_adoption(local: Block, incoming: Block, expect: Case) -> str | None:
    adopted = merge.adopts(local, incoming)
    after = incoming if adopted else local
    return first(
        differ("changed", expect["changed"], adopted),
        differ("index", expect["index"], after.index),
        differ("storage", expect["storage"], storage_json(after.storage)),
        differ("hash", expect.get("hash", after.hash), after.hash),
    )


@refusable
def check_reap(case: Case) -> str | None:
    local, expect = read_json_untrusted(case["local"]), case["expect"]
    storage, changed = local.storage, False
    if case.get("reaper_seed") and Mode(case["mode"]) is not Mode.OFF:
        signer = PrivateKey(bytes.fromhex(case["reaper_seed"]))
        result = reap(local.storage, signer, case["now"], case["ttl"], case["tombstone_ttl"])
        storage, changed = result.storage, bool(result.tombstones or result.dropped)
    return first(
        differ("changed", expect["changed"], changed),
        differ("published", expect["published"], changed),
        differ("index", expect["index"], local.index + changed),
        differ("storage", expect["storage"], storage_json(storage)),
    )


@refusable
def check_leader(case: Case) -> str | None:
    if case.get("panics"):
        return differ("leader of none", None, leader.leader_of(case["peers"]))
    return first(
        differ("fnv1a32", case["fnv1a32"], [leader.fnv1a_32(peer) for peer in case["peers"]]),
        differ("leader", case["leader"], leader.leader_of(case["peers"])),
    )


@refusable
def check_dhcp(case: Case) -> str | None:
    ours = address_after_highest(case["default"], case["used"])
    if case.get("lenient") or case.get("panics"):
        # Where Go makes nonsense of addresses that are none, ours is as if there were none.
        return None if ours in (case.get("next"), case["default"]) else f"got {ours!r}"
    return differ("next", case["next"], ours)


CHECKERS: dict[str, Callable[[Case], str | None]] = {
    "block": check_block,
    "sign": check_sign,
    "merge": check_merge,
    "reap": check_reap,
    "leader": check_leader,
    "dhcp": check_dhcp,
}
