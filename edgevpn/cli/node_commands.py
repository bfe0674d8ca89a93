"""The commands that bring up a node without an interface: `edgevpn start`, and those that start it for one purpose.

As in the Go program, `edgevpn dns` or `edgevpn service-add` is a node of its own: it joins the network like `start`
and does one thing more. A row of `NODE_COMMANDS` says which flags the command takes besides the common ones, and
which function turns flags and words into what the node's configuration has besides (`Purpose`).

Light on purpose: the command line reads it in its first milliseconds. A row names its function by "module:function".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgevpn.cli.flags import API_ACCESS, COMMON, DNS, TUNNELS, Flag, Settings
from edgevpn.errors import UsageError

DNS_LISTEN = "127.0.0.1:53"
START_NAME = "start"  # of the run directory of a node without an interface


class Purpose(NamedTuple):
    """What a node is for: the name of its run directory, and fields of its NodeConfig."""

    name: str
    fields: Mapping[str, Any]


class NodeCommand(NamedTuple):
    """A command that brings up a node. `flags`: those it takes besides COMMON.

    `purpose`: "module:function" of a function (settings, words) -> Purpose that raises UsageError.
    """

    flags: tuple[Flag, ...]
    purpose: str
    usage: str
    help: str
    example: str = ""

    @property
    def table(self) -> tuple[Flag, ...]:
        return self.flags + COMMON


def plain(_: Settings, words: Sequence[str]) -> Purpose:
    """`edgevpn start`: nothing but to be there."""
    if words:
        raise UsageError("`edgevpn start` takes flags only")
    return Purpose(START_NAME, {})


def dns(settings: Settings, words: Sequence[str]) -> Purpose:
    """`edgevpn dns`: serve names."""
    if words:
        raise UsageError("`edgevpn dns` takes flags only")
    values = settings.values
    return Purpose("dns", dns_fields(values["listen"] or DNS_LISTEN, values))


def dns_fields(listen: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a NodeConfig that the DNS flags stand for."""
    return {
        "dns": listen,
        "dns_domain": values["dns-domain"].lower().removesuffix("."),
        "dns_forwarder": values["dns-forwarder"],
        "dns_cache_size": max(values["dns-cache-size"], 0),
        "dns_forward_servers": values["dns-forward-server"],
        "dns_system": values["dns-system"].strip().lower(),
    }


def api(settings: Settings, words: Sequence[str]) -> Purpose:
    """`edgevpn api`: a node that serves the HTTP API."""
    if words:
        raise UsageError("`edgevpn api` takes flags only")
    values = settings.values
    fields = {
        **api_fields(values["listen"], values),
        "heartbeats": values["enable-healthchecks"],
    }
    if not fields["api"]:
        raise UsageError("--listen is empty: say where to serve the API, like 127.0.0.1:8080")
    return Purpose("api", fields)


def api_fields(listen: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a NodeConfig that the API's flags stand for; an empty `listen` means none is served."""
    return {
        "api": listen.strip(),
        "api_auth": values["api-auth"].strip().lower(),
        "api_hosts": values["api-host"],
    }


API_FLAGS = (
    Flag("listen", "str", "127.0.0.1:8080", "", "Where to serve the API: ADDRESS:PORT or unix:///PATH"),
    Flag(
        "enable-healthchecks",
        "bool",
        False,
        "ENABLE_HEALTHCHECKS",
        "Tell the network from the start that this node is alive, not only once it has written something",
    ),
    *API_ACCESS,
)
_SERVICE = (
    Flag("name", "str", "", "", "Name of the service, instead of the first word"),
    Flag("address", "str", "", "", "Address, instead of the second word"),
    *TUNNELS,
)
_FILE = (
    Flag("name", "str", "", "", "Name of the file in the network, instead of the first word"),
    Flag("path", "str", "", "", "Path here, instead of the second word"),
    Flag("json", "bool", False, "", "Print what came of it as JSON"),
)
_PROXY = (
    Flag("listen", "str", ":8080", "PROXYLISTEN", "Where to listen; 127.0.0.1:8080 keeps it to this machine"),
    Flag("api", "bool", False, "API", "Serve the HTTP API and the dashboard"),
    Flag("api-listen", "str", "127.0.0.1:8081", "APILISTEN", "Where to serve it: ADDRESS:PORT or unix:///PATH"),
    *API_ACCESS,
    Flag("interval", "int", 120, "PROXYINTERVAL", "Pause between announcements of this node (s)"),
    Flag("dead-interval", "int", 600, "PROXYDEADINTERVAL", "Silence after which an egress node is not used (s)"),
)


def optional_actors(values: Mapping[str, Any], fields: Mapping[str, Any], *, vpn: bool) -> list[str]:
    """The actors besides those of every node that the flags and the purpose ask for, before there is a NodeConfig."""
    tunnels = ("service", "connect", "egress") if vpn else ("services", "connects", "egress", "proxy_listen")
    told: Mapping[str, Any] = values if vpn else fields
    wanted = {
        "trust": values["peerguard"],
        "tunnels": any(told.get(name) for name in tunnels),
        "dns": told.get("dns"),
        "api": told.get("api"),
    }
    return [actor for actor, is_wanted in wanted.items() if is_wanted]


NODE_COMMANDS: dict[str, NodeCommand] = {
    "start": NodeCommand((), f"{__name__}:plain", "start [FLAGS]", "Join the network without an interface"),
    "dns": NodeCommand(
        (
            Flag("listen", "str", "", "DNSADDRESS", f"Where to serve DNS, like 10.1.0.1:53; empty for {DNS_LISTEN}"),
            *DNS,
        ),
        f"{__name__}:dns",
        "dns [FLAGS]",
        "Join the network without an interface, and serve its names by DNS",
    ),
    "api": NodeCommand(
        API_FLAGS, f"{__name__}:api", "api [FLAGS]", "Join the network without an interface, and serve the HTTP API"
    ),
    "service-add": NodeCommand(
        _SERVICE,
        "edgevpn.cli.tunnel_commands:service_add",
        "service-add [FLAGS] NAME HOST:PORT",
        "Offer a TCP (or udp://) service to the network",
        "edgevpn service-add --config network.yaml web 127.0.0.1:80",
    ),
    "service-connect": NodeCommand(
        _SERVICE,
        "edgevpn.cli.tunnel_commands:service_connect",
        "service-connect [FLAGS] NAME LISTEN",
        "Listen here for a service of another node",
        "edgevpn service-connect --config network.yaml web 127.0.0.1:8080",
    ),
    "proxy": NodeCommand(
        _PROXY,
        "edgevpn.cli.tunnel_commands:proxy",
        "proxy [FLAGS]",
        "Serve HTTP and SOCKS 5 here, through nodes that run with --egress",
        "edgevpn proxy --config network.yaml --listen 127.0.0.1:8080",
    ),
    "file-send": NodeCommand(
        (*_FILE, Flag("once", "bool", False, "", "End when one receiver has all of it")),
        "edgevpn.cli.file_commands:file_send",
        "file-send [FLAGS] NAME PATH",
        "Offer a file or a directory to the network, until interrupted",
        "edgevpn file-send --config network.yaml photos ./photos",
    ),
    "file-receive": NodeCommand(
        (*_FILE, Flag("give-up", "duration", "0s", "", "Longest wait for all of it; 0 for as long as it takes")),
        "edgevpn.cli.file_commands:file_receive",
        "file-receive [FLAGS] NAME PATH",
        "Get a file or a directory that another node offers; it goes on where it broke off",
        "edgevpn file-receive --config network.yaml photos ./photos",
    ),
}
