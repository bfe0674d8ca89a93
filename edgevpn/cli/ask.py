"""The commands that ask a running node: status, peers, ledger, ping.

Each parses its words, asks an actor through its socket in the run directory, and prints a table, or JSON with --json.
They run as the node's user or as root.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from edgevpn.actors.client import ActorUnavailableError, Client
from edgevpn.cli import output
from edgevpn.cli.ping import ping_peer
from edgevpn.cli.run_dir import node_options
from edgevpn.cli.traffic import show
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import (
    HostSelf,
    LedgerReply,
    LedgerRequest,
    Member,
    Message,
    NodeStatus,
    Paths,
    PathsRequest,
    PeerState,
    Route,
    Snapshot,
    StatusRequest,
    Traffic,
    TrafficRequest,
)
from edgevpn.proto.peer_rows import path_and_why

R = TypeVar("R", bound=Message)


class Node:
    """A running node, as the commands see it."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def client(self, actor: str) -> Client:
        return Client(self.run_dir, actor, caller="command", wait=False)

    async def ask(self, actor: str, request: Any, reply: type[R], *, timeout: float = 10.0) -> R:
        return await self.client(actor).call(request, reply, timeout=timeout)

    async def state(self, actor: str, topic: str) -> dict[str, Any]:
        """The present value of a state."""
        with trio.fail_after(10):
            async with self.client(actor).watch(topic, once=True) as updates:
                async for update in updates:
                    if isinstance(update, Snapshot):
                        return dict(update.items)
        return {}


