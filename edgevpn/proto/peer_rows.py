"""The rows of a list of peers, from what host, gossip, ledger and tun tell of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgevpn.proto.messages import PathState, PeerState, Route
from edgevpn.proto.relayed import relay_of

NOTHING_YET = "no packet went there yet"


def path_and_why(path: PathState | None, peer: PeerState) -> tuple[str, str]:
    """How packets go to a peer, and why so. Streams of a peer that only relays lead to are "relayed"."""
    kind, why = (path.kind, path.why) if path is not None else ("none", NOTHING_YET)
    relay = relay_of(peer.remotes)
    if not relay or kind == "datagram":
        return kind, why
    return ("relayed" if kind == "stream" else kind), f"through the relay {relay}: no direct connection; {why}"


def peer_rows(
    peers: Mapping[str, PeerState],
    members: Collection[str],
    routes: Mapping[str, Route],
    paths: Mapping[str, PathState],
) -> list[dict[str, Any]]:
    """What is known of each connected peer, and does not change by itself; members first, by address."""
    addresses: dict[str, list[str]] = {}
    hostnames: dict[str, str] = {}
    for address, route in routes.items():
        addresses.setdefault(route.peer_id, []).append(address)
        hostnames.setdefault(route.peer_id, route.hostname)
    rows = []
    for peer_id, peer in peers.items():
        path = paths.get(peer_id)
        kind, why = path_and_why(path, peer)
        rows.append(
            {
                "peer_id": peer_id,
                "member": peer_id in members,
                "addresses": sorted(addresses.get(peer_id, ())),
                "hostname": hostnames.get(peer_id, ""),
                "path": kind,
                "path_address": path.address if path else "",
                "path_why": why,
                "remote": list(peer.remotes),
                "direction": peer.direction,
                "agent": peer.agent,
                "since": round(peer.since),
            }
        )
    return sorted(rows, key=lambda row: (not row["member"], not row["addresses"], row["addresses"], row["peer_id"]))
