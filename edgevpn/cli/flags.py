"""The command line's flags: one table, and the Go program's way of reading it.

A row is a `Flag`: name, kind, default, environment variable, help, and, for one that is accepted but has no effect
here yet, why (`nothing_yet`). The help text, the reference page and the parser all come from the rows.

The syntax is that of Go's urfave/cli v2, which scripts and unit files for EdgeVPN use: `--flag value`, `--flag=value`
and the same with one dash; a boolean takes its value only after `=`; flags end at the first word that is none, or at
`--`; a list may be given several times or with commas. A flag wins over its environment variable, that over the
default. An environment variable that is set but empty means false, no number given, or the empty text.

No argument-parsing library is imported here: its start-up time would be spent on every start of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from edgevpn.errors import UsageError

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

_NO_LIMITS = "there is no resource manager"
_NOT_NEEDED_RELAYED = "relayed connections carry packets anyway"
_NO_AUTONAT = "there is no AutoNAT service"
_NO_UPNP = "there is no UPnP"
_NOT_NEEDED = "it is not needed"


class Flag(NamedTuple):
    """One flag. `kind`: bool, int, str, list or duration; `default` in that kind, a duration's as Go writes it."""

    name: str
    kind: str
    default: Any
    env: str
    help: str
    nothing_yet: str = ""  # why it has no effect here yet; "" if it works

    @property
    def dashed(self) -> str:
        return f"-{self.name}" if len(self.name) == 1 else f"--{self.name}"


class Settings(NamedTuple):
    """Every flag's value (a duration in seconds, a list as a tuple), and who gave those that were given."""

    values: dict[str, Any]
    given: dict[str, str]  # name -> "--flag" or the environment variable's name


# --- the table ----------------------------------------------------------------------------------------------------

