"""`edgevpn ping`: the round trip to a peer, by libp2p's ping protocol over the connection that carries control."""

from __future__ import annotations

import statistics
from typing import Any

import click
import trio

from edgevpn.actors.client import Client
from edgevpn.cli import output
from edgevpn.errors import EdgevpnError, UsageError
from edgevpn.proto.messages import PingPeer, Pong, Route


def resolve(target: str, routes: dict[str, Any]) -> tuple[str, str]:
    """(peer ID, VPN address or "") of a target. Raises UsageError when nobody has it."""
    route = routes.get(target)
    if isinstance(route, Route):
        return route.peer_id, target
    for address, one in routes.items():
        if isinstance(one, Route) and target in (one.peer_id, one.hostname):
            return one.peer_id, address
    if "." in target or ":" in target:
        raise UsageError(f"no machine has the address {target}: `edgevpn ledger machines` lists those there are")
    return target, ""


async def ping_peer(
    host: Client,
    routes: dict[str, Any],
    me: str,
    target: str,
    count: int,
    interval: float,
    timeout: float,
    as_json: bool,
) -> int:
    """Ping and print; how many were answered."""
    peer_id, address = resolve(target, routes)
    if peer_id == me:
        raise UsageError(f"{target} is this node itself")
    name = f"{address} ({peer_id})" if address else peer_id
    times: list[float] = []
    for number in range(1, count + 1):
        try:
            pong = await host.call(PingPeer(peer_id, timeout), Pong, timeout=timeout + 2)
        except EdgevpnError as exc:
            if not as_json:
                click.echo(f"no answer from {output.clean(name)}: {exc}", err=True)
        else:
            times.append(pong.rtt_s * 1000)
            if not as_json:
                click.echo(f"answer from {output.clean(name)}: seq={number} time={times[-1]:.2f} ms")
        if number < count:
            await trio.sleep(interval)
    summary = {
        "peer_id": peer_id,
        "address": address,
        "sent": count,
        "answered": len(times),
        "min_ms": round(min(times), 3) if times else None,
        "median_ms": round(statistics.median(times), 3) if times else None,
        "max_ms": round(max(times), 3) if times else None,
    }
    if as_json:
        click.echo(output.as_json(summary), nl=False)
    elif times:
        click.echo(
            f"{count} sent, {len(times)} answered; min/median/max "
            f"{summary['min_ms']}/{summary['median_ms']}/{summary['max_ms']} ms"
        )
    return len(times)
