"""Everything a node must be told, except its secrets: one frozen value, checked when it is made.

The command line makes a `NodeConfig` (edgevpn/cli/launch.py); the supervisor hands it to each actor as the plain
dictionary of `to_dict`, and `from_dict` checks it again. The token never is in it, nor anything derived from it: a
config may be shown, logged and passed in arguments. The node's identity isn't either, only where it is cached.

Checks are light on purpose, since the command line starts through here: addresses by `ipaddress`, multiaddrs
(https://github.com/multiformats/multiaddr) by their shape, peer ids by base58 and length. What the machine thinks of
a value (does the interface exist, is the port free) is found out where it is used. Intervals are seconds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from edgevpn.errors import UsageError
from edgevpn.proto.api_address import parse_api_address
from edgevpn.proto.endpoints import TCP, check_service_name, parse_endpoint

OWNERSHIP_MODES = {  # what may be said -> what it means
    "enforce": "enforce",
    "on": "enforce",
    "observe": "observe",
    "log": "observe",
    "log-only": "observe",
    "off": "off",
}
LOG_LEVELS = ("debug", "info", "warn", "warning", "error", "dpanic", "panic", "fatal")
PATHS = ("auto", "datagram", "stream")
API_AUTH = ("token", "off")
DNS_SYSTEM = ("off", "auto", "resolved", "resolv.conf")
DNS_PORT = 53
DNS_DOMAIN = "edgevpn.internal"  # .internal is nobody's, for private use (ICANN, 2024)
MAX_DOMAIN = 180  # leaves room for a host's label, and for what is longer in the reverse
REPAIRS = ("auto", "off")
PACKET_PRIORITIES = ("auto", "normal")
MIN_MTU = 68  # RFC 791
MIN_MTU_IPV6 = 1280  # RFC 8200: below it Linux has no IPv6 on the interface
MAX_MTU = 65535
MAX_INTERFACE_NAME = 15  # IFNAMSIZ without its NUL
OWNERSHIP_TTL_HEARTBEATS = 4

_BASE58 = {letter: value for value, letter in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_MULTIADDR_NO_VALUE = {"quic", "quic-v1", "ws", "wss", "tls", "noise", "http", "https", "p2p-circuit"}
_MULTIADDR_NO_VALUE |= {"webtransport", "webrtc", "webrtc-direct"}
_MULTIADDR_NAMES = {"dns", "dns4", "dns6", "dnsaddr", "sni"}


# --- values -------------------------------------------------------------------------------------------------------


def parse_duration(text: str) -> float:
    """Seconds of a Go duration ("15s", "1h0m0s", "1.5m", "300ms", "0"). Raises UsageError; no negative ones."""
    stripped = text.strip()
    if stripped == "0":
        return 0.0
    parts = _DURATION_PART.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise UsageError(f"{text!r} is no duration: write it like 15s, 5m or 1h30m")
    return float(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))


def parse_cidr(text: str) -> str:
    """An address with its prefix length in normal form ("10.1.0.1/24", "fd00::1/64"). Raises UsageError."""
    address, slash, length = text.strip().partition("/")
    if not slash:
        raise UsageError(f"address {text!r} lacks its prefix length: write it like 10.1.0.1/24")
    if "%" in address:
        raise UsageError(f"address {text!r} has a zone: leave out the part from % on")
    if not (length.isascii() and length.isdigit()):
        raise UsageError(f"address {text!r} has a wrong prefix length: write it like 10.1.0.1/24")
    try:
        interface = ipaddress.ip_interface(f"{address}/{length}")
    except ValueError:
        raise UsageError(f"address {text!r} is no CIDR: write it like 10.1.0.1/24 or fd00::1/64") from None
    ip = interface.ip
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        raise UsageError(f"address {text!r} can't be a machine's: choose a unicast address like 10.1.0.1/24")
    return str(interface)


def parse_ip(text: str) -> str:
    """One IP address in normal form. Raises UsageError."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise UsageError(f"{text!r} is no IP address") from None


