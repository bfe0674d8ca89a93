"""The routes of the Go program's API, with its bodies.

What differs, because Go's answer is wrong: `Connected` of a machine, `Online` of the peer store and the counters of
`/api/metrics/peer/ID` tell how it is; a DELETE holds, also right after a PUT; and what the other nodes would reject
(an entry of somebody else's, a value that does not fit its bucket) is refused by 403 instead of staying in this node.
"""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_api
from edgevpn.proto.values import write_dns, write_text
from edgevpn.web.schemas import (
    BANDWIDTH,
    BLOCK,
    DNS_ENTRY,
    ENTRIES,
    MACHINE,
    PEER,
    SERVICE,
    STATE,
    SUMMARY,
    TEXT,
    TRUTH,
    USER,
    list_of,
    map_of,
)
from edgevpn.web.source import NO_RATES, Metered, Rates, Source
from edgevpn.web.table import ApiError, Operation, answer, problem, read_body

_TAG = "The Go program's API"


async def _around(source: Source) -> go_api.Around:
    health = await source.entries("healthcheck")
    online = go_api.online(health, time.time(), source.facts.longest_silence)
    return go_api.Around(source.facts.peer_id, tuple(source.peers), tuple(source.members), online)


async def _values(source: Source, bucket: str) -> dict[str, str]:
    return go_api.buckets(await source.entries(bucket)).get(bucket, {})


async def summary(source: Source, _: Request) -> Response:
    content = go_api.buckets(await source.entries())
    index = json.loads(await source.block())["Index"]
    return answer(go_api.summary(content, index, await _around(source)))


async def users(source: Source, _: Request) -> Response:
    return answer(go_api.structs((await _values(source, "users")).values(), ("PeerID", "Timestamp")))


async def services(source: Source, _: Request) -> Response:
    return answer(go_api.structs((await _values(source, "services")).values(), ("PeerID", "Name")))


async def files(source: Source, _: Request) -> Response:
    return answer(go_api.structs((await _values(source, "files")).values(), ("PeerID", "Name")))


async def machines(source: Source, _: Request) -> Response:
    return answer(go_api.machines((await _values(source, "machines")).values(), await _around(source)))


async def nodes(source: Source, _: Request) -> Response:
    return answer(go_api.nodes(await _around(source)))


async def peerstore(source: Source, _: Request) -> Response:
    return answer(go_api.peerstore(await _around(source)))


async def blockchain(source: Source, _: Request) -> Response:
    return Response(await source.block() + b"\n", media_type="application/json")


# --- the ledger


async def ledger(source: Source, _: Request) -> Response:
    return answer(go_api.buckets(await source.entries()))


async def bucket(source: Source, request: Request) -> Response:
    return answer(await _values(source, request.path_params["bucket"]) or None)


async def key(source: Source, request: Request) -> Response:
    found = await _values(source, request.path_params["bucket"])
    return answer(found.get(request.path_params["key"], ""))


async def put(source: Source, request: Request) -> Response:
    place = request.path_params
    await source.announce(place["bucket"], place["key"], write_text(place["value"]))
    return answer(go_api.ANNOUNCING)


async def delete_bucket(source: Source, request: Request) -> Response:
    """Every entry that is ours to delete; when there are others, the first refusal is told."""
    name = request.path_params["bucket"]
    refusal: Exception | None = None
    for one in await _values(source, name):
        try:
            await source.withdraw(name, one)
        except Exception as exc:  # noqa: BLE001 - told below, after the others were tried
            refusal = refusal or exc
    if refusal is not None:
        raise refusal
    return answer(go_api.ANNOUNCING)


async def delete_key(source: Source, request: Request) -> Response:
    await source.withdraw(request.path_params["bucket"], request.path_params["key"])
    return answer(go_api.ANNOUNCING)


# --- names


async def dns_list(source: Source, _: Request) -> Response:
    return answer(go_api.dns_list(await _values(source, "dns")))


async def dns_post(source: Source, request: Request) -> Response:
    data = await read_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if data and kind == "application/x-www-form-urlencoded":
        data = b""  # Go's binder takes a form, but none of its fields has a name there
    elif data and kind != "application/json":
        return problem(400, "code=415, message=Unsupported Media Type")
    try:
        pattern, records = go_api.read_dns_untrusted(data)
    except UntrustedDataError as exc:
        raise ApiError(400, f"code=400, message={exc}") from exc
    await source.announce("dns", pattern, write_dns(records))
    return answer(go_api.ANNOUNCING)


# --- the peer guard


async def peergate(source: Source, _: Request) -> Response:
    return answer(await _gate(source))


async def set_peergate(source: Source, request: Request) -> Response:
    """enable or disable; any other word changes nothing."""
    wanted = {"enable": True, "disable": False}.get(request.path_params["state"])
    present = await _gate(source)
    if wanted is not None and wanted is not present:
        await source.set_peergate(wanted)
    return answer(await _gate(source))


