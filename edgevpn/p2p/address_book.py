"""Where peers may be dialled: addresses by peer, with their source and their record of success and failure. Pure.

Addresses are multiaddrs in text, of the forms this program can dial: `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT`,
`/dnsaddr/NAME`, and through a relay `.../p2p/RELAY/p2p-circuit`. A trailing `/p2p/PEER` is cut off on entry.

Nothing here grows without bound: `MAX_PEERS` peers, `MAX_ADDRS` addresses each; the least promising goes first. Entries
live as long as their source says (`LIFETIME`, seconds), longer once they have worked. An address that a peer claims
never pushes out one that worked: identify reports what a peer listens on, not what can be reached from here.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgevpn.errors import UntrustedDataError

MAX_PEERS = 4096
MAX_ADDRS = 16
MAX_TEXT = 512

# In the order in which they are trusted to lead to the peer. "before" are the addresses of an earlier run.
LIFETIME: dict[str, float] = {
    "static": math.inf,
    "bootstrap": math.inf,
    "mdns": 600.0,
    "gossip": 7200.0,
    "identify": 3600.0,
    "before": 3600.0,
    "dht": 1800.0,
}
WORKED_LIFETIME = 86400.0
BY_HAND = ("static", "bootstrap")  # what the user named: good as it is, and dropped last
_RANK = {source: rank for rank, source in enumerate(LIFETIME)}

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class DialAddr:
    """A parsed address. `ip` is None for names; `relay` is the relay's peer id for an address through a relay."""

    text: str
    ip: IPAddress | None
    relay: str | None


def parse_addr_untrusted(text: str, peer_id: str) -> DialAddr:
    """The address `text` for dialling `peer_id`, without the trailing `/p2p/PEER`.

    Raises UntrustedDataError for a form that we cannot dial, another peer's address, or no address at all.
    """
    if not isinstance(text, str) or not text.startswith("/") or len(text) > MAX_TEXT:
        raise UntrustedDataError("not a multiaddr")
    parts = text.rstrip("/").split("/")[1:]
    if len(parts) >= 2 and parts[-2] in ("p2p", "ipfs"):
        if parts[-1] != peer_id:
            raise UntrustedDataError("the address of another peer")
        del parts[-2:]
    relay = None
    base = parts
    if parts[-1:] == ["p2p-circuit"]:
        if len(parts) < 5 or parts[-3] not in ("p2p", "ipfs") or parts[-2] == peer_id:
            raise UntrustedDataError("a relay address without a relay")
        relay, base = parts[-2], parts[:-3]
    if any(c <= " " or c > "~" for part in parts for c in part):
        raise UntrustedDataError("not a multiaddr")
    return DialAddr("/" + "/".join(parts), _base_ip(base), relay)


def _base_ip(base: Sequence[str]) -> IPAddress | None:
    match base:
        case ("ip4", host, "tcp", port):
            ip: IPAddress | None = _ip(host, 4)
        case ("ip6", host, "tcp", port):
            ip = _ip(host, 6)
        case (("dns" | "dns4" | "dns6"), name, "tcp", port) if name:
            ip = None
        case ("dnsaddr", name) if name:
            return None
        case _:
            raise UntrustedDataError("not an address over TCP")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise UntrustedDataError("not a TCP port")
    return ip


def _ip(text: str, version: int) -> IPAddress:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise UntrustedDataError("not an IP address") from None
    if ip.version != version:
        raise UntrustedDataError("not an IP address of that version")
    return ip