COMMON: tuple[Flag, ...] = (
    Flag("config", "str", "", "EDGEVPNCONFIG", "Network config file (YAML, as -g prints); - reads it from stdin"),
    Flag(
        "token",
        "str",
        "",
        "EDGEVPNTOKEN",
        "Network token (as -g -b prints); - reads it from stdin. Other users can see arguments while the command "
        "starts: EDGEVPNTOKEN or --config is safer",
    ),
    Flag(
        "run-dir",
        "str",
        "",
        "EDGEVPNRUNDIR",
        "Directory of the running node's sockets (default: named after the interface)",
    ),
    Flag("listen-maddrs", "list", (), "EDGEVPNLISTENMADDRS", "Multiaddrs to listen on, instead of every address"),
    Flag(
        "dht-announce-maddrs",
        "list",
        (),
        "EDGEVPNDHTANNOUNCEMADDRS",
        "Multiaddrs to announce in the DHT, instead of the ones listened on",
        "the DHT announces what is listened on",
    ),
    Flag("timeout", "duration", "15s", "EDGEVPNTIMEOUT", "Longest wait for a stream to a peer"),
    Flag(
        "mtu",
        "int",
        1200,
        "EDGEVPNMTU",
        "MTU of the interface; without it 1420, and towards Go nodes 1200 (1280 with IPv6 addresses)",
    ),
    Flag("bootstrap-iface", "bool", True, "EDGEVPNBOOTSTRAPIFACE", "Set the interface up (needs privileges)"),
    Flag("packet-mtu", "int", 1420, "EDGEVPNPACKETMTU", "Size of the packet buffer", _NOT_NEEDED),
    Flag("channel-buffer-size", "int", 0, "EDGEVPNCHANNELBUFFERSIZE", "Packets between threads", _NOT_NEEDED),
    Flag("discovery-interval", "int", 720, "EDGEVPNDHTINTERVAL", "Longest pause between two looks into the DHT (s)"),
    Flag("ledger-announce-interval", "int", 10, "EDGEVPNLEDGERINTERVAL", "Pause between checks of our entries (s)"),
    Flag(
        "ledger-synchronization-interval",
        "int",
        10,
        "EDGEVPNLEDGERSYNCINTERVAL",
        "Longest pause between two announcements of the ledger (s)",
    ),
    Flag(
        "autorelay-discovery-interval",
        "duration",
        "5m",
        "EDGEVPNAUTORELAYDISCOVERYINTERVAL",
        "Longest pause between two questions to a relay that refuses",
    ),
    Flag("autorelay-static-only", "bool", False, "EDGEVPNAUTORELAYSTATICONLY", "Use only given relays"),
    Flag(
        "autorelay-static-peer",
        "list",
        (),
        "EDGEVPNAUTORELAYPEERS",
        "Relays to be reached through in any case, as multiaddrs (.../p2p/ID)",
    ),
    Flag(
        "autorelay",
        "bool",
        True,
        "EDGEVPNAUTORELAY",
        "Be reached through other nodes where a NAT or a firewall keeps this one from being dialled",
    ),
    Flag("nat-ratelimit-global", "int", 10, "EDGEVPNNATRATELIMITGLOBAL", "NAT checks for others, in all", _NO_AUTONAT),
    Flag("nat-ratelimit-peer", "int", 10, "EDGEVPNNATRATELIMITPEER", "NAT checks for others, each", _NO_AUTONAT),
    Flag("nat-ratelimit-interval", "int", 60, "EDGEVPNNATRATELIMITINTERVAL", "Period of those limits (s)", _NO_AUTONAT),
    Flag("nat-ratelimit", "bool", True, "EDGEVPNNATRATELIMIT", "Limit the NAT checks done for others", _NO_AUTONAT),
    Flag("max-connections", "int", 0, "EDGEVPNMAXCONNS", "Most connections to peers; 0 for 400"),
    Flag("ledger-state", "str", "", "EDGEVPNLEDGERSTATE", "Directory that keeps the ledger between runs"),
    Flag("mdns", "bool", True, "EDGEVPNMDNS", "Find peers on the local network"),
    Flag("concurrency", "int", 20, "", "Packets handled at a time", _NOT_NEEDED),
    Flag("holepunch", "bool", True, "EDGEVPNHOLEPUNCH", "Make direct TCP connections of relayed ones"),
    Flag("natservice", "bool", True, "EDGEVPNNATSERVICE", "Tell others whether they are reachable", _NO_AUTONAT),
    Flag("natmap", "bool", True, "EDGEVPNNATMAP", "Ask the router to forward a port (UPnP)", _NO_UPNP),
    Flag("dht", "bool", True, "EDGEVPNDHT", "Find peers in the DHT"),
    Flag("low-profile", "bool", True, "EDGEVPNLOWPROFILE", "Use few connections", _NOT_NEEDED),
    Flag("aliveness-healthcheck-interval", "int", 120, "HEALTHCHECKINTERVAL", "Pause between our heartbeats (s)"),
    Flag(
        "aliveness-healthcheck-scrub-interval",
        "int",
        600,
        "HEALTHCHECKSCRUBINTERVAL",
        "Pause between clean-ups of the ledger (s)",
    ),
    Flag(
        "aliveness-healthcheck-max-interval",
        "int",
        900,
        "HEALTHCHECKMAXINTERVAL",
        "Silence after which a node counts as offline (s)",
    ),
    Flag("log-level", "str", "info", "EDGEVPNLOGLEVEL", "debug, info, warn, error or fatal"),
    Flag(
        "libp2p-log-level",
        "str",
        "fatal",
        "EDGEVPNLIBP2PLOGLEVEL",
        "The same, for libp2p",
        "the log has the node's own lines",
    ),
    Flag(
        "discovery-bootstrap-peers",
        "list",
        (),
        "EDGEVPNBOOTSTRAPPEERS",
        "Multiaddrs (.../p2p/ID) of the first peers of the DHT; none: only the LAN is searched",
    ),
    Flag(
        "connection-high-water",
        "int",
        0,
        "EDGEVPN_CONNECTION_HIGH_WATER",
        "Connections above which some are closed, strangers and idle ones first; 0 for none",
    ),
    Flag(
        "connection-low-water",
        "int",
        0,
        "EDGEVPN_CONNECTION_LOW_WATER",
        "Connections down to which they are closed; 0 for three quarters of the high mark",
    ),
    Flag("relay-service", "bool", True, "EDGEVPN_RELAY_SERVICE", "Be a relay, where this node can be dialled"),
    Flag(
        "relay-service-network-only",
        "bool",
        True,
        "EDGEVPN_RELAY_SERVICE_NETWORK_ONLY",
        "Be a relay for the network's nodes only",
    ),
    Flag(
        "relay-service-acl-refresh",
        "duration",
        "30s",
        "EDGEVPN_RELAY_SERVICE_ACL_REFRESH",
        "Pause between looks at who is in the network",
    ),
    Flag(
        "relay-service-max-data",
        "int",
        1 << 30,
        "EDGEVPN_RELAY_MAX_DATA",
        "Bytes a relayed connection may carry, each way; 0 for no limit",
    ),
    Flag(
        "relay-service-max-duration",
        "duration",
        "30m0s",
        "EDGEVPN_RELAY_MAX_DURATION",
        "Longest life of a relayed connection; 0 for no limit",
    ),
    Flag(
        "relay-service-max-circuits",
        "int",
        64,
        "EDGEVPN_RELAY_MAX_CIRCUITS",
        "Relayed connections of a peer at a time",
    ),
    Flag(
        "relay-service-reservation-ttl",
        "duration",
        "1h0m0s",
        "EDGEVPN_RELAY_RESERVATION_TTL",
        "Life of a relay reservation",
    ),
    Flag(
        "relay-service-buffer-size",
        "int",
        65536,
        "EDGEVPN_RELAY_BUFFER_SIZE",
        "Buffer of a relayed connection (bytes, 1 KiB to 1 MiB)",
    ),
    Flag("blacklist", "list", (), "EDGEVPNBLACKLIST", "Peers (by ID) and networks never to connect with"),
    Flag(
        "whitelist",
        "list",
        (),
        "EDGEVPNWHITELIST",
        "Connect with these peers (by ID) only, and in these networks only; multiaddrs mean nothing here",
    ),
    Flag("limit-enable", "bool", False, "LIMITENABLE", "Limit what peers may use", _NO_LIMITS),
    Flag("limit-file", "str", "", "LIMITFILE", "File of limits (JSON)", _NO_LIMITS),
    Flag("limit-scope", "str", "system", "LIMITSCOPE", "What is limited", _NO_LIMITS),
    Flag("limit-config-streams", "int", 200, "LIMITCONFIGSTREAMS", "Most streams", _NO_LIMITS),
    Flag("limit-config-streams-inbound", "int", 30, "LIMITCONFIGSTREAMSINBOUND", "Most inbound streams", _NO_LIMITS),
    Flag("limit-config-streams-outbound", "int", 30, "LIMITCONFIGSTREAMSOUTBOUND", "Most outbound ones", _NO_LIMITS),
    Flag("limit-config-conn", "int", 200, "LIMITCONFIGCONNS", "Most connections", _NO_LIMITS),
    Flag("limit-config-conn-inbound", "int", 30, "LIMITCONFIGCONNSINBOUND", "Most inbound connections", _NO_LIMITS),
    Flag("limit-config-conn-outbound", "int", 30, "LIMITCONFIGCONNSOUTBOUND", "Most outbound ones", _NO_LIMITS),
    Flag("limit-config-fd", "int", 30, "LIMITCONFIGFD", "Most file descriptors", _NO_LIMITS),
    Flag("peerguard", "bool", False, "PEERGUARD", "Find out which nodes hold a key of the trust zone"),
    Flag("peergate", "bool", False, "PEERGATE", "With --peerguard: refuse gossip, streams and packets of all others"),
    Flag("peergate-autoclean", "bool", False, "PEERGATE_AUTOCLEAN", "Take nodes that left out of the trust zone"),
    Flag("peergate-relaxed", "bool", False, "PEERGATE_RELAXED", "Admit all while the ledger has no key"),
    Flag(
        "peergate-auth",
        "str",
        "",
        "PEERGATE_AUTH",
        """This node's key, as {"ecdsa": {"private_key": "..."}} (see `edgevpn peergater`); "public_keys" in it are """
        "keys to admit besides the ledger's. @FILE reads it from a file, which others can't see",
    ),
    Flag("peergate-interval", "int", 120, "EDGEVPNPEERGATEINTERVAL", "Pause between challenges (s)"),
    Flag(
        "peergate-fresh",
        "bool",
        False,
        "PEERGATE_FRESH",
        "Trust fresh challenges only: what Go nodes send as proof can be repeated by others",
    ),
    Flag(
        "ownership",
        "str",
        "enforce",
        "EDGEVPNOWNERSHIP",
        "Who may write what in the ledger: enforce (sign, and refuse what isn't theirs), observe (sign, and log it) "
        "or off (as old nodes do). The whole network must agree",
    ),
    Flag(
        "ownership-ttl",
        "int",
        0,
        "EDGEVPNOWNERSHIPTTL",
        "Silence after which others may take an owner's entries (s); 0 for four heartbeat intervals",
    ),
    Flag("privkey-cache", "bool", False, "EDGEVPNPRIVKEYCACHE", "Keep this node's key (its peer id) between runs"),
    Flag("privkey-cache-dir", "str", "$HOME/.edgevpn", "EDGEVPNPRIVKEYCACHEDIR", "Directory of that key"),
    Flag("static-peertable", "list", (), "EDGEVPNSTATICPEERTABLE", "Peers by VPN address, as 10.1.0.2:12D3KooW..."),
    Flag("debug", "bool", False, "", "Show tracebacks"),
)

