"""What a case of each vector file about blocks and the ledger must show. None: it does; text: why not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from edgevpn.errors import UntrustedDataError
from edgevpn.draft import dhcp, leader, reap
from edgevpn.draft.leases import Liveness
from edgevpn.draft.merge import merge
from edgevpn.draft import block as blocks
from edgevpn.draft.entry import Entry, is_signed_by_owner, sign, signed_bytes
from edgevpn.draft.peer_key import PrivateKey

Case = dict[str, Any]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _differs(what: str, expected: object, got: object) -> str | None:
    return None if expected == got else f"{what}: expected {expected!r:.300}, got {got!r:.300}"


def check_block(case: Case) -> str | None:
    if "read" in case:
        try:
            block = blocks.read_untrusted(case["read"])
        except UntrustedDataError as exc:
            return None if case["error"] or case.get("lenient") else f"refused: {exc}"
        if case["error"]:
            return "taken, though Go refuses it"
        return _differs("written again", case["json"], blocks.write(block).decode())
    if "previous" in case:
        previous = blocks.read_untrusted(case["previous"])
        storage = blocks.read_untrusted(f'{{"Storage":{_text(case["storage"])}}}').storage
        made = blocks.next_block(previous, storage or {}, case["timestamp"])
        return _differs("next block", case["json"], blocks.write(made).decode())
    block = blocks.read_untrusted(case["json"])
    again = blocks.write(block).decode()
    if again != case["json"]:
        return _differs("written again", case["json"], again)
    return _differs("hash", case["hash_after_reading"], blocks.checksum(block))


def check_sign(case: Case) -> str | None:
    entry = Entry(
        case["value"],
        case["owner"],
        case["version"],
        case["updated_at"],
        case["deleted"],
        base64.b64decode(case["sig"]),
    )
    bucket, key = case["bucket"], case["key"]
    if "canonical" in case and signed_bytes(bucket, key, entry).hex() != case["canonical"]:
        return _differs("signed bytes", case["canonical"], signed_bytes(bucket, key, entry).hex())
    valid = is_signed_by_owner(bucket, key, entry)
    if valid != case["valid"] and not (case.get("lenient") and not valid):
        return f"valid: expected {case['valid']}, got {valid}"
    if "seed" in case:
        signer = PrivateKey(bytes.fromhex(case["seed"]))
        if base64.b64encode(signer.marshal()).decode() != case["private_key"]:
            return "the marshalled private key differs"
        if PrivateKey.from_marshalled_untrusted(signer.marshal()).peer_id != signer.peer_id:
            return "the marshalled private key does not read back"
        if case["valid"] and signer.peer_id == case["owner"]:
            return _differs("signature", entry.sig, sign(bucket, key, entry, signer).sig)
    return None


def _canonical(storage: Any) -> Any:
    """A storage for comparing: the shape Go writes, empty and nil buckets alike."""
    text = json.dumps(storage) if not isinstance(storage, str) else storage
    block = blocks.read_untrusted(f'{{"Storage":{text}}}')
    return {bucket: dict(items or {}) for bucket, items in (block.storage or {}).items()}


def _same(one: dict[str, dict[str, Entry]], other: dict[str, dict[str, Entry]]) -> bool:
    return one.keys() == other.keys() and all(
        one[bucket].keys() == other[bucket].keys()
        and all(one[bucket][key].same_as(other[bucket][key]) for key in one[bucket])
        for bucket in one
    )


def check_merge(case: Case) -> str | None:
    expect = case["expect"]
    local = blocks.read_untrusted(_text(case["local"]))
    storage = local.buckets()
    liveness = Liveness(storage, case["ttl"], case["now"])
    for peer, live in case.get("live", {}).items():
        if liveness.is_live(peer) != live:
            return f"live {peer}: expected {live}"
    try:
        incoming = blocks.read_untrusted(case["incoming"])
    except UntrustedDataError as exc:
        if expect.get("error") or case.get("lenient"):
            return None
        return f"refused: {exc}"
    if expect.get("error"):
        return "taken, though Go refuses it"
    if case["mode"] == "off":
        after = blocks.adopt_higher(local, incoming)
        return (
            _differs("changed", expect["changed"], after is not local)
            or _differs("index", expect["index"], after.index)
            or _differs("hash", expect.get("hash", after.hash), after.hash)
            or (None if _same(_canonical(expect["storage"]), after.buckets()) else "the storage differs")
        )
    merged = merge(storage, incoming, now=case["now"], ttl=case["ttl"], observe=case["mode"] == "observe")
    changed = bool(merged.changed)
    if changed != expect["changed"]:
        return f"changed: expected {expect['changed']}, got {merged.changed} {merged.violations}"
    if local.index + changed != expect["index"]:
        return _differs("index", expect["index"], local.index + changed)
    violations = sorted((v.bucket, v.key, v.owner, v.reason) for v in merged.violations)
    wanted = sorted((v["bucket"], v["key"], v["owner"], v["reason"]) for v in expect["violations"])
    if [v[:3] for v in violations] != [v[:3] for v in wanted]:
        return _differs("violations", wanted, violations)
    result = merged.storage if changed else storage
    return None if _same(_canonical(expect["storage"]), result) else "the storage differs"


def check_reap(case: Case) -> str | None:
    expect = case["expect"]
    local = blocks.read_untrusted(_text(case["local"]))
    storage = local.buckets()
    changed = False
    after = storage
    if case.get("mode", "enforce") != "off" and case.get("reaper_seed"):
        now_ns = case.get("now_ns") or case["now"] * 10**9
        signer = PrivateKey(bytes.fromhex(case["reaper_seed"]))
        after, changed = reap.reap(storage, signer, now_ns=now_ns, ttl=case["ttl"], tombstone_ttl=case["tombstone_ttl"])
    if changed != expect["changed"]:
        return f"changed: expected {expect['changed']}, got {changed}"
    return None if _same(_canonical(expect["storage"]), after) else "the storage differs"


def check_leader(case: Case) -> str | None:
    hashes = [leader.fnv1a_32(peer) for peer in case["peers"]]
    return _differs("hashes", case["fnv1a32"] or [], hashes) or _differs(
        "leader", case["leader"], leader.leader_of(case["peers"])
    )


def check_dhcp(case: Case) -> str | None:
    got = dhcp.next_address(case["default"], case["used"] or [])
    if case.get("panics"):
        return _differs("next", None, got)
    if case.get("lenient") and got is None:
        return None
    return _differs("next", case["next"], got)


CHECKERS: dict[str, Callable[[Case], str | None]] = {
    "block": check_block,
    "sign": check_sign,
    "merge": check_merge,
    "reap": check_reap,
    "leader": check_leader,
    "dhcp": check_dhcp,
}
