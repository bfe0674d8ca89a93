"""Messages of the tunnels actor: services, egress and proxy."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class TunnelsRequest(Message, frozen=True):
    """Answered by Tunnels."""


class TunnelState(Message, frozen=True):
    """One thing that is offered or listened for.

    `what`: "service" (offered: `place` is where it leads), "connect" (listened for at `place`), "egress", "proxy".
    `open`: tunnels (UDP: flows) now; `served` and `failed`: since the actor began. `note`: what is wrong, or "".
    """

    what: str
    name: str
    place: str
    open: int
    served: int
    failed: int
    note: str = ""


class Tunnels(Message, frozen=True):
    tunnels: list[TunnelState]


Bodies: TypeAlias = TunnelsRequest | Tunnels