DNS: tuple[Flag, ...] = (
    Flag("dns-forwarder", "bool", True, "DNSFORWARD", "Ask other servers for names that are not the VPN's"),
    Flag("dns-cache-size", "int", 200, "DNSCACHESIZE", "How many of their answers are remembered"),
    Flag("dns-forward-server", "list", ("8.8.8.8:53", "1.1.1.1:53"), "DNSFORWARDSERVER", "Those servers"),
    Flag("dns-domain", "str", "edgevpn.internal", "EDGEVPNDNSDOMAIN", "Domain of the machines' names"),
    Flag(
        "dns-system",
        "str",
        "off",
        "EDGEVPNDNSSYSTEM",
        "Make this machine ask us: resolved (systemd-resolved, the VPN's names only), resolv.conf, auto or off. "
        "Undone at the end",
    ),
)

API_ACCESS: tuple[Flag, ...] = (
    Flag(
        "api-auth",
        "str",
        "token",
        "EDGEVPNAPIAUTH",
        "Who may use the API: token (the file api-token in the run directory; `edgevpn api-url` shows it), or off: "
        "every user and program of this machine",
    ),
    Flag("api-host", "list", (), "EDGEVPNAPIHOST", "Names the API may be called by, besides its addresses"),
)

# With `edgevpn`, `service-add` and `service-connect`.
TUNNELS: tuple[Flag, ...] = (
    Flag("service", "list", (), "EDGEVPNSERVICE", "Offer a service, as NAME=HOST:PORT or NAME=udp://HOST:PORT"),
    Flag("connect", "list", (), "EDGEVPNCONNECT", "Listen for a service, as NAME=:PORT or NAME=udp://HOST:PORT"),
)

