"""What the other actors know of trust: whom the gate lets through, as the trust actor last said.

Without --peerguard everybody passes. With --peergate nobody does until the trust actor has spoken; while it is away all
stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from edgevpn.actors.client import apply
from edgevpn.actors.shell import Shell
from edgevpn.proto.messages import Body, Gate, Trusted


class TrustLink:
    """Follows the state "trusted"."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._changed: Callable[[], None] = lambda: None
        self._said: dict[str, Body] = {}
        self.used = shell.config.peerguard
        self.closed = self.used and shell.config.peergate
        self.fresh = False

    def when_changed(self, call: Callable[[], None]) -> None:
        """Have `call` called after each change."""
        self._changed = call

    async def follow(self) -> None:
        """Until cancelled."""
        if not self.used:
            return
        async with self._shell.client("trust").watch("trusted") as updates:
            async for update in updates:
                apply(self._said, update)
                gate = self._said.get("gate")
                if isinstance(gate, Gate):
                    self.closed, self.fresh = gate.closed, gate.fresh
                    self._changed()

    def allows(self, peer: str) -> bool:
        """Whether a peer's streams and packets are welcome."""
        return not self.closed or isinstance(self._said.get(peer), Trusted)

    def allows_message(self, author: str, forwarder: str, *, author_is_connected: bool) -> bool:
        """Whether a message is, which may come through others.

        An author that we are not connected with can't be asked: it counts as trusted if who passed its message on is,
        since nodes of ours pass on nothing else (as in Go, where nobody looks at the author at all).
        """
        if self.allows(author):
            return True
        return not self.fresh and not author_is_connected and self.allows(forwarder)
