"""The first stage of a node's start: from flags to a process that never saw the token.

The command line has read the token from somewhere others may see: its arguments, its environment. So it writes the
checked network config into a sealed memfd, and the node's configuration into another, and then replaces itself (exec,
the same process id) by edgevpn/cli/stage2.py, whose arguments are two descriptor numbers and whose environment has no
secrets. What the supervisor and its children inherit, a core dump or /proc/PID can't show the token then; only
who is handed the memfd can read it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from edgevpn.actors.template_start import StartedTemplate, hand_over
from edgevpn.cli import peergate_auth
from edgevpn.cli.flags import SECRET_ENVIRONMENT, Settings
from edgevpn.cli.node_commands import api_fields, dns_fields
from edgevpn.config import (
    MIN_MTU_IPV6,
    OWNERSHIP_MODES,
    NodeConfig,
    check_multiaddr,
    parse_cidr,
    parse_ip,
    parse_static_peer,
)
from edgevpn.errors import EdgevpnError, UsageError
from edgevpn.sealed_memory import sealed_memfd

STAGE2 = "edgevpn.cli.stage2"
T = TypeVar("T")


def node_config(
    settings: Settings, *, vpn: bool, run_dir: str, purpose: Mapping[str, Any] = MappingProxyType({})
) -> tuple[NodeConfig, list[str]]:
    """The node that the flags describe, and lines about what of them was left out. Raises UsageError.

    `vpn`: `settings` has the flags of the root command, not of `start` and its like. `purpose`: further fields of the
    configuration (edgevpn/cli/node_commands.py).
    """
    values, given = settings
    notes: list[str] = []
    addresses = tuple(_each(parse_cidr, "address", settings)) if vpn else ()
    mtu = go_mtu = values["mtu"]
    if "mtu" not in given:
        mtu = NodeConfig.mtu
        if any(":" in address for address in addresses):
            go_mtu = max(go_mtu, MIN_MTU_IPV6)
    ownership = OWNERSHIP_MODES.get(values["ownership"].strip().lower())
    if ownership is None:
        raise UsageError(f"{given['ownership']} is enforce, observe or off, not {values['ownership']!r}")
    for name in (
        "discovery-interval",
        "ledger-announce-interval",
        "ledger-synchronization-interval",
        "aliveness-healthcheck-interval",
        "aliveness-healthcheck-scrub-interval",
        "aliveness-healthcheck-max-interval",
        "peergate-interval",
        "timeout",
    ):
        if values[name] <= 0:
            raise UsageError(f"{given[name]} must be more than 0 seconds")
    peergate = peergate_auth.parse(values["peergate-auth"], given.get("peergate-auth", "--peergate-auth"))
    dhcp = vpn and values["dhcp"]
    lease_dir = os.path.abspath(_expanded(values["lease-dir"])) if dhcp else ""
    privkey_cache, privkey_cache_dir = values["privkey-cache"], os.path.abspath(_expanded(values["privkey-cache-dir"]))
    if dhcp and not privkey_cache:  # the ledger gives an address to a key: who keeps one keeps the other
        privkey_cache, privkey_cache_dir = True, os.path.join(lease_dir, f"{values['interface']}.key")
    config = NodeConfig(
        run_dir=run_dir,
        vpn=vpn,
        interface=values["interface"] if vpn else "",
        addresses=addresses,
        mtu=mtu,
        go_mtu=go_mtu,
        bootstrap_iface=values["bootstrap-iface"],
        router=parse_ip(values["router"]) if vpn and values["router"] else "",
        dhcp=dhcp,
        lease_dir=lease_dir,
        path=values["path"].strip().lower() if vpn else "auto",
        datagram_port=values["datagram-port"] if vpn else 0,
        repair=values["repair"].strip().lower() if vpn else "auto",
        packet_priority=values["packet-priority"].strip().lower() if vpn else "auto",
        listen=_listen(settings, notes),
        max_connections=max(values["max-connections"], 0),  # -1 is the Go program's "no limit"
        connection_high_water=values["connection-high-water"],
        connection_low_water=values["connection-low-water"],
        timeout=values["timeout"],
        autorelay=values["autorelay"],
        autorelay_interval=values["autorelay-discovery-interval"] or NodeConfig.autorelay_interval,
        autorelay_static_only=values["autorelay-static-only"],
        static_relays=values["autorelay-static-peer"],
        holepunch=values["holepunch"],
        relay_service=values["relay-service"],
        relay_network_only=values["relay-service-network-only"],
        relay_acl_refresh=values["relay-service-acl-refresh"] or NodeConfig.relay_acl_refresh,
        relay_max_data=values["relay-service-max-data"],
        relay_max_duration=values["relay-service-max-duration"],
        relay_max_circuits=values["relay-service-max-circuits"],
        relay_reservation_ttl=values["relay-service-reservation-ttl"] or NodeConfig.relay_reservation_ttl,
        relay_buffer_size=min(max(values["relay-service-buffer-size"], 1024), 1 << 20),
        dht=values["dht"],
        mdns=values["mdns"],
        discovery_interval=float(values["discovery-interval"]),
        bootstrap_peers=values["discovery-bootstrap-peers"],
        static_peers=tuple(_each(parse_static_peer, "static-peertable", settings)),
        ledger_announce_interval=float(values["ledger-announce-interval"]),
        ledger_sync_interval=float(values["ledger-synchronization-interval"]),
        ledger_state=os.path.abspath(_expanded(values["ledger-state"])) if values["ledger-state"] else "",
        ownership=ownership,
        ownership_ttl=float(values["ownership-ttl"]),
        heartbeat_interval=float(values["aliveness-healthcheck-interval"]),
        scrub_interval=float(values["aliveness-healthcheck-scrub-interval"]),
        max_heartbeat_age=float(values["aliveness-healthcheck-max-interval"]),
        blacklist=values["blacklist"],
        whitelist=_whitelist(values["whitelist"], notes),
        peerguard=values["peerguard"],
        peergate=values["peergate"],
        peergate_relaxed=values["peergate-relaxed"],
        peergate_autoclean=values["peergate-autoclean"],
        peergate_fresh=values["peergate-fresh"],
        peergate_interval=float(values["peergate-interval"]),
        peergate_keys=peergate.public_keys,
        peergate_key_fd=_sealed_key(peergate.private_key) if values["peerguard"] else -1,
        privkey_cache=privkey_cache,
        privkey_cache_dir=privkey_cache_dir,
        log_level=values["log-level"].lower(),
        libp2p_log_level=values["libp2p-log-level"].lower(),
        debug=values["debug"],
        **(dns_fields(values["dns"], values) if vpn and values["dns"] else {}),
        **(api_fields(values["api-listen"] if values["api"] else "", values) if vpn else {}),
        **purpose,
    )
    return config, notes


def launch(config: NodeConfig, network_text: str, module: str, template: StartedTemplate | None = None) -> NoReturn:
    """Become the node: exec `module` (STAGE2) with the descriptors of the sealed network config and of `config`.

    `network_text`: the checked network config (YAML). `template` goes with us: it stays the child of this process.
    Returns only by an error.
    """
    network_fd = sealed_memfd("edgevpn-token", network_text.encode(), inheritable=True)
    config_fd = sealed_memfd("edgevpn-config", json.dumps(config.to_dict()).encode(), inheritable=True)
    for name in SECRET_ENVIRONMENT:
        os.environ.pop(name, None)
    sys.stdout.flush()
    sys.stderr.flush()
    # -P: a working directory is no place to import from.
    args = [sys.executable, "-P", "-m", module, "--fd", str(network_fd), "--config", str(config_fd)]
    if template is not None:
        descriptor, pid = hand_over(template)
        args += ["--template-fd", str(descriptor), "--template-pid", str(pid)]
    os.execv(sys.executable, args)  # noqa: S606 - our own interpreter, and no shell is wanted


def _each(parse: Callable[[str], T], name: str, settings: Settings) -> Iterator[T]:
    """What `parse` makes of each value of the list flag `name`; errors say where the value came from."""
    source = settings.given.get(name, f"--{name}")
    for text in settings.values[name]:
        try:
            yield parse(text)
        except EdgevpnError as exc:
            raise UsageError(f"{source}: {exc}") from None


def _listen(settings: Settings, notes: list[str]) -> tuple[str, ...]:
    given: tuple[str, ...] = settings.values["listen-maddrs"]
    usable = []
    for addr, names in zip(given, _each(check_multiaddr, "listen-maddrs", settings), strict=True):
        if names in (("ip4", "tcp"), ("ip6", "tcp")):
            usable.append(addr)
        else:
            notes.append(f"--listen-maddrs: {addr} is left out: only /ip4/.../tcp/PORT and /ip6/.../tcp/PORT work yet")
    if given and not usable:
        raise UsageError("--listen-maddrs has no address that works yet: write one like /ip4/0.0.0.0/tcp/4001")
    return tuple(usable)


def _whitelist(given: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    """Without multiaddrs: with the Go program they are exempt from its limits, and nobody else is excluded."""
    for text in given:
        if text.startswith("/"):
            notes.append(f"--whitelist: {text} is left out: give a peer id or a network like 192.0.2.0/24")
    return tuple(text for text in given if not text.startswith("/"))


def _sealed_key(private_key: str) -> int:
    """A descriptor that goes to the node with the others; -1 without a key."""
    if not private_key:
        return -1
    return sealed_memfd("edgevpn-peergate", private_key.encode(), inheritable=True)


def _expanded(path: str) -> str:
    return os.path.expanduser(path.replace("$HOME", "~", 1) if path.startswith("$HOME") else path)