def parse_dns_address(text: str, *, any_host: bool = False) -> tuple[str, int]:
    """(IP, port) of "10.1.0.1:53", "[fd00::1]:53", or an IP alone, which means port 53. Raises UsageError.

    `any_host`: ":53" goes too, as ("", 53).
    """
    stripped = text.strip()
    host, colon, port = stripped.rpartition(":")
    if not colon or stripped.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = stripped, str(DNS_PORT)
    host = host.removeprefix("[").removesuffix("]")
    try:
        address = "" if any_host and not host else str(ipaddress.ip_address(host))
    except ValueError:
        address = "-"
    if address == "-" or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise UsageError(f"{text!r} is no address for DNS: write it like 10.1.0.1:53 or [fd00::1]:53")
    return address, int(port)


def check_domain(text: str) -> None:
    """Raise UsageError unless `text` is a domain of plain labels, in lower case and without the last dot."""
    labels = text.split(".")
    if len(text) > MAX_DOMAIN or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9-]{0,61}[a-z0-9])?", one) for one in labels):
        raise UsageError(f"--dns-domain {text!r} is no domain: write it like {DNS_DOMAIN}")


def parse_static_peer(text: str) -> tuple[str, str]:
    """(VPN address, peer id) of "10.1.0.2:12D3KooW...". IPv6 too: the last colon divides. Raises UsageError."""
    address, colon, peer_id = text.strip().rpartition(":")
    if not colon or not address:
        raise UsageError(f"{text!r} is no static peer: write it like 10.1.0.2:12D3KooW...")
    check_peer_id(peer_id)
    return parse_ip(address.removeprefix("[").removesuffix("]")), peer_id


def check_peer_id(text: str) -> None:
    """Raise UsageError unless `text` looks like a libp2p peer id: base58 of a multihash, or a CID in base32/36."""
    if re.fullmatch(r"b[a-z2-7]{58,}|k[0-9a-z]{50,}", text):
        return
    number = 0
    for letter in text if len(text) <= 128 else "":
        if letter not in _BASE58:
            number = 0
            break
        number = number * 58 + _BASE58[letter]
    zeros = len(text) - len(text.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    is_multihash = number and len(raw) > 2 and raw[0] in (0x00, 0x12) and raw[1] == len(raw) - 2
    if not is_multihash:
        raise UsageError(f"{text!r} is no peer id: it looks like 12D3KooW...")


class PeerList(NamedTuple):
    """Of --blacklist and --whitelist: peer ids, and networks as CIDRs."""

    peers: tuple[str, ...]
    networks: tuple[str, ...]


def parse_peer_list(texts: Iterable[str]) -> PeerList:
    """Peer ids, addresses and CIDRs, also as multiaddrs (/p2p/ID, /ip4/A, /ip4/A/ipcidr/24). Raises UsageError."""
    peers, networks = [], []
    for given in texts:
        text = given.strip()
        if match := re.fullmatch(r"/ip[46]/([^/]+)(?:/ipcidr/([0-9]+))?", text):
            text = match[1] + (f"/{match[2]}" if match[2] else "")
        text = text.removeprefix("/p2p/").removeprefix("/ipfs/")
        try:
            networks.append(str(ipaddress.ip_network(text, strict=False)))
        except ValueError:
            try:
                check_peer_id(text)
            except UsageError:
                raise UsageError(f"{given!r} is no peer id, address or network: write it like 192.0.2.0/24") from None
            peers.append(text)
    return PeerList(tuple(peers), tuple(networks))


def check_multiaddr(text: str) -> tuple[str, ...]:
    """The protocol names of a multiaddr, outermost first. Raises UsageError if it hasn't the shape of one."""
    parts = text.split("/")
    if len(parts) < 2 or parts[0]:
        raise UsageError(f"{text!r} is no multiaddr: write it like /ip4/192.0.2.1/tcp/4001")
    names = []
    rest = iter(parts[1:])
    for name in rest:
        names.append(name)
        if name in _MULTIADDR_NO_VALUE:
            continue
        value = next(rest, "")
        if not _multiaddr_value_is_good(name, value):
            raise UsageError(f"multiaddr {text!r} has a wrong part /{name}/{value}")
    return tuple(names)


def _multiaddr_value_is_good(name: str, value: str) -> bool:
    try:
        if name == "ip4":
            ipaddress.IPv4Address(value)
        elif name == "ip6":
            ipaddress.IPv6Address(value)
        elif name in ("tcp", "udp"):
            return value.isascii() and value.isdigit() and len(value) <= 5 and int(value) <= 65535
        elif name in ("p2p", "ipfs"):
            check_peer_id(value)
        elif name == "certhash":
            return bool(value)
        elif name == "ip6zone" or name in _MULTIADDR_NAMES:
            return bool(re.fullmatch(r"[\w.-]{1,253}", value, re.ASCII))
        else:
            return False
    except (ValueError, UsageError):
        return False
    return True


def check_interface_name(name: str) -> None:
    """Raise UsageError unless Linux would take `name` for a network interface (and we for a directory)."""
    if not name:
        raise UsageError("the interface needs a name: give one with --interface, like edgevpn0")
    if len(name.encode()) > MAX_INTERFACE_NAME:
        raise UsageError(f"interface name {name!r} is too long: Linux allows {MAX_INTERFACE_NAME} characters")
    if name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9_.@+-]+", name, re.ASCII) or name.startswith("-"):
        raise UsageError(f"interface name {name!r} has characters that don't go: use letters, digits, - _ and .")


