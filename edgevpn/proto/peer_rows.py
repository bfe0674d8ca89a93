"""The rows of a list of peers, from what host, gossip, ledger and tun tell of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgevpn.proto.messages import PathState, PeerState, Route


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
        rows.append(
            {
                "peer_id": peer_id,
                "member": peer_id in members,
                "addresses": sorted(addresses.get(peer_id, ())),
                "hostname": hostnames.get(peer_id, ""),
                "path": path.kind if path else "none",
                "path_address": path.address if path else "",
                "path_why": path.why if path else "no packet went there yet",
                "remote": list(peer.remotes),
                "direction": peer.direction,
                "agent": peer.agent,
                "since": round(peer.since),
            }
        )
    return sorted(rows, key=lambda row: (not row["member"], not row["addresses"], row["addresses"], row["peer_id"]))