def ask_node(work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """What `work(*args)` gives; a node that does not answer in time is an ActorUnavailableError."""

    async def bounded() -> Any:
        try:
            return await work(*args)
        except trio.TooSlowError:
            raise ActorUnavailableError("the node did not answer in time: `edgevpn actors` tells how it is") from None

    return trio.run(bounded)


def _fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


@click.command(epilog="Example: edgevpn status --json")
@node_options
def status(run_dir: Path, as_json: bool) -> None:
    """Show the node at a glance: who it is, its state, its addresses, and its peers in the network."""
    found: NodeStatus = ask_node(Node(run_dir).ask, "supervisor", StatusRequest(), NodeStatus)
    if as_json:
        click.echo(output.as_json(_fields(found)), nl=False)
        return
    pairs: list[tuple[str, object]] = [
        ("state", found.state),
        ("peer id", found.peer_id),
        ("interface", found.interface or "none"),
        ("address", found.address),
        ("listening on", found.listen),
        ("peers", found.peers),
        ("up for", output.age(found.uptime_s)),
        ("version", found.version),
    ]
    if found.waiting_for:
        pairs.append(("waiting for", found.waiting_for))
    if found.clock:
        pairs.append(("clock", found.clock))
    click.echo(output.facts(pairs), nl=False)


@click.command(epilog="Example: edgevpn peers --traffic")
@click.option("--traffic", is_flag=True, help="Show instead what each protocol sent and received.")
@node_options
def peers(traffic: bool, run_dir: Path, as_json: bool) -> None:
    """Show the connected peers: member of this network or not, addresses, and how packets reach them."""
    node = Node(run_dir)
    if traffic:
        _show_traffic(node, as_json)
        return

    async def collect() -> list[dict[str, Any]]:
        connected = await node.state("host", "peers")
        members = await _state_or_nothing(node, "gossip", "members")
        routes = await _state_or_nothing(node, "ledger", "routes")
        try:
            paths = {p.peer_id: p for p in (await node.ask("tun", PathsRequest(), Paths)).paths}
        except EdgevpnError:
            paths = {}  # a node without an interface
        rows = []
        for peer_id, peer in connected.items():
            if not isinstance(peer, PeerState):
                continue
            path = paths.get(peer_id)
            kind, why = path_and_why(path, peer)
            rows.append(
                {
                    "peer_id": peer_id,
                    "member": isinstance(members.get(peer_id), Member),
                    "addresses": sorted(a for a, r in routes.items() if isinstance(r, Route) and r.peer_id == peer_id),
                    "hostname": next(
                        (r.hostname for r in routes.values() if isinstance(r, Route) and r.peer_id == peer_id), ""
                    ),
                    "path": kind,
                    "path_address": path.address if path else "",
                    "path_rtt_ms": round(path.rtt_s * 1000, 3) if path else 0.0,
                    "path_why": why,
                    "dropped": path.dropped if path else 0,
                    "repair": path.repair if path else {},
                    "sent_bytes": path.sent_bytes if path else 0,
                    "received_bytes": path.received_bytes if path else 0,
                    "remote": peer.remotes,
                    "direction": peer.direction,
                    "agent": peer.agent,
                    "rtt_ms": round(peer.rtt_s * 1000, 3),
                    "connected_s": round(time.time() - peer.since, 1),
                }
            )
        return sorted(rows, key=lambda row: (not row["member"], row["addresses"], row["peer_id"]))

    rows = ask_node(collect)
    if as_json:
        click.echo(output.as_json(rows), nl=False)
        return
    columns = ("peer", "member", "address", "host", "path", "repaired", "rtt ms", "remote", "connected")
    click.echo(
        output.table(
            columns,
            [
                (
                    row["peer_id"],
                    "yes" if row["member"] else "no",
                    ", ".join(row["addresses"]) or "-",
                    row["hostname"] or "-",
                    row["path"],
                    sum(row["repair"].get(name, 0) for name in ("repaired_by_parity", "repaired_by_copy")),
                    row["rtt_ms"],
                    row["remote"][0] if row["remote"] else "-",
                    output.age(row["connected_s"]),
                )
                for row in rows
            ],
        ),
        nl=False,
    )


def _show_traffic(node: Node, as_json: bool) -> None:
    async def collect() -> tuple[Traffic, Paths | None]:
        counted = await node.ask("host", TrafficRequest(), Traffic)
        try:
            return counted, await node.ask("tun", PathsRequest(), Paths)
        except EdgevpnError:
            return counted, None  # a node without an interface

    counted, paths = ask_node(collect)
    click.echo(show(counted, paths, as_json), nl=False)


async def _state_or_nothing(node: Node, actor: str, topic: str) -> dict[str, Any]:
    """A state, or nothing while its actor is away: the rest is worth showing."""
    try:
        return await node.state(actor, topic)
    except EdgevpnError:
        return {}


@click.command(epilog="Example: edgevpn ledger machines --json")
@click.argument("bucket", required=False, default="")
@node_options
def ledger(bucket: str, run_dir: Path, as_json: bool) -> None:
    """Show what the network agreed on: all buckets, or one.

    JSON: an object of the bucket's entries by key (for machines: by VPN address), or of all buckets by name.
    """
    found: LedgerReply = ask_node(Node(run_dir).ask, "ledger", LedgerRequest(bucket), LedgerReply)
    entries = [entry for entry in found.entries if not entry.deleted]
    if as_json:
        buckets: dict[str, dict[str, Any]] = {}
        for entry in entries:
            buckets.setdefault(entry.bucket, {})[entry.key] = {
                "value": _parsed(entry.value),
                "owner": entry.owner,
                "version": entry.version,
                "updated_at": entry.updated_at,
            }
        click.echo(output.as_json(buckets.get(bucket, {}) if bucket else buckets), nl=False)
        return
    now = time.time()
    click.echo(
        output.table(
            ("bucket", "key", "value", "owner", "age"),
            [
                (e.bucket, e.key, e.value, e.owner or "-", output.age(now - e.updated_at) if e.updated_at else "-")
                for e in entries
            ],
        ),
        nl=False,
    )


def _parsed(value: str) -> Any:
    """A ledger value as the JSON that it holds, or as the text it is."""
    try:
        return json.loads(value)
    except ValueError:
        return value


@click.command(epilog="Example: edgevpn ping 10.1.0.2 -c 3")
@click.argument("target")
@click.option("-c", "--count", default=4, show_default=True, type=click.IntRange(1, 10000), help="How many times.")
@click.option("-i", "--interval", default=1.0, show_default=True, type=click.FloatRange(0.01), help="Seconds between.")
@click.option("-W", "--timeout", default=5.0, show_default=True, type=click.FloatRange(0.05), help="Seconds to wait.")
@node_options
def ping(target: str, count: int, interval: float, timeout: float, run_dir: Path, as_json: bool) -> int:
    """Measure the way to a peer, given by its peer ID or VPN address. Exit code 1 when nothing was answered."""
    node = Node(run_dir)

    async def go() -> int:
        routes = await node.state("ledger", "routes")
        me = (await node.state("host", "self")).get("host")
        mine = me.peer_id if isinstance(me, HostSelf) else ""
        return await ping_peer(node.client("host"), routes, mine, target, count, interval, timeout, as_json)

    answered: int = ask_node(go)
    return 0 if answered else 1
