"""`edgevpn netcheck`: how this machine can be reached, and what the node that runs here found.

Without a node: addresses, UDP and NAT by STUN, links for mDNS, bootstrap peers. With one: how packets reach each peer.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import click
import trio

from edgevpn.actors import mdns_link
from edgevpn.cli import net_probe
from edgevpn.cli.ask import Node
from edgevpn.cli.checks import FAIL, OK, SKIP, WARN, Check, tell
from edgevpn.cli.net_probe import STUN_SERVERS, Udp, split_host
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import NodeStatus, Paths, PathsRequest, PeerState, StatusRequest
from edgevpn.proto.peer_rows import path_and_why

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_NAT = {
    "none": (OK, "no NAT: others reach this machine directly, if no firewall stands before it", ""),
    "same for all": (OK, "a NAT that maps us alike for everybody", "forward a port to this machine to be sure"),
    "some NAT": (WARN, "a NAT of unknown kind: one server answered only", "give two with --stun-server"),
    "differs": (
        WARN,
        "a NAT that maps us anew for each peer: others can't reach this machine first",
        "forward a TCP port on the router and give it with --listen-maddrs, or have one peer with a public address",
    ),
    "blocked": (
        WARN,
        "no UDP answer from outside",
        "let UDP out of the firewall; until then packets to peers elsewhere go by TCP",
    ),
}


@click.command(epilog="Example: edgevpn netcheck --json")
@click.option(
    "--stun-server",
    "servers",
    multiple=True,
    default=STUN_SERVERS,
    show_default=True,
    help="HOST:PORT of a server that says how it sees us; several; empty for none.",
)
@click.option(
    "--discovery-bootstrap-peers",
    "bootstrap",
    multiple=True,
    envvar="EDGEVPNBOOTSTRAPPEERS",
    help="Multiaddrs of bootstrap peers to try.",
)
@node_options
def netcheck(servers: tuple[str, ...], bootstrap: tuple[str, ...], run_dir: Path, as_json: bool) -> int:
    """Check how this machine reaches others and is reached: addresses, UDP, NAT, mDNS, bootstrap peers, paths.

    Works without a running node, and says more with one. Exit code 1 when something fails.
    """
    asked = tuple(server for server in servers if server)
    for server in asked:
        split_host(server)
    peers = [one.strip() for text in bootstrap for one in text.split(",") if one.strip()]
    return trio.run(_run, asked, peers, run_dir, as_json)


async def _run(servers: tuple[str, ...], bootstrap: list[str], run_dir: Path, as_json: bool) -> int:
    found: dict[int, Udp] = {}
    reached: dict[str, str] = {}

    async def ask_udp(family: int) -> None:
        found[family] = await net_probe.udp(family, servers)

    async def ask_bootstrap(address: str) -> None:
        reached[address] = await net_probe.reach_bootstrap(address)

    async with trio.open_nursery() as nursery:
        for family in (socket.AF_INET, socket.AF_INET6):
            nursery.start_soon(ask_udp, family)
        for address in bootstrap:
            nursery.start_soon(ask_bootstrap, address)
    node = await node_facts(Node(run_dir))
    checks = [
        addresses_check(),
        *nat_checks([found[family] for family in _FAMILIES], asked=bool(servers)),
        mdns_check(),
    ]
    for address in bootstrap:
        why = reached[address]
        checks.append(
            Check("bootstrap", FAIL if why else OK, f"{address}: {why or 'answers'}", _BOOTSTRAP if why else "")
        )
    if not bootstrap:
        checks.append(Check("bootstrap", SKIP, "none given: only the LAN is searched", ""))
    checks += peer_checks(node)
    details = {
        "udp": [
            {"family": one.family, "local": one.local, "nat": one.nat, "seen": one.seen, "rtt_ms": one.rtt_ms}
            for one in (found[family] for family in _FAMILIES)
        ],
        "node": node,
    }
    return tell(checks, as_json, **details)


_BOOTSTRAP = "is it running, and is its TCP port open? Another one can be given with --discovery-bootstrap-peers"


def addresses_check() -> Check:
    """Which addresses others could use."""
    found = net_probe.local_addresses()
    if not found:
        return Check("addresses", FAIL, "this machine has no address", "bring a network interface up")
    public = [text for text in found if ipaddress.ip_address(text).is_global]
    shown = ", ".join(f"{text} ({', '.join(names)})" for text, names in found.items())
    return Check("addresses", OK, f"{shown}; {'public: ' + ', '.join(public) if public else 'none of them public'}")


def nat_checks(found: list[Udp], *, asked: bool) -> list[Check]:
    """UDP and NAT, by address family."""
    checks = []
    for one in found:
        name = f"UDP {one.family}"
        if one.nat == "no route":
            checks.append(Check(name, SKIP, f"no route for {one.family}"))
        elif not asked:
            checks.append(Check(name, SKIP, "no STUN server to ask"))
        elif one.nat == "unknown":
            text = f"no {one.family} address of {', '.join(one.unresolved)} is known"
            checks.append(Check(name, WARN, text, "see the resolver in edgevpn doctor, or give other --stun-server"))
        else:
            state, text, do = _NAT[one.nat]
            seen = ", ".join(sorted({f"{net_probe.addressed(ip)}:{port}" for ip, port in one.seen.values()}))
            checks.append(Check(name, state, f"{text}{f'; seen as {seen}' if seen else ''}", do))
    return checks


def mdns_check() -> Check:
    """Links on which peers of the LAN can be found."""
    links = mdns_link.links(())
    usable, refused = [], []
    for link in links.values():
        try:
            mdns_link.open_link(link).close()
            usable.append(link.name)
        except OSError as exc:
            refused.append(f"{link.name} ({exc.strerror})")
    if usable:
        return Check("mDNS", OK, f"can be spoken on {', '.join(usable)}")
    why = f"not on {', '.join(refused)}" if refused else "no interface that can multicast"
    return Check("mDNS", WARN, why, "peers on this LAN are not found by themselves: give a bootstrap peer")


async def node_facts(node: Node) -> dict[str, Any] | None:
    """What the running node says; None when none runs."""
    try:
        status = await node.ask("supervisor", StatusRequest(), NodeStatus, timeout=3)
    except EdgevpnError:
        return None
    facts: dict[str, Any] = {
        "state": status.state,
        "waiting_for": status.waiting_for,
        "clock": status.clock,
        "listen": status.listen,
        "members": status.peers,
        "peers": {},
    }
    try:
        connected = await node.state("host", "peers")
        facts["peers"] = {
            peer_id: {
                "direction": peer.direction,
                "remotes": peer.remotes,
                "path": "none",
                "why": "nothing was sent yet",
            }
            for peer_id, peer in connected.items()
            if isinstance(peer, PeerState)
        }
        for path in (await node.ask("tun", PathsRequest(), Paths, timeout=3)).paths:
            peer = connected.get(path.peer_id)
            if isinstance(peer, PeerState):
                kind, why = path_and_why(path, peer)
                facts["peers"][path.peer_id] |= {"path": kind, "why": why, "address": path.address}
    except (EdgevpnError, trio.TooSlowError):
        pass  # an actor is away, or a node without an interface
    return facts


def peer_checks(node: dict[str, Any] | None) -> list[Check]:
    """The node's peers: who came to us, and how packets go."""
    if node is None:
        return [Check("peers", SKIP, "no node runs here: start one to see how its peers are reached")]
    if not node["members"]:
        return [Check("peers", WARN, f"the node is {node['state']}", node["waiting_for"])]
    checks = []
    for peer_id in node["members"]:
        peer = node["peers"].get(peer_id)
        if peer is None:
            continue
        way = f"{peer_id}: connected {peer['direction']}, packets by {peer['path']}"
        if peer["path"] == "datagram":
            checks.append(Check("peer", OK, f"{way} to {peer['address']}"))
        elif peer["path"] == "none":
            checks.append(Check("peer", OK, f"{way}: {peer['why']}"))
        else:
            checks.append(
                Check("peer", WARN, f"{way}: {peer['why']}", "let UDP through between the two for more speed")
            )
    return checks
