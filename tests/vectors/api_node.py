"""A node in memory under the real application: a real ledger, and what the other actors would tell as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from edgevpn.actors.mailbox import RequestError
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto.api_address import parse_api_address
from edgevpn.proto.block import write_block
from edgevpn.proto.http_guard import rules_for
from edgevpn.proto.messages import (
    ActorStatus,
    LedgerEntry,
    NodeStatus,
    PathState,
    PeerState,
    QueueStatus,
    Route,
    Traffic,
)
from edgevpn.proto.peer_key import PrivateKey
from edgevpn.web.app import make_app
from edgevpn.web.guard import Guard
from edgevpn.web.hub import Hub
from edgevpn.web.source import Facts, Metered, Rates

NOW = 1_795_430_700.0
TOKEN = "a-token-of-tests"
ADDRESS = parse_api_address("127.0.0.1:8080")
URL = "http://127.0.0.1:8080"


class MemoryNode:
    """See edgevpn.web.source.Source."""

    def __init__(self, mode: Mode = Mode.ENFORCE, *, me: str = "", connected: Sequence[str] = ()) -> None:
        self.now = NOW
        self.state = LedgerState(PrivateKey(hashlib.sha256(b"api").digest()), NOW, mode=mode)
        self.me = me or self.state.signer.peer_id
        self.facts = Facts(self.me, "0", "here", mode.value, 1e12)
        self.hub = Hub(list)
        self.members: list[str] = list(connected)
        self.peers = {peer: PeerState([], [], [], "", "outbound", NOW, 0.001) for peer in connected}
        self.routes: dict[str, Route] = {}
        self.gate: bool | None = None
        self.node_state = "up"
        self.traffic = Traffic([20, 10], {"/meshsub/1.2.0": [20, 10]}, {peer: [5, 2] for peer in connected})

    async def entries(self, bucket: str = "") -> list[LedgerEntry]:
        return [
            LedgerEntry(name, key, entry.value, entry.owner, entry.version, entry.updated_at, entry.deleted)
            for name, content in sorted(self.state.storage.items())
            if bucket in ("", name)
            for key, entry in sorted(content.items())
        ]

    async def block(self) -> bytes:
        return write_block(self.state.block)

    async def announce(self, bucket: str, key: str, value: str) -> None:
        self.now += 1
        with _as_told():
            self.state.announce(bucket, key, value, self.now)

    async def withdraw(self, bucket: str, key: str) -> bool:
        self.now += 1
        with _as_told():
            return self.state.delete(bucket, key, self.now) is not None

    async def peergate(self) -> bool | None:
        return self.gate

    async def set_peergate(self, on: bool) -> None:
        self.gate = on

    async def status(self) -> NodeStatus:
        return NodeStatus(self.me, self.node_state, "edgevpn0", ["10.1.0.1/24"], [], self.members, 5.0, "0", "")

    async def actors(self) -> list[ActorStatus]:
        return [ActorStatus("ledger", 1, "ready", 2, 5.0, 1000, "killed by SIGKILL", 900)]

    async def queues(self) -> Mapping[str, Sequence[QueueStatus]]:
        return {"ledger": [QueueStatus("messages", 1, 64, 3, "")]}

    async def paths(self) -> list[PathState]:
        return [PathState(peer, "datagram", 1, 100, 2, 200, 0, "192.0.2.1:5", 0.002) for peer in self.peers]

    async def freshen(self) -> None:
        self.hub.put("node", {"peer_id": self.me})

    async def metered(self) -> Metered:
        rates = Rates(1.5, 0.0)
        return Metered(self.traffic, rates, {"/meshsub/1.2.0": rates}, {})


def app_of(node: MemoryNode, *, token: str = TOKEN) -> Guard:
    return make_app(node, rules_for(ADDRESS, token.encode(), ["vpn.example"]))


def client(app: Any, *, token: str = TOKEN, **headers: str) -> httpx.AsyncClient:
    given = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url=URL, headers={**given, **headers})


@contextmanager
def _as_told() -> Iterator[None]:
    """A refused write, as the ledger actor's mailbox tells it."""
    try:
        yield
    except WriteRefusedError as exc:
        raise RequestError("failed", str(exc)) from exc
