"""The dns actor: the VPN's names, served by DNS.

Machines come from the ledger's state "routes", patterns from its state "dns"; both are kept as they were last seen
while the ledger is away. Names are made anew as often as SETTLE and SHARE allow. The listening sockets are the
supervisor's: what is asked while this actor is away waits in them. Dies: its cache is gone, nothing else.
"""

from __future__ import annotations

import socket
import time
from typing import Any, Final

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.client import RefusedError, apply
from edgevpn.actors.dns_forward import Forwarder
from edgevpn.actors.dns_server import DnsServer
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.config import parse_dns_address
from edgevpn.errors import SetupError, UntrustedDataError
from edgevpn.names.cache import Cache
from edgevpn.names.patterns import Pattern, PatternTable, pattern_untrusted
from edgevpn.names.responder import Names
from edgevpn.names.servers import Servers
from edgevpn.names.zone import Zone
from edgevpn.proto.messages import Body, DnsName, DnsPattern, NamesReply, NamesRequest, Route

SETTLE: Final = 0.1  # seconds between two makings of all names, at least
SHARE: Final = 5  # and so many times what the last one took
_AT_A_TIME: Final = 8  # patterns compiled in one turn


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        udp = await _granted(shell, "dns-udp")
        tcp = await _granted(shell, "dns-tcp")
        if not udp:
            raise SetupError("the supervisor holds no socket for DNS: stop the node, start it again")
        actor = DnsActor(shell, nursery)
        nursery.start_soon(actor.follow, "routes", actor.routes)
        nursery.start_soon(actor.follow, "dns", actor.entries)
        nursery.start_soon(actor.keep_names)
        with trio.move_on_after(1):  # else the first queries would hear that their names do not exist
            await actor.made.wait()
        for sock in udp:
            nursery.start_soon(actor.server.serve_udp, sock)
        for sock in tcp:
            nursery.start_soon(actor.server.serve_tcp, sock)
        await shell.ready()
        await trio.sleep_forever()


async def _granted(shell: Shell, what: str) -> list[socket.socket]:
    """The sockets that the supervisor holds, of the families there are."""
    found = []
    for version in (4, 6):
        try:
            found.append(socket.socket(fileno=await shell.grant_descriptor(f"{what}{version}")))
        except RefusedError:
            continue
    for sock in found:
        sock.setblocking(False)
    return found


class DnsActor:
    """Holds the names; makes them from what the ledger says."""

    def __init__(self, shell: Shell, nursery: trio.Nursery) -> None:
        config = shell.config
        self._shell = shell
        self.routes: dict[str, Body] = {}
        self.entries: dict[str, Body] = {}
        self.made = trio.Event()
        self._seen: set[str] = set()
        self._changed = trio.Event()
        self._patterns: dict[tuple[str, str], Pattern | str] = {}  # or why it is refused
        self._cache = Cache(config.dns_cache_size)
        names = self._names([], {})
        forwarder = None
        servers = self._servers()
        if config.dns_forwarder and servers:
            forwarder = Forwarder(Servers(servers), self._cache, shell.count)
            shell.gauges["forwards_out"] = lambda: forwarder.asking
        self.server = DnsServer(names, forwarder, nursery, shell.count)
        shell.gauges |= {
            "names": lambda: len(self.server.names.zone),
            "patterns": lambda: len(self.server.names.patterns),
            "cached": lambda: len(self._cache),
            "clients_tcp": self.server.clients.total,
        }
        shell.namespace |= {"dns": self, "server": self.server, "cache": self._cache}
        shell.mailbox.on_request(NamesRequest, self._describe)

    def _servers(self) -> list[tuple[str, int]]:
        """The servers to ask, without ourselves."""
        config = self._shell.config
        ours, port = parse_dns_address(config.dns, any_host=True)
        local = {ours} if ours else {"127.0.0.1", "::1", *(cidr.partition("/")[0] for cidr in config.addresses)}
        servers = []
        for text in config.dns_forward_servers:
            server = parse_dns_address(text)
            if server[1] == port and server[0] in local:
                self._shell.log.warning(f"--dns-forward-server {text} is this server itself: it is left out")
            else:
                servers.append(server)
        return servers

    async def follow(self, topic: str, items: dict[str, Body]) -> None:
        async with self._shell.client("ledger").watch(topic) as updates:
            async for update in updates:
                apply(items, update)
                self._seen.add(topic)
                self._changed.set()

    async def keep_names(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            complete = len(self._seen) == 2  # what comes while they are made is for the next turn
            routes = dict(self.routes)
            patterns = await self._compile()
            began = trio.current_time()
            # In a thread: of ten thousand machines it takes 0.1 s, in which queries go on being answered.
            self.server.use(await trio.to_thread.run_sync(self._names, patterns, routes))
            if complete:
                self.made.set()
            took = trio.current_time() - began
            await trio.sleep(max(SETTLE, SHARE * took) if self.made.is_set() else 0)

    def _names(self, patterns: list[Pattern], routes: dict[str, Body]) -> Names:
        config = self._shell.config
        machines = {key: (one.peer_id, one.hostname) for key, one in routes.items() if isinstance(one, Route)}
        cidrs = config.addresses if config.vpn else ()
        return Names(Zone(config.dns_domain, machines, cidrs, int(time.time())), PatternTable(patterns))

    async def _compile(self) -> list[Pattern]:
        """The patterns there are, in the order in which they are to be taken; the new ones a few at a time."""
        wanted = sorted(
            ((one.place, text, one.value) for text, one in self.entries.items() if isinstance(one, DnsPattern)),
        )
        known: dict[tuple[str, str], Pattern | str] = {}
        for number, (_, text, value) in enumerate(wanted):
            found = self._patterns.get((text, value))
            if found is None:
                try:
                    found = pattern_untrusted(text, value)
                except UntrustedDataError as exc:
                    found = str(exc)
                    self._shell.warn("patterns_refused", pattern=text, reason=found)
                if number % _AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()
            known[text, value] = found
        self._patterns = known
        return [one for one in known.values() if isinstance(one, Pattern)]

    async def _describe(self, _: NamesRequest) -> Body:
        names = self.server.names
        return NamesReply(
            domain=self._shell.config.dns_domain,
            machines=[DnsName(name, addresses) for name, addresses in sorted(names.zone.names().items())],
            patterns=names.patterns.texts(),
            refused={text: one for (text, _), one in self._patterns.items() if isinstance(one, str)},
        )
