"""Tells the host actor what its peers did wrong, from other actors. A full queue drops: there will be more."""

from __future__ import annotations

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.shell import Shell
from edgevpn.proto.messages import Done, Misbehaved

QUEUE = 64


class Complaints:
    """`note` never waits."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._send, self._receive = trio.open_memory_channel[Misbehaved](QUEUE)

    def note(self, peer_id: str, offence: str) -> None:
        """`offence`: one of p2p/conduct.py."""
        try:
            self._send.send_nowait(Misbehaved(peer_id, offence))
        except trio.WouldBlock:
            self._shell.count("complaints_dropped")

    async def run(self) -> None:
        host = self._shell.client("host")
        async for complaint in self._receive:
            try:
                await host.call(complaint, Done)
            except (ActorUnavailableError, RefusedError):
                self._shell.count("complaints_dropped")
