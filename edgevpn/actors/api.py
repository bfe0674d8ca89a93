"""The api actor: the HTTP API and the dashboard.

It has no rights of its own: the supervisor opened its listening socket and holds it (api_listener.py), and the token;
what it shows and changes it asks of the other actors. Dies: connections end, new ones wait in the socket's queue, and
pages of the dashboard come back by themselves.
"""

from __future__ import annotations

import os
import socket
from traceback import format_exception
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.api_server import MAX_CONNECTIONS, Server
from edgevpn.actors.api_source import ApiSource
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.p2p import lean_import
from edgevpn.proto.api_address import ApiAddress, parse_api_address
from edgevpn.proto.http_guard import rules_for
from edgevpn.proto.messages import ApiInfo, ApiRequest, Body, NodeStatus, StatusRequest
from edgevpn.proto.queue_state import QueueState
from edgevpn.web.app import make_app
from edgevpn.web.hub import MAX_WATCHERS

# Where libp2p is, it is imported at its first use: better now, in the template, than at each start of the actor.
lean_import.for_real("prometheus_client")


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, nursery):
        address = parse_api_address(shell.config.api)
        token = await shell.grant("api-token") if shell.config.api_auth == "token" else b""
        listener = await _listener(shell)
        status = await shell.client("supervisor").call(StatusRequest(), NodeStatus)
        source = ApiSource(shell, status.peer_id)
        # A socket belongs to who made it: the supervisor's user, whoever we are.
        trusted = (0, os.fstat(listener.socket.fileno()).st_uid) if address.path else ()

        def refused(reason: str) -> None:
            shell.warn("api_requests_refused", reason=reason)

        def failed(exc: Exception) -> None:
            shell.count("api_requests_failed")
            shell.log.error("a request failed by a bug", traceback="".join(format_exception(exc)))

        server = Server(make_app(source, rules_for(address, token, shell.config.api_hosts), refused), trusted, failed)
        _tell_where(shell, address, listener)
        shell.queues["connections"] = lambda: QueueState(server.connections, MAX_CONNECTIONS, 0)
        shell.queues["watchers"] = lambda: QueueState(source.hub.watched, MAX_WATCHERS, 0)
        shell.namespace |= {"source": source, "server": server}
        nursery.start_soon(source.run)
        nursery.start_soon(server.run, listener)
        await shell.ready()
        await trio.sleep_forever()


async def _listener(shell: Shell) -> trio.SocketListener:
    raw = socket.socket(fileno=await shell.grant_descriptor("api-listener"))
    raw.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw))


def _tell_where(shell: Shell, address: ApiAddress, listener: trio.SocketListener) -> None:
    port = 0 if address.path else int(listener.socket.getsockname()[1])
    info = ApiInfo(address.text(port), address.url(port), shell.config.api_auth)

    async def tell(_: ApiRequest) -> Body:
        return info

    shell.mailbox.on_request(ApiRequest, tell)
    shell.log.debug("serves the API", listen=info.listen)