ROOT_ONLY: tuple[Flag, ...] = (
    Flag("address", "list", ("10.1.0.1/24",), "ADDRESS", "VPN address with its prefix length; empty for none"),
    Flag("interface", "str", "edgevpn0", "IFACE", "Name of the interface"),
    Flag("path", "str", "auto", "EDGEVPNPATH", "How packets go to nodes of ours: auto, datagram (UDP) or stream (TCP)"),
    Flag(
        "repair",
        "str",
        "auto",
        "EDGEVPNREPAIR",
        "Whether packets that the way loses at random are repaired: auto or off",
    ),
    Flag(
        "packet-priority",
        "str",
        "auto",
        "EDGEVPNPACKETPRIORITY",
        "How the system runs what moves packets: auto (real time, where it may and there are several processors) or"
        " normal",
    ),
    Flag("datagram-port", "int", 0, "EDGEVPNDATAGRAMPORT", "UDP port for packets; 0 for any"),
    Flag("router", "str", "", "ROUTER", "VPN address of the node that gets packets to unknown addresses"),
    Flag("g", "bool", False, "", "Print a new network config and exit"),
    Flag("b", "bool", False, "", "With -g: print it as a token"),
    Flag("key-otp-interval", "int", 360, "", "With -g: how often the network's keys rotate (s)"),
    Flag("api", "bool", False, "API", "Serve the HTTP API and the dashboard"),
    Flag("api-listen", "str", "127.0.0.1:8080", "APILISTEN", "Where to serve it: ADDRESS:PORT or unix:///PATH"),
    *API_ACCESS,
    Flag("dhcp", "bool", False, "DHCP", "Get the VPN address from the network; --address then says which network"),
    Flag(
        "lease-dir",
        "str",
        "$HOME/.edgevpn/leases",
        "DHCPLEASEDIR",
        "With --dhcp: directory that keeps the address, and without --privkey-cache the node's key, between runs",
    ),
    Flag("transient-conn", "bool", False, "TRANSIENTCONN", "Use relayed connections for packets", _NOT_NEEDED_RELAYED),
    Flag("dns", "str", "", "DNSADDRESS", "Where to serve DNS, like 10.1.0.1:53; empty for nowhere"),
    *DNS,
    *TUNNELS,
    Flag("egress", "bool", False, "EGRESS", "Connect to the Internet for the nodes that run `edgevpn proxy`"),
    Flag("egress-announce-time", "int", 200, "EGRESSANNOUNCE", "Pause between its announcements (s)"),
    Flag(
        "egress-allow",
        "list",
        (),
        "EGRESSALLOW",
        "Networks (CIDR) that --egress connects to though they are private, loopback or the like",
    ),
)

