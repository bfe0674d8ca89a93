"""`edgevpn doctor`: is everything there that a node needs, and if not, what to do.

Each check is a function from what it found out to a `Check`; what they need is gathered first. With a running node its
ports are its own, and its peers' heartbeats are a clock to compare with.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil
import trio

from edgevpn.actors import real_time, system_resolver
from edgevpn.cli import net_probe
from edgevpn.cli.ask import Node
from edgevpn.cli.checks import FAIL, OK, SKIP, WARN, Check, tell
from edgevpn.cli.flags import ROOT, settle
from edgevpn.cli.netcheck import nat_checks, node_facts
from edgevpn.cli.run_dir import node_options
from edgevpn.config import NodeConfig
from edgevpn.errors import EdgevpnError
from edgevpn.names.resolv_conf import maker
from edgevpn.proto.messages import LedgerReply, LedgerRequest
from edgevpn.proto.values import HEALTHCHECK

OVERHEAD = 66  # bytes around a packet on its way: IPv4 and UDP, and the seal (docs/wire.md)
MAX_SKEW = 60.0  # seconds; one-time passwords of neighbouring windows overlap by less
_FIRST_SANE = 1_700_000_000  # a clock before this was never set
_STA_UNSYNC = 0x0040
_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN = 10, 12
_RESOLVER_TIME = 2.0


@click.command(epilog="Example: edgevpn doctor --config network.yaml")
@click.option("--config", "config", default="", help="Network config to check (else EDGEVPNCONFIG or EDGEVPNTOKEN).")
@click.option(
    "--stun-server",
    "servers",
    multiple=True,
    default=net_probe.STUN_SERVERS,
    show_default=True,
    help="HOST:PORT of a server that says how it sees us; several; empty for none.",
)
@click.option(
    "--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="A port the node shall have; several."
)
@node_options
def doctor(config: str, ports: tuple[int, ...], servers: tuple[str, ...], run_dir: Path, as_json: bool) -> int:
    """Check this machine: clock, rights, token, port, resolver, UDP, NAT, MTU; each with what to do.

    Works without a running node, and with one. Exit code 1 when something fails that a node needs.
    """
    asked = tuple(server for server in servers if server)
    for server in asked:
        net_probe.split_host(server)
    return trio.run(_run, config, ports, asked, run_dir, as_json)


async def _run(config: str, ports: tuple[int, ...], servers: tuple[str, ...], run_dir: Path, as_json: bool) -> int:
    udp: dict[int, net_probe.Udp] = {}
    resolvers: dict[str, float | None] = {}
    system = _nameservers()

    async def ask_udp(family: int) -> None:
        udp[family] = await net_probe.udp(family, servers)

    async def ask_resolver(server: str) -> None:
        resolvers[server] = await _ask_resolver(server)

    async with trio.open_nursery() as nursery:
        for family in (socket.AF_INET, socket.AF_INET6):
            nursery.start_soon(ask_udp, family)
        for server in system:
            nursery.start_soon(ask_resolver, server)
    node = Node(run_dir)
    facts = await node_facts(node)
    skew = await _heartbeat_skew(node) if facts else None
    told = facts["clock"] if facts else ""
    environ = {name: value for name, value in os.environ.items() if name in ("EDGEVPNCONFIG", "EDGEVPNTOKEN")}
    checks = [
        node_check(facts, run_dir),
        clock_check(time.time(), _is_synchronised(), skew, told),
        *rights_checks(_capabilities(), _can_open(Path("/dev/net/tun"))),
        priority_check(real_time.why_not_here(), several=real_time.may()),
        token_check(config, environ, is_running=facts is not None),
        *port_checks(ports, is_running=facts is not None),
        resolver_check(resolvers, maker(_resolv_conf()), is_ours_running=facts is not None),
        *nat_checks([udp[family] for family in (socket.AF_INET, socket.AF_INET6)], asked=bool(servers)),
        mtu_check(_outer_mtu(udp), _inner_mtu(run_dir.name)),
    ]
    return tell(checks, as_json)


# --- the checks


def node_check(facts: dict[str, Any] | None, run_dir: Path) -> Check:
    if facts is None:
        return Check("node", SKIP, f"no node runs in {run_dir}")
    if facts["waiting_for"]:
        return Check("node", WARN, f"{facts['state']}, waits for {facts['waiting_for']}", "see edgevpn netcheck")
    return Check("node", OK, f"{facts['state']}, {len(facts['members'])} peer(s)")


def clock_check(now: float, synchronised: bool | None, skew: float | None, told: str = "") -> Check:
    """`skew`: seconds by which a peer's heartbeat is ahead of us; None without one. `told`: by the running node, of the
    clocks of its peers and its own; "" when they agree."""
    do = "set it by NTP: `timedatectl set-ntp true`, or install chrony"
    if now < _FIRST_SANE:
        return Check("clock", FAIL, f"it says {time.strftime('%Y-%m-%d', time.gmtime(now))}", do)
    if skew is not None and skew > MAX_SKEW:
        return Check("clock", FAIL, f"a peer is {skew:.0f} s ahead of this machine: keys rotate by the clock", do)
    if told:
        return Check("clock", WARN, told, do)
    if synchronised is False:
        return Check("clock", WARN, "nothing keeps it right (the kernel says: not synchronised)", do)
    return Check("clock", OK, "kept right by the system" if synchronised else "set; who keeps it right is not known")


def rights_checks(capabilities: int, tun: str) -> list[Check]:
    """`capabilities`: the effective ones (capabilities(7)); `tun`: why /dev/net/tun can't be opened."""
    admin, bind = capabilities >> _CAP_NET_ADMIN & 1, capabilities >> _CAP_NET_BIND_SERVICE & 1
    checks = []
    if not admin:
        checks.append(
            Check("rights", FAIL, "this user may make no interface", "run as root, or `edgevpn start` without one")
        )
    elif tun:
        checks.append(
            Check("rights", FAIL, f"can't open /dev/net/tun: {tun}", "modprobe tun; in a container, pass the device")
        )
    else:
        checks.append(Check("rights", OK, "may make an interface"))
    if not bind:
        checks.append(
            Check("port 53", WARN, "this user may not serve DNS at port 53", "run as root, or choose another port")
        )
    return checks


