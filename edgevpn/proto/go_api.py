"""The bodies of the Go program's HTTP API, made from the ledger and the list of peers. Pure.

Field names and their order, and what an unreadable value shows as (a struct with empty fields), are Go's; the values
are right where Go's are not: `Connected` of a machine and `Online` of the peer store say whether there is a connection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import dns.exception
import dns.rdatatype

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_json
from edgevpn.proto.messages import LedgerEntry
from edgevpn.proto.values import MAX_RECORDS, heartbeat_time_untrusted

ANNOUNCING = {"State": "Announcing"}
MAX_PATTERN = 1024  # characters


class Around(NamedTuple):
    """Who is there: this node, the peers it is connected to, those on its topic, those with a fresh heartbeat."""

    me: str
    connected: Collection[str]
    members: Collection[str]
    online: Collection[str]


def body(value: Any) -> bytes:
    """As Go's encoder writes it: no spaces, < > & escaped, a newline at the end."""
    return (go_json.write(value) + "\n").encode()


def error(message: str) -> dict[str, str]:
    return {"message": message}


def buckets(entries: Iterable[LedgerEntry]) -> dict[str, dict[str, str]]:
    """Bare values by bucket and key, without tombstones; a bucket that has nothing else is left out."""
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        if not entry.deleted:
            found.setdefault(entry.bucket, {})[entry.key] = entry.value
    return {name: dict(sorted(content.items())) for name, content in sorted(found.items())}


def online(entries: Iterable[LedgerEntry], now: float, longest_silence: float) -> set[str]:
    """The peers whose heartbeat (bucket healthcheck) is fresh. `now`: unix seconds."""
    found = set()
    for entry in entries:
        told = heartbeat_time_untrusted(entry.value) if entry.bucket == "healthcheck" and not entry.deleted else None
        if told is not None and told > (now - longest_silence) * 1e9:
            found.add(entry.key)
    return found


def summary(content: Mapping[str, Mapping[str, str]], index: int, around: Around) -> dict[str, Any]:
    return {
        "Files": len(content.get("files", ())),
        "Machines": len(content.get("machines", ())),
        "Users": len(content.get("users", ())),
        "Services": len(content.get("services", ())),
        "BlockChain": index,
        "OnChainNodes": len(around.members),
        "Peers": len({around.me, *around.connected}),
        "NodeID": around.me,
    }


def structs(values: Iterable[str], names: Sequence[str]) -> list[dict[str, str]]:
    """users, services and files: the texts of those fields of each value."""
    return [_fields_untrusted(value, names) for value in values]


def machines(values: Iterable[str], around: Around) -> list[dict[str, Any]]:
    found = []
    for value in values:
        machine: dict[str, Any] = dict(
            _fields_untrusted(value, ("PeerID", "Hostname", "OS", "Arch", "Address", "Version"))
        )
        peer = machine["PeerID"]
        machine["Connected"] = bool(peer) and (peer == around.me or peer in around.connected)
        machine["OnChain"] = peer in around.members
        machine["Online"] = peer in around.online
        found.append(machine)
    return found


def nodes(around: Around) -> list[dict[str, Any]]:
    return [{"ID": peer, "Online": True} for peer in sorted(around.online)]


def peerstore(around: Around) -> list[dict[str, Any]]:
    return [{"ID": peer, "Online": True} for peer in sorted({around.me, *around.connected})]


def dns_list(content: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for pattern, value in content.items():
        records: dict[str, str] = {}
        try:
            parsed: Any = go_json.parse_untrusted(value)
        except UntrustedDataError:
            parsed = None
        for number, record in parsed[:MAX_RECORDS] if isinstance(parsed, go_json.Object) else ():
            if isinstance(record, str) and number.isascii() and number.isdigit() and len(number) <= 5:
                records[_type_name(int(number))] = record
        found.append({"Regex": pattern, "Records": records})
    return found


def read_dns_untrusted(data: bytes) -> tuple[str, dict[int, str]]:
    """(pattern, records by the number of their type) of what is posted. Names of fields match in any case, an unknown
    type is type 0, and nothing at all is the empty pattern: as in Go. Raises UntrustedDataError.
    """
    if not data.strip():
        return "", {}
    try:
        parsed = go_json.parse_untrusted(data.decode())
    except UnicodeDecodeError:
        raise UntrustedDataError("the body is not UTF-8") from None
    if not isinstance(parsed, go_json.Object):
        raise UntrustedDataError("the body is not an object")
    pattern, records = "", {}
    for name, item in parsed:
        field = go_json.field_name(name)
        if field == "regex" and item is not None:
            pattern = go_json.text_untrusted(item, "Regex")
        elif field == "records" and item is not None:
            if not isinstance(item, go_json.Object):
                raise UntrustedDataError("Records is not an object")
            for kind, record in item:
                records[_type_number(kind)] = go_json.text_untrusted(record, f"the {kind[:16]} record")
    if len(pattern) > MAX_PATTERN or len(records) > MAX_RECORDS:
        raise UntrustedDataError(f"more than {MAX_PATTERN} characters of Regex, or {MAX_RECORDS} Records")
    return pattern, records


def _type_name(number: int) -> str:
    if number == 0:
        return "None"
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number)) if number <= 65535 else "None"


def _type_number(name: str) -> int:
    try:
        return int(dns.rdatatype.from_text(name))
    except (dns.exception.DNSException, ValueError):
        return 0


def _fields_untrusted(value: str, names: Sequence[str]) -> dict[str, str]:
    """The texts of those fields, "" where there is none. Never raises: any member writes what it likes."""
    found = dict.fromkeys(names, "")
    try:
        parsed = go_json.parse_untrusted(value)
    except UntrustedDataError:
        return found
    by_field = {name.lower(): name for name in names}
    for name, item in parsed if isinstance(parsed, go_json.Object) else ():
        wanted = by_field.get(go_json.field_name(name))
        if wanted is not None and isinstance(item, str):
            found[wanted] = item
    return found