def network_of(ip: IPAddress, networks: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of `networks` that `ip` lies in (an IPv4 address written in IPv6 counts as itself)."""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return next((n for n in networks if n.version == ip.version and ip in n), None)


@dataclass
class _Entry:
    addr: DialAddr
    source: str
    expires: float
    succeeded: float = -math.inf
    failed: float = -math.inf

    def key(self) -> tuple[bool, bool, float, int]:
        """Sorts the most promising first: worked last time (lately), not tried, failed (long ago); then by source."""
        ok = self.succeeded > self.failed
        return (not ok, self.failed > self.succeeded, -self.succeeded if ok else self.failed, _RANK[self.source])


@dataclass
class AddressBook:
    """The addresses of all peers known here.

    `blocked`: networks that are never dialled (the VPN's own: a packet of the tunnel must not carry the tunnel).
    `loopback`: whether loopback addresses are good from every source (they are when we listen on nothing else);
    otherwise only those that the user named, or of a peer known to be on this machine.
    """

    blocked: tuple[IPNetwork, ...] = ()
    loopback: bool = False
    _peers: dict[str, dict[str, _Entry]] = field(default_factory=dict)

    def add(self, peer_id: str, addrs: Iterable[str], source: str, now: float, *, local: bool = False) -> int:
        """Remember those of `addrs` that can be dialled; returns how many. `local`: the peer is on this machine."""
        known = self._peers.pop(peer_id, {})
        kept = 0
        for number, text in enumerate(addrs):
            if number >= 4 * MAX_ADDRS:
                break
            try:
                addr = parse_addr_untrusted(text, peer_id)
            except UntrustedDataError:
                continue
            if not self.dialable(addr, source, local=local):
                continue
            kept += 1
            expires = now + LIFETIME[source]
            entry = known.get(addr.text)
            if entry is None:
                known[addr.text] = _Entry(addr, source, expires)
            else:
                entry.expires = max(entry.expires, expires)
                entry.source = min(entry.source, source, key=_RANK.__getitem__)
        if known:
            self._peers[peer_id] = known  # at the end: the most lately heard of
        while len(known) > MAX_ADDRS:
            del known[max(known, key=lambda text: (known[text].source not in BY_HAND, known[text].key()))]
        while len(self._peers) > MAX_PEERS:
            del self._peers[self._least_wanted()]
        return kept

    def dialable(self, addr: DialAddr, source: str, *, local: bool = False) -> bool:
        ip = addr.ip
        if ip is None:
            return True
        if ip.is_unspecified or ip.is_multicast or (ip.is_link_local and ip.version == 6):
            return False  # a link-local IPv6 address needs an interface, which a multiaddr does not carry
        if network_of(ip, self.blocked) is not None:
            return False
        return not ip.is_loopback or self.loopback or local or source in BY_HAND

    def succeeded(self, peer_id: str, text: str, now: float) -> None:
        """A connection over `text` was made."""
        entry = self._peers.get(peer_id, {}).get(text)
        if entry is not None:
            entry.succeeded = now
            entry.expires = max(entry.expires, now + WORKED_LIFETIME)

    def failed(self, peer_id: str, text: str, now: float) -> None:
        entry = self._peers.get(peer_id, {}).get(text)
        if entry is not None:
            entry.failed = now

    def dial_order(self, peer_id: str, now: float) -> list[DialAddr]:
        """Addresses to try, the most promising first; through a relay only after all direct ones."""
        known = self._peers.get(peer_id, {})
        for text in [text for text, entry in known.items() if entry.expires <= now]:
            del known[text]
        entries = sorted(known.values(), key=lambda entry: (entry.addr.relay is not None, entry.key()))
        return [entry.addr for entry in entries]

    def forget(self, peer_id: str) -> None:
        self._peers.pop(peer_id, None)

    def expire(self, now: float) -> None:
        """Drop what has outlived its source."""
        for peer_id in list(self._peers):
            self.dial_order(peer_id, now)
            if not self._peers[peer_id]:
                del self._peers[peer_id]

    def peers(self) -> list[str]:
        return list(self._peers)

    def _least_wanted(self) -> str:
        """The peer heard of longest ago, among those that nobody named by hand."""
        for peer_id, known in self._peers.items():
            if all(entry.source not in BY_HAND for entry in known.values()):
                return peer_id
        return next(iter(self._peers))