def priority_check(why_not: str, *, several: bool) -> Check:
    """Whether packets can go before other programs; `why_not`, if not. `several`: processors."""
    if why_not:
        found = f"packets are moved at normal priority: {why_not}"
        if not several:
            return Check("priority", OK, found)
        return Check(
            "priority", WARN, found, "for less delay on a busy machine run as root; a container needs CAP_SYS_NICE"
        )
    return Check("priority", OK, "packets may go before other programs (real time)")


def token_check(config: str, environ: Mapping[str, str], *, is_running: bool) -> Check:
    from edgevpn.cli import token

    given = {"config": [config]} if config else {}
    settings = settle(ROOT, given, environ)
    if not settings.values["config"] and not settings.values["token"]:
        if is_running:
            return Check("token", OK, "the running node has one")
        return Check("token", SKIP, "none given", "make one by `edgevpn -g > network.yaml`, then --config network.yaml")
    try:
        token.read(settings)
    except EdgevpnError as exc:
        return Check("token", FAIL, str(exc), "copy it again from a machine where it works")
    path = settings.values["config"]
    if path and path != "-" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        return Check("token", WARN, f"good, but others can read {path}", f"chmod 600 {path}")
    return Check("token", OK, "good")


def port_checks(ports: tuple[int, ...], *, is_running: bool) -> list[Check]:
    """Whether a node could listen, by TCP and UDP: at these ports, or at any."""
    if is_running:
        return [Check("port", OK, "the running node listens: `edgevpn status` tells where")]
    checks = []
    for port in ports or (0,):
        refused = [f"{name}: {why}" for kind, name in _KINDS if (why := _why_not_bound(kind, port))]
        if refused:
            do = f"`ss -lntup sport = :{port}` tells who has it; choose another" if port else "close other programs"
            checks.append(Check("port", FAIL, f"can't listen at port {port or 'any'} ({', '.join(refused)})", do))
        elif port:
            checks.append(Check("port", OK, f"{port} is free by TCP and UDP; a firewall must let it in"))
        else:
            checks.append(Check("port", OK, "any free one will do; behind a firewall fix one, and try it with --port"))
    return checks


_KINDS = ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP"))


def _why_not_bound(kind: socket.SocketKind, port: int) -> str:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        try:
            sock.bind(("0.0.0.0", port))  # noqa: S104 - as a node does
        except OSError as exc:
            return exc.strerror or str(exc)
    return ""