async def _gate(source: Source) -> bool:
    present = await source.peergate()
    if present is None:
        raise ApiError(404, "Not Found")
    return present


# --- counters


def _counters(counted: list[int], rates: Rates) -> dict[str, Any]:
    received, sent = counted
    return {"TotalIn": received, "TotalOut": sent, "RateIn": _number(rates.received), "RateOut": _number(rates.sent)}


def _number(value: float) -> float | int:
    """0 and not 0.0, as Go writes it."""
    return int(value) if value == int(value) else value


async def metrics(source: Source, _: Request) -> Response:
    found = await source.metered()
    return answer(_counters(found.traffic.total, found.total))


async def metrics_protocols(source: Source, _: Request) -> Response:
    found = await source.metered()
    return answer({name: _protocol(found, name) for name in sorted(found.traffic.by_protocol)})


async def metrics_peers(source: Source, _: Request) -> Response:
    found = await source.metered()
    return answer({name: _peer(found, name) for name in sorted(found.traffic.by_peer)})


async def metrics_protocol(source: Source, request: Request) -> Response:
    name = request.path_params["protocol"]
    # On the wire it is %2Fmeshsub%2F1.2.0, which the router leaves as it is (go_path.py).
    return answer(_protocol(await source.metered(), name.replace("%2F", "/").replace("%2f", "/")))


async def metrics_peer(source: Source, request: Request) -> Response:
    return answer(_peer(await source.metered(), request.path_params["peer"]))


def _protocol(found: Metered, name: str) -> dict[str, Any]:
    return _counters(found.traffic.by_protocol.get(name, [0, 0]), found.by_protocol.get(name, NO_RATES))


def _peer(found: Metered, name: str) -> dict[str, Any]:
    return _counters(found.traffic.by_peer.get(name, [0, 0]), found.by_peer.get(name, NO_RATES))


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "/api/summary", summary, "How many of everything there are", _TAG, SUMMARY),
    Operation("GET", "/api/users", users, "Who may use services and files", _TAG, list_of(USER)),
    Operation("GET", "/api/services", services, "Services, and who offers them", _TAG, list_of(SERVICE)),
    Operation("GET", "/api/files", files, "Files, and who offers them", _TAG, list_of(SERVICE)),
    Operation("GET", "/api/machines", machines, "Machines with a VPN address", _TAG, list_of(MACHINE)),
    Operation("GET", "/api/nodes", nodes, "Nodes with a fresh heartbeat", _TAG, list_of(PEER)),
    Operation("GET", "/api/peerstore", peerstore, "This node and the peers it is connected to", _TAG, list_of(PEER)),
    Operation("GET", "/api/blockchain", blockchain, "The whole ledger with owners and signatures", _TAG, BLOCK),
    Operation("GET", "/api/dns", dns_list, "Names: patterns and their records", _TAG, list_of(DNS_ENTRY)),
    Operation("POST", "/api/dns", dns_post, "Write the records of a pattern", _TAG, STATE, DNS_ENTRY),
    Operation("GET", "/api/ledger", ledger, "Bare values by bucket and key", _TAG, map_of(ENTRIES)),
    Operation("GET", "/api/ledger/{bucket}", bucket, "Bare values of a bucket; null without any", _TAG, ENTRIES),
    Operation("DELETE", "/api/ledger/{bucket}", delete_bucket, "Delete what is ours in a bucket", _TAG, STATE),
    Operation("GET", "/api/ledger/{bucket}/{key}", key, "One bare value; an empty text if there is none", _TAG, TEXT),
    Operation("DELETE", "/api/ledger/{bucket}/{key}", delete_key, "Delete an entry", _TAG, STATE),
    Operation("PUT", "/api/ledger/{bucket}/{key}/{value:rest}", put, "Write a text as an entry", _TAG, STATE),
    Operation("GET", "/api/peergate", peergate, "Whether the peer guard refuses unknown peers", _TAG, TRUTH),
    Operation("PUT", "/api/peergate/{state}", set_peergate, "enable or disable it", _TAG, TRUTH),
    Operation("GET", "/api/metrics", metrics, "Bytes in all", _TAG, BANDWIDTH),
    Operation("GET", "/api/metrics/protocol", metrics_protocols, "Bytes by protocol", _TAG, map_of(BANDWIDTH)),
    Operation("GET", "/api/metrics/protocol/{protocol:rest}", metrics_protocol, "Bytes of one", _TAG, BANDWIDTH),
    Operation("GET", "/api/metrics/peer", metrics_peers, "Bytes by connected peer", _TAG, map_of(BANDWIDTH)),
    Operation("GET", "/api/metrics/peer/{peer}", metrics_peer, "Bytes of one peer", _TAG, BANDWIDTH),
)