# --- the whole ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """What a node is told. Sequences are tuples; making one with a wrong value raises UsageError.

    The defaults are the command line's, so `NodeConfig(run_dir=...)` is what `edgevpn` runs without a flag.
    """

    run_dir: str
    vpn: bool = True  # False: `edgevpn start`, a node without an interface
    interface: str = "edgevpn0"
    addresses: tuple[str, ...] = ("10.1.0.1/24",)  # CIDRs of the interface; may be empty
    mtu: int = 1420  # of the interface; at least 1280 if an address is IPv6
    go_mtu: int = 1200  # of what goes to Go nodes, whose interface has that
    bootstrap_iface: bool = True  # give the interface its addresses, MTU and routes
    router: str = ""  # VPN address that gets packets to unknown destinations; "" for none

    dhcp: bool = False  # get an address of each network in `addresses` from the network
    lease_dir: str = ""  # directory that remembers them

    path: str = "auto"  # how packets go to peers of ours: auto, datagram, stream
    datagram_port: int = 0  # UDP; 0: any free one
    repair: str = "auto"  # of what the datagram path loses: auto, off
    packet_priority: str = "auto"  # of the actor that moves packets: auto (real time where it may), normal

    listen: tuple[str, ...] = ()  # /ip4|ip6/ADDRESS/tcp/PORT; empty: the default ones
    max_connections: int = 0  # 0: as many as the host takes by itself
    connection_high_water: int = 0  # more than so many, and some are closed; 0: none
    connection_low_water: int = 0  # down to so many; 0: three quarters of the high mark
    timeout: float = 15.0  # to open a stream to a peer

    autorelay: bool = True  # be reached through relays, where nobody can dial this node
    autorelay_interval: float = 300.0  # the longest pause between two questions to a relay that refuses
    autorelay_static_only: bool = False  # only at those given
    static_relays: tuple[str, ...] = ()  # multiaddrs with /p2p/
    holepunch: bool = True  # make direct connections out of relayed ones
    relay_service: bool = True  # be a relay for others, where this node can be dialled
    relay_network_only: bool = True  # for the network's nodes
    relay_acl_refresh: float = 30.0
    relay_max_data: int = 1 << 30  # bytes of a circuit, each way; 0: no limit
    relay_max_duration: float = 1800.0  # seconds of a circuit; 0: no limit
    relay_max_circuits: int = 64  # of one peer
    relay_reservation_ttl: float = 3600.0
    relay_buffer_size: int = 65536

    dht: bool = True
    mdns: bool = True
    discovery_interval: float = 720.0  # the longest pause between two rounds in the DHT
    bootstrap_peers: tuple[str, ...] = ()  # multiaddrs with /p2p/; empty: none, this node only serves the DHT to others
    static_peers: tuple[tuple[str, str], ...] = ()  # (VPN address, peer id)

    ledger_announce_interval: float = 10.0
    ledger_sync_interval: float = 10.0  # the longest pause between two announcements of the whole block
    ledger_state: str = ""  # directory; "": the ledger is kept in memory
    ownership: str = "enforce"  # enforce, observe, off
    ownership_ttl: float = 0.0  # how old an owner's heartbeat may be; 0: four heartbeat intervals
    heartbeats: bool = True  # False: only once the node has written something that expires without
    heartbeat_interval: float = 120.0
    scrub_interval: float = 600.0
    max_heartbeat_age: float = 900.0  # who is silent for longer is offline (leader election)

    dns: str = ""  # where names are served, as 10.1.0.1:53; "": nowhere
    dns_domain: str = DNS_DOMAIN  # of the machines' names
    dns_forwarder: bool = True  # ask others for other names
    dns_cache_size: int = 200  # of their answers
    dns_forward_servers: tuple[str, ...] = ("8.8.8.8:53", "1.1.1.1:53")
    dns_system: str = "off"  # make this machine ask us: off, auto, resolved, resolv.conf
    api: str = ""  # where the HTTP API is served: ADDRESS:PORT or unix:///PATH; "": nowhere
    api_auth: str = "token"  # token, off
    api_hosts: tuple[str, ...] = ()  # names it may be called by, besides its addresses
    services: tuple[tuple[str, str], ...] = ()  # offered: (name, endpoint as tcp://HOST:PORT or udp://HOST:PORT)
    connects: tuple[tuple[str, str], ...] = ()  # listened for: (name, endpoint)
    egress: bool = False  # connect to the Internet for other nodes
    egress_announce_interval: float = 200.0
    egress_allow: tuple[str, ...] = ()  # CIDRs that are connected to though they are not of the Internet
    proxy_listen: str = ""  # endpoint of the proxy; "": none
    proxy_announce_interval: float = 120.0
    proxy_dead_interval: float = 600.0  # egress nodes that are silent for longer are not used
    errand: str = ""  # "file-send", "file-receive": what the node is for; it ends with it
    errand_words: tuple[str, ...] = ()  # what the errand's own process is told
    blacklist: tuple[str, ...] = ()  # peer ids, addresses and networks never connected with
    whitelist: tuple[str, ...] = ()  # the only ones connected with; empty: all

    peerguard: bool = False  # find out who holds a key of the trust zone
    peergate: bool = False  # and admit nobody else
    peergate_relaxed: bool = False  # while no key is known: everybody
    peergate_autoclean: bool = False  # take those that left out of the bucket `trustzone`
    peergate_fresh: bool = False  # only by fresh challenges, not as the Go program proves itself
    peergate_interval: float = 120.0  # between two challenges of a peer
    peergate_keys: tuple[str, ...] = ()  # public keys that count besides the ledger's
    peergate_key_fd: int = -1  # descriptor of the node's own private key; -1: it has none

    privkey_cache: bool = False  # keep the node's key between runs
    privkey_cache_dir: str = ""

    log_level: str = "info"
    libp2p_log_level: str = "fatal"
    debug: bool = False  # tracebacks, and the crash prompt

    def __post_init__(self) -> None:
        if not self.run_dir:
            raise UsageError("the node needs a run directory: give one with --run-dir")
        if self.vpn:
            self._check_interface()
        for interval in (
            "timeout",
            "discovery_interval",
            "ledger_announce_interval",
            "ledger_sync_interval",
            "heartbeat_interval",
            "scrub_interval",
            "max_heartbeat_age",
            "egress_announce_interval",
            "proxy_announce_interval",
            "proxy_dead_interval",
            "peergate_interval",
            "autorelay_interval",
            "relay_acl_refresh",
            "relay_reservation_ttl",
        ):
            if not getattr(self, interval) > 0:
                raise UsageError(f"{interval.replace('_', ' ')} must be more than 0 seconds")
        if self.ownership_ttl < 0:
            raise UsageError("--ownership-ttl can't be negative: 0 means four heartbeat intervals")
        if self.max_connections < 0:
            raise UsageError("--max-connections can't be negative: 0 means 400")
        if self.connection_high_water < 0 or self.connection_low_water < 0:
            raise UsageError("the connection water marks can't be negative: 0 means none")
        if self.connection_low_water > self.connection_high_water:
            raise UsageError("--connection-low-water must not be above --connection-high-water")
        if self.ownership not in ("enforce", "observe", "off"):
            raise UsageError(f"--ownership {self.ownership!r} is none of enforce, observe, off")
        for level in (self.log_level, self.libp2p_log_level):
            if level not in LOG_LEVELS:
                raise UsageError(f"{level!r} is no log level: use one of {', '.join(LOG_LEVELS)}")
        if self.privkey_cache and not self.privkey_cache_dir:
            raise UsageError("--privkey-cache needs a directory: give one with --privkey-cache-dir")
        if self.api:
            self._check_api()
        for addr in self.listen:
            names = check_multiaddr(addr)
            if len(names) != 2 or names[0] not in ("ip4", "ip6") or names[1] != "tcp":
                raise UsageError(f"can't listen on {addr}: write it like /ip4/0.0.0.0/tcp/4001")
        for addr in self.bootstrap_peers:
            if "p2p" not in check_multiaddr(addr):
                raise UsageError(f"bootstrap peer {addr} lacks its peer id: it ends in /p2p/12D3KooW...")
        for addr in self.static_relays:
            if "p2p" not in check_multiaddr(addr):
                raise UsageError(f"relay {addr} lacks its peer id: it ends in /p2p/12D3KooW...")
        for count, name in ((self.relay_max_circuits, "max-circuits"), (self.relay_buffer_size, "buffer-size")):
            if count < 1:
                raise UsageError(f"--relay-service-{name} must be at least 1")
        if self.relay_max_data < 0 or self.relay_max_duration < 0:
            raise UsageError("the limits of --relay-service can't be negative: 0 means none")
        for address, peer_id in self.static_peers:
            parse_ip(address)
            check_peer_id(peer_id)
        self._check_dns()
        self._check_tunnels()
        for entries in (self.blacklist, self.whitelist):
            parse_peer_list(entries)
        if self.peergate and not self.peerguard:
            raise UsageError("--peergate needs --peerguard: the one admits nobody but those whom the other knows")

    def _check_api(self) -> None:
        address = parse_api_address(self.api)
        if self.api_auth not in API_AUTH:
            raise UsageError(f"--api-auth {self.api_auth!r} is none of {', '.join(API_AUTH)}")
        if self.api_auth == "off" and not address.is_local:
            raise UsageError(
                "--api-auth=off is for this machine alone: let the API listen on 127.0.0.1 or unix:///PATH"
            )
        for name in self.api_hosts:
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", name, re.ASCII):
                raise UsageError(f"--api-host {name!r} is no host name: give it without port and scheme")

    def _check_tunnels(self) -> None:
        offered = [(name, parse_endpoint(place).kind) for name, place in self.services]
        for name, _ in (*self.services, *self.connects):
            check_service_name(name)
        if len(set(offered)) != len(offered):
            raise UsageError("a service is given twice under one name: choose another name for one of them")
        for _, place in self.connects:
            parse_endpoint(place, listening=True)
        if self.proxy_listen and parse_endpoint(self.proxy_listen, listening=True).kind != TCP:
            raise UsageError("the proxy listens on TCP: write --listen like 127.0.0.1:8080")
        for cidr in self.egress_allow:
            try:
                ipaddress.ip_network(cidr, strict=False)
            except ValueError:
                raise UsageError(f"--egress-allow {cidr!r} is no network: write it like 192.168.1.0/24") from None
        if self.errand not in ("", "file-send", "file-receive"):
            raise UsageError(f"{self.errand!r} is no errand")

    def _check_interface(self) -> None:
        check_interface_name(self.interface)
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise UsageError(f"--mtu {self.mtu} is out of range: {MIN_MTU} to {MAX_MTU}")
        seen = set()
        for address in self.addresses:
            ip = parse_cidr(address).partition("/")[0]
            if ip in seen:
                raise UsageError(f"address {ip} is given twice")
            seen.add(ip)
            if ":" in ip and self.mtu < MIN_MTU_IPV6:
                raise UsageError(f"--mtu {self.mtu} is too small for {address}: IPv6 needs {MIN_MTU_IPV6}")
        if self.dhcp and not (self.addresses and self.lease_dir):
            raise UsageError("--dhcp needs the network to take an address of: give one like --address 10.1.0.1/24")
        if self.dhcp and self.static_peers:
            raise UsageError("--dhcp and --static-peertable exclude each other: give the node its --address")
        if self.router:
            parse_ip(self.router)
        if self.path not in PATHS:
            raise UsageError(f"--path {self.path!r} is none of {', '.join(PATHS)}")
        if self.repair not in REPAIRS:
            raise UsageError(f"--repair {self.repair!r} is none of {', '.join(REPAIRS)}")
        if self.packet_priority not in PACKET_PRIORITIES:
            raise UsageError(f"--packet-priority {self.packet_priority!r} is none of {', '.join(PACKET_PRIORITIES)}")
        if not 0 <= self.datagram_port <= 65535:
            raise UsageError(f"--datagram-port {self.datagram_port} is no port: 0 to 65535")

    def _check_dns(self) -> None:
        if self.dns_system not in DNS_SYSTEM:
            raise UsageError(f"--dns-system {self.dns_system!r} is none of {', '.join(DNS_SYSTEM)}")
        if not self.dns:
            if self.dns_system != "off":
                raise UsageError("--dns-system needs an address to serve names at: give one with --dns")
            return
        _, port = parse_dns_address(self.dns, any_host=True)
        check_domain(self.dns_domain)
        if self.dns_cache_size < 0:
            raise UsageError("--dns-cache-size can't be negative: 0 means no cache")
        for server in self.dns_forward_servers:
            parse_dns_address(server)
        if self.dns_system == "resolv.conf" and port != DNS_PORT:
            raise UsageError(f"--dns-system resolv.conf needs port {DNS_PORT}: that file has no room for another")
        if self.dns_system == "resolved" and not self.vpn:
            raise UsageError("--dns-system resolved needs an interface: use resolv.conf, or run the VPN with --dns")

    @property
    def owner_ttl(self) -> float:
        """Seconds an owner counts as live after its last heartbeat (`ownership_ttl`, or derived)."""
        return self.ownership_ttl or OWNERSHIP_TTL_HEARTBEATS * self.heartbeat_interval

    def actors(self) -> tuple[str, ...]:
        """The actors this node consists of, in the order they are started."""
        names: tuple[str, ...] = ("sealer", "host", "discovery", "gossip", "ledger")
        for actor, wanted in (
            ("trust", self.peerguard),
            ("tun", self.vpn),
            ("tunnels", bool(self.services or self.connects or self.egress or self.proxy_listen)),
            ("dns", bool(self.dns)),
            ("api", bool(self.api)),
        ):
            names += (actor,) if wanted else ()
        return names

    def listeners(self) -> tuple[tuple[str, str], ...]:
        """What the tunnels actor listens on: (descriptor's name, endpoint). The supervisor opens them."""
        found = [(f"listener:{number}", place) for number, (_, place) in enumerate(self.connects)]
        return (*found, *((("listener:proxy", self.proxy_listen),) if self.proxy_listen else ()))

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that msgpack and JSON carry (tuples become lists there)."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NodeConfig:
        """The config of a `to_dict`, also after msgpack or JSON. Raises UsageError."""
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise UsageError(f"unknown configuration: {', '.join(unknown)}")
        settled = {name: _typed(name, str(known[name].type), value) for name, value in values.items()}
        try:
            return cls(**settled)
        except TypeError as exc:
            raise UsageError(f"incomplete configuration: {exc}") from None


def _typed(name: str, type_name: str, value: Any) -> Any:
    """`value` as the field's type, with lists turned into tuples. Raises UsageError."""
    if type_name == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type_name in ("bool", "int", "float", "str"):
        if type(value).__name__ == type_name:
            return value
    elif isinstance(value, list | tuple):
        if type_name == "tuple[str, ...]" and all(isinstance(item, str) for item in value):
            return tuple(value)
        pairs = tuple(tuple(item) if isinstance(item, list | tuple) else () for item in value)
        if all(len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in pairs):
            return pairs
    raise UsageError(f"configuration {name} must be {type_name}, not {type(value).__name__}")
