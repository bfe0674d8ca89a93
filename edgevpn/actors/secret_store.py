"""What the supervisor holds for its actors as descriptors: secrets, the TUN device, sockets, a directory.

Secrets are in sealed memfds (memfd_create(2)): no file, no path, and not in the supervisor's own memory. An actor
asks with the ticket of its own start; which actor may have what is the table below. Tickets die with the start they
were made for. What could not be opened at the start is tried again when an actor asks for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from edgevpn.actors.mailbox import RequestError
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import Body, Done, Grant

Descriptors = dict[str, int | Callable[[], int]]

MAY_HAVE: dict[str, frozenset[str]] = {
    "token": frozenset({"sealer"}),
    "identity": frozenset({"host", "gossip", "discovery", "ledger"}),
    "tun": frozenset({"tun"}),
    "udp4": frozenset({"tun"}),
    "udp6": frozenset({"tun"}),
    "ledger-state": frozenset({"ledger"}),
    "dns-udp4": frozenset({"dns"}),
    "dns-udp6": frozenset({"dns"}),
    "dns-tcp4": frozenset({"dns"}),
    "dns-tcp6": frozenset({"dns"}),
    "api-listener": frozenset({"api"}),
    "api-token": frozenset({"api"}),
    "listener": frozenset({"tunnels"}),  # "listener:0", ...
    "peergate-key": frozenset({"trust"}),
}


class SecretStore:
    """Descriptors by name, and the tickets that open them."""

    def __init__(self, descriptors: Descriptors) -> None:
        """A function instead of a descriptor opens it; it raises OSError while it can't."""
        self._descriptors = descriptors
        self._tickets: dict[str, str] = {}

    def issue(self, actor: str) -> str:
        """A ticket for one start of `actor`; an earlier one of it is void."""
        self.revoke(actor)
        ticket = secrets.token_urlsafe(24)
        self._tickets[ticket] = actor
        return ticket

    def revoke(self, actor: str) -> None:
        for ticket in [ticket for ticket, holder in self._tickets.items() if holder == actor]:
            del self._tickets[ticket]

    def holder(self, ticket: str) -> str | None:
        """The actor whose start a ticket was made for."""
        return self._tickets.get(ticket)

    def grant(self, request: Grant) -> tuple[Body, list[int]]:
        """Answer a Grant. Raises RequestError when the ticket does not open that."""
        actor = self._tickets.get(request.ticket)
        if actor is None or actor not in MAY_HAVE.get(request.what.partition(":")[0], frozenset()):
            raise RequestError("refused", f"no {request.what} for that ticket")
        if request.what not in self._descriptors:
            raise RequestError("absent", f"this node has no {request.what}")
        return Done(), [self._open(request.what)]

    def _open(self, what: str) -> int:
        held = self._descriptors[what]
        if callable(held):
            try:
                held = self._descriptors[what] = held()
            except (OSError, EdgevpnError) as exc:
                raise RequestError("failed", getattr(exc, "strerror", None) or str(exc)) from exc
        return held
