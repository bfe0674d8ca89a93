"""JSON Schemas of what the API answers and takes, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
ANYTHING: Schema = {}


def struct(**fields: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def map_of(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


ENTRIES: Schema = map_of(TEXT)
STATE: Schema = struct(State=TEXT)
ERROR: Schema = struct(message=TEXT)
USER: Schema = struct(PeerID=TEXT, Timestamp=TEXT)
SERVICE: Schema = struct(PeerID=TEXT, Name=TEXT)
PEER: Schema = struct(ID=TEXT, Online=TRUTH)
DNS_ENTRY: Schema = struct(Regex=TEXT, Records=ENTRIES)
BANDWIDTH: Schema = struct(TotalIn=WHOLE, TotalOut=WHOLE, RateIn=NUMBER, RateOut=NUMBER)
MACHINE: Schema = struct(
    PeerID=TEXT,
    Hostname=TEXT,
    OS=TEXT,
    Arch=TEXT,
    Address=TEXT,
    Version=TEXT,
    Connected=TRUTH,
    OnChain=TRUTH,
    Online=TRUTH,
)
SUMMARY: Schema = struct(
    Files=WHOLE,
    Machines=WHOLE,
    Users=WHOLE,
    Services=WHOLE,
    BlockChain=WHOLE,
    OnChainNodes=WHOLE,
    Peers=WHOLE,
    NodeID=TEXT,
)
BLOCK: Schema = struct(Index=WHOLE, Timestamp=TEXT, Storage=map_of(map_of(ANYTHING)), Hash=TEXT, PrevHash=TEXT)
