"""The HTTP API: the recorded requests, in their order, against our application over ledgers like the recorded ones.

A node's ledger begins as the recorded one was, so what is read from it must be equal, value by value (lists in any
order); counters, times, hashes and signatures must have the same keys and types. `BETTER` names the cases where the
Go program's answer is wrong or vanishes later, with what ours must be.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import trio

from edgevpn.ledger.policy import Mode
from edgevpn.proto.block import read_block_untrusted
from tests.vectors.api_node import MemoryNode, app_of, client

Case = dict[str, Any]
_VARIES = ("/api/metrics", "/api/blockchain", "/api/summary")

_PEERS = {
    "vpn": (
        "12D3KooWCCehewEbavxfAPPytiWZtVs6DB4obfjrHmuPgKCXU7tu",
        "12D3KooWFAih7HNJFrEnpbrufLk7M94rXunAh3Tk54G8oRPR1ZMG",
        "12D3KooWHKpYeNq44VZoNMikvm3ALfdBQRBfL5W7gFq1c3ytsWxz",
        "12D3KooWKwfBE5uixsv4MFFHh92AKATSJtwiZzxGjEPrHKkbwzsP",
        "12D3KooWPuSEHFTcZdZWhc5JcnaNhFLT9notmiFQK9hVtDUDQaLB",
    ),
    "peerguard": (
        "12D3KooWJk185Fa6TsAVEH6wc614Pa2uR8n95zu3XqQ8BPVWJQ25",
        "12D3KooWKbzTASpFhsrvBMMjvwut9a4kmZWKU2JuEn5x2a5NS5pG",
    ),
    "off": ("12D3KooWRs3bXA6ixkLkB2XjV5mNndj6VpVk1jFm9kV8FnRWG9Nd",),
}


def _all_connected(body: Any) -> Any:
    """Go says false of every machine; all of the recorded ones were connected, or the node itself."""
    return [{**machine, "Connected": True} for machine in body]


def _all_online(body: Any) -> Any:
    return [{**peer, "Online": True} for peer in body]


_REFUSED = "403: others would reject it, so it is not written"
_NOT_THERE: Callable[[Any], Any] = lambda _body: None  # noqa: E731
_EMPTY: Callable[[Any], Any] = lambda _body: ""  # noqa: E731
_TWO_MACHINES: Callable[[Any], Any] = lambda body: _all_connected([m for m in body if m["PeerID"]])  # noqa: E731

BETTER: dict[str, Callable[[Any], Any] | str] = {
    "vpn GET /api/machines": _all_connected,
    "vpn GET /api/peerstore": _all_online,
    "off GET /api/peerstore": _all_online,
    "vpn PUT /api/ledger/machines/10.1.0.9/x": _REFUSED,
    "vpn GET /api/ledger/machines/10.1.0.9": _EMPTY,
    "vpn later GET machine 10.1.0.9": _EMPTY,
    "vpn GET /api/machines #2": _TWO_MACHINES,
    "vpn GET /api/ledger/vec #5": _NOT_THERE,  # a DELETE right after a PUT holds
}
# Other nodes changed these between the requests, or the recorded node was another process by then.
_MOVED = (
    "vpn GET /api/ledger #2",
    "peerguard GET /api/ledger/trustzone",
    "peerguard GET /api/ledger",
    "peerguard GET /api/nodes",
)


class Replay:
    """The nodes, as far as the requests so far have brought them."""

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {}

    def check(self, case: Case) -> str | None:
        if case["name"] == "vpn GET /api/summary":  # the first
            self._nodes.clear()
        name = case["node"]
        if name not in self._nodes:
            self._nodes[name] = app_of(_node(name))
        answered = trio.run(_ask, self._nodes[name], case)
        return _difference(case, *answered)


def _node(name: str) -> MemoryNode:
    me, *others = _PEERS[name]
    node = MemoryNode(Mode.OFF if name == "off" else Mode.ENFORCE, me=me, connected=others)
    if name == "vpn":
        node.state.restore(read_block_untrusted(_recorded("vpn GET /api/blockchain")))
    if name == "peerguard":
        node.state.restore(read_block_untrusted(_recorded("peerguard GET /api/blockchain")))
        node.gate = True
    return node


def _recorded(name: str) -> str:
    from pathlib import Path

    text = (Path(__file__).parent / "data" / "api.json").read_text(encoding="utf-8")
    return str(next(case["body"] for case in json.loads(text)["cases"] if case["name"] == name))


async def _ask(app: Any, case: Case) -> tuple[int, dict[str, str], str]:
    async with client(app) as http:
        body = case.get("request_body")
        answer = await http.request(
            case["method"],
            case["path"],
            headers=case.get("request_headers", {}),
            content=None if body is None else body.encode(),
        )
        return answer.status_code, dict(answer.headers), answer.text


def _difference(case: Case, status: int, headers: dict[str, str], text: str) -> str | None:
    better = BETTER.get(case["name"])
    if isinstance(better, str):
        expected = {"State": "Announcing"}
        return None if (status, set(json.loads(text))) == (403, {"message"}) else f"{better}, not {status} {expected}"
    if status != case["status"]:
        return f"status {status}, not {case['status']}: {text[:200]}"
    for header in ("content_type", "allow", "location"):
        ours = headers.get(header.replace("_", "-"))
        if ours != case.get(header, None) and (header in case or header != "allow"):
            return f"{header} {ours!r}, not {case.get(header)!r}"
    if not (case.get("content_type") or "").startswith("application/json"):
        return None
    recorded = json.loads(case["body"]) if "body_truncated" not in case else None
    if "body_truncated" in case:
        return None
    ours_, theirs = json.loads(text), better(recorded) if better else recorded
    if better is None and (case["path"].startswith(_VARIES) or case["status"] >= 400 or case["name"] in _MOVED):
        return _shape(ours_, theirs, "")
    if _sorted(ours_) != _sorted(theirs):
        return f"{text.strip()[:300]}, not {json.dumps(theirs)[:300]}"
    return None


def _sorted(value: Any) -> Any:
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return {name: _sorted(item) for name, item in value.items()} if isinstance(value, dict) else value


def _shape(ours: Any, theirs: Any, where: str) -> str | None:
    """Same types, and of structs (names in capitals) the same keys; of maps the values' shapes."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if _is_struct(theirs):
            if list(ours) != list(theirs):
                return f"{where}: keys {list(ours)}, not {list(theirs)}"
            pairs = [(name, ours[name], theirs[name]) for name in theirs]
        elif ours and theirs:
            theirs_one = next(iter(theirs.values()))
            pairs = [(name, value, theirs.get(name, theirs_one)) for name, value in ours.items()]
        else:
            pairs = []
        return next((found for n, a, b in pairs if (found := _shape(a, b, f"{where}.{n}"))), None)
    if isinstance(theirs, list) and isinstance(ours, list):
        return next((found for item in ours for one in theirs[:1] if (found := _shape(item, one, where))), None)
    kinds = [
        float if isinstance(value, int) and not isinstance(value, bool) else type(value) for value in (ours, theirs)
    ]
    return None if kinds[0] is kinds[1] else f"{where}: {ours!r} is of another type than {theirs!r}"


def _is_struct(value: dict[str, Any]) -> bool:
    return any(name in value for name in ("Index", "Value", "TotalIn", "PeerID", "NodeID", "message", "State"))


CHECKERS = {"api": Replay().check}