def resolver_check(resolvers: Mapping[str, float | None], made_by: str, *, is_ours_running: bool) -> Check:
    """`resolvers`: the servers of resolv.conf and their milliseconds, None: no answer; `made_by`: whose file it is."""
    answering = [server for server, took in resolvers.items() if took is not None]
    silent = [server for server, took in resolvers.items() if took is None]
    if made_by and not is_ours_running and silent:
        do = "start a node, which puts it back, or move resolv.conf.before-edgevpn over it"
        return Check("resolver", FAIL, f"/etc/resolv.conf is still that of the node in {made_by}", do)
    if not resolvers:
        return Check(
            "resolver", WARN, "there is no name server in /etc/resolv.conf", "names of bootstrap peers need one"
        )
    if not answering:
        return Check("resolver", WARN, f"no answer from {', '.join(silent)}", "mend /etc/resolv.conf")
    found = ", ".join(f"{server} ({resolvers[server]:.0f} ms)" for server in answering)
    if silent:
        return Check(
            "resolver", WARN, f"{found} answers, {', '.join(silent)} does not", "take it out of /etc/resolv.conf"
        )
    return Check("resolver", OK, f"{found} answers")


def mtu_check(outer: int | None, inner: int) -> Check:
    """`outer`: MTU of the interface that leads to the internet; `inner`: of the VPN's."""
    if outer is None:
        return Check("MTU", SKIP, "no route to the internet")
    if outer < inner + OVERHEAD:
        do = f"give all nodes --mtu {max(outer - OVERHEAD, 576)}"
        found = f"{outer} outside is too little for packets of {inner} and what seals them: they are cut"
        return Check("MTU", WARN, found, do)
    return Check("MTU", OK, f"{outer} outside, {inner} inside the VPN")


# --- finding out


def _is_synchronised() -> bool | None:
    """Whether the kernel counts the clock as kept right (adjtimex(2)); None when it does not say."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct timex, modes 0: only read
        if libc.adjtimex(buffer) < 0:
            return None
        status = ctypes.c_int.from_buffer(buffer, 5 * ctypes.sizeof(ctypes.c_long)).value
    except (OSError, AttributeError, ValueError):
        return None
    return not status & _STA_UNSYNC


async def _heartbeat_skew(node: Node) -> float | None:
    """Seconds by which the newest heartbeat of the network is ahead of our clock; None when there is none."""
    try:
        reply = await node.ask("ledger", LedgerRequest(HEALTHCHECK), LedgerReply, timeout=3)
    except EdgevpnError:
        return None
    moments = [entry.updated_at for entry in reply.entries if not entry.deleted]
    return max(moments) - time.time() if moments else None


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _can_open(path: Path) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def _resolv_conf() -> str:
    try:
        return system_resolver.RESOLV_CONF.read_text(errors="replace")
    except OSError:
        return ""


def _nameservers() -> list[str]:
    words = [line.split() for line in _resolv_conf().splitlines()]
    return [one[1] for one in words if len(one) > 1 and one[0] == "nameserver"][:3]


async def _ask_resolver(server: str) -> float | None:
    """Milliseconds until it answered anything at all; None if it did not in time."""
    import dns.message

    address, _, zone = server.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    began = time.perf_counter()
    try:
        with trio.socket.socket(family, socket.SOCK_DGRAM) as sock, trio.fail_after(_RESOLVER_TIME):
            scope = (0, socket.if_nametoindex(zone)) if zone else ()
            await sock.connect((address, 53, *scope))
            await sock.send(dns.message.make_query(".", "NS").to_wire())
            await sock.recv(4096)
    except (OSError, trio.TooSlowError):
        return None
    return (time.perf_counter() - began) * 1000


def _inner_mtu(interface: str) -> int:
    """That of the running node's interface, else the usual one."""
    stats = psutil.net_if_stats().get(interface)
    return stats.mtu if stats is not None and stats.mtu else NodeConfig.mtu


def _outer_mtu(udp: Mapping[int, net_probe.Udp]) -> int | None:
    addresses = net_probe.local_addresses()
    stats = psutil.net_if_stats()
    mtus = [
        stats[name].mtu for one in udp.values() for name in addresses.get(one.local, []) if name in stats and one.local
    ]
    return min(mtus, default=None)
