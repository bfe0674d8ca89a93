"""Messages of the supervisor."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

from edgevpn.proto.messages.base import Message


class ActorsRequest(Message, frozen=True):
    """Answered by Actors."""


class ActorExit(Message, frozen=True):
    """How a life of an actor ended, and when (unix time)."""

    at: float
    reason: str


class ActorStatus(Message, frozen=True):
    """One supervised process. Times in seconds, sizes in bytes; pid 0 when it is not running.

    `exits`: its last ends, the newest last. `lacks`: while its state is "held", the actor that it requires.
    `pss_bytes`: its memory, of what it shares with others its part (proc_pid_smaps(5)); 0 where that can't be read.
    """

    name: str
    pid: int
    state: str
    restarts: int
    uptime_s: float
    rss_bytes: int
    last_exit: str
    pss_bytes: int = 0
    exits: list[ActorExit] = msgspec.field(default_factory=list)
    lacks: str = ""


class Actors(Message, frozen=True):
    actors: list[ActorStatus]


class RestartActor(Message, frozen=True):
    """Stop the actor and start it again. Answered by Done once the new one is ready."""

    name: str


class StatusRequest(Message, frozen=True):
    """Answered by NodeStatus."""


class NodeStatus(Message, frozen=True):
    """The node at a glance. `peers`: members of this network that are connected now.

    `clock_offset_s`: how far our clock is ahead of the other nodes'; `clock`: what a person should know of it, or "".
    """

    peer_id: str
    state: str
    interface: str
    address: list[str]
    listen: list[str]
    peers: list[str]
    uptime_s: float
    version: str
    waiting_for: str
    clock_offset_s: float = 0.0
    clock: str = ""


class Stop(Message, frozen=True):
    """Take the node down. Answered by Done before it goes."""


class Grant(Message, frozen=True):
    """An actor asks for its descriptors ("token", "identity", "tun") with the ticket of its own start."""

    __secrets__: ClassVar = ("ticket",)

    ticket: str
    what: str

    def __repr__(self) -> str:
        return f"Grant(ticket=<secret>, what={self.what!r})"


class ReadLease(Message, frozen=True):
    """What were our addresses? The ledger actor asks, with its ticket. `name`: of the lease. Answered by Lease."""

    __secrets__: ClassVar = ("ticket",)

    ticket: str
    name: str

    def __repr__(self) -> str:
        return f"ReadLease(ticket=<secret>, name={self.name!r})"


class Lease(Message, frozen=True):
    """`last_run`: addresses in the lease; `on_interface`: CIDRs that were set in this run."""

    last_run: list[str]
    on_interface: list[str]


class SetAddresses(Message, frozen=True):
    """Give the interface these addresses (CIDRs) and no other, and keep them as the lease `name`. Answered by Done."""

    __secrets__: ClassVar = ("ticket",)

    ticket: str
    name: str
    addresses: list[str]

    def __repr__(self) -> str:
        return f"SetAddresses(ticket=<secret>, name={self.name!r}, addresses={self.addresses!r})"


Bodies: TypeAlias = (
    ActorsRequest | Actors | RestartActor | StatusRequest | NodeStatus | Stop | Grant | ReadLease | Lease | SetAddresses
)