ROOT: tuple[Flag, ...] = ROOT_ONLY + COMMON
SECRET_ENVIRONMENT = ("EDGEVPNTOKEN", "PEERGATE_AUTH")

HELP = Flag("help", "bool", False, "", "Show this help and exit")
VERSION = Flag("version", "bool", False, "", "Show the version and exit")
_SHORT = {"h": "help", "v": "version"}


# --- reading ------------------------------------------------------------------------------------------------------


def parse(args: Sequence[str], table: Iterable[Flag]) -> tuple[dict[str, list[str]], list[str]]:
    """Read flags up to the first other word: (texts given for each flag, the words that are left).

    Raises UsageError for an unknown flag, or one without its value. --help and --version are always known.
    """
    known = {flag.name: flag for flag in (*table, HELP, VERSION)}
    given: dict[str, list[str]] = {}
    words = list(args)
    while words:
        word = words[0]
        if not word.startswith("-") or word == "-":
            break
        words.pop(0)
        if word == "--":
            break
        name, equals, text = word.removeprefix("-").removeprefix("-").partition("=")
        name = _SHORT.get(name, name)
        flag = known.get(name)
        if flag is None:
            raise UsageError(f"unknown flag {word.partition('=')[0]}{_did_you_mean(name, known.values())}")
        if not equals and flag.kind == "bool":
            text = "true"
        elif not equals:
            if not words:
                raise UsageError(f"{flag.dashed} needs a value")
            text = words.pop(0)
        given.setdefault(name, []).append(text)
    return given, words


def settle(table: Iterable[Flag], given: Mapping[str, list[str]], environ: Mapping[str, str]) -> Settings:
    """Every flag's value: from `given` (the last one wins, lists add up), else the environment, else the default.

    Raises UsageError for a text that is no value of its flag's kind.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for flag in table:
        texts, source = given.get(flag.name), flag.dashed
        if texts is None and flag.env in environ:
            source = flag.env
            texts = [environ[flag.env]]
            if not texts[0] and flag.kind == "bool":
                texts = ["false"]
            elif not texts[0] and flag.kind in ("int", "duration"):
                texts = None
        if texts is None:
            values[flag.name] = _value(flag, [flag.default]) if flag.kind == "duration" else flag.default
        else:
            values[flag.name] = _value(flag, texts, source)
            sources[flag.name] = source
    return Settings(values, sources)


def notices(table: Iterable[Flag], given: Mapping[str, str]) -> list[str]:
    """One line for each given flag that has no effect here yet."""
    return [
        f"{flag.dashed}{'' if given[flag.name] == flag.dashed else f' (set by {given[flag.name]})'} "
        f"is accepted for compatibility but does nothing yet ({flag.nothing_yet})"
        for flag in table
        if flag.nothing_yet and flag.name in given
    ]


def parse_bool(text: str) -> bool | None:
    """A boolean as Go's strconv.ParseBool reads it; None if it is none."""
    return True if text in _TRUE else False if text in _FALSE else None


def closest(word: str, among: Iterable[str]) -> str:
    """The one of `among` that `word` was probably meant to be, or ""."""
    import difflib  # only when something is wrong

    found = difflib.get_close_matches(word, list(among), 1)
    return found[0] if found else ""


def _did_you_mean(name: str, known: Iterable[Flag]) -> str:
    by_name = {flag.name: flag for flag in known if len(flag.name) > 1}
    meant = closest(name, by_name)
    return f": did you mean {by_name[meant].dashed}?" if meant else ": see edgevpn --help"


def _value(flag: Flag, texts: Sequence[str], source: str = "") -> Any:
    if flag.kind == "list":
        return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())
    text = texts[-1]
    if flag.kind == "bool":
        truth = parse_bool(text)
        if truth is None:
            raise UsageError(f"{source} is true or false, not {text!r}")
        return truth
    if flag.kind == "int":
        try:
            number = int(text.strip(), 0)
        except ValueError:
            raise UsageError(f"{source} is a whole number, not {text!r}") from None
        if not -(2**63) <= number < 2**63:
            raise UsageError(f"{source} is out of range")
        return number
    if flag.kind == "duration":
        from edgevpn.config import parse_duration

        try:
            return parse_duration(text)
        except UsageError as exc:
            raise UsageError(f"{source}: {exc}") from None
    return text
