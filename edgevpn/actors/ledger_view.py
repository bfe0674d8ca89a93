"""Buckets of the ledger as an actor sees them: kept as last seen while the ledger is away.

Also how things of ours are announced there: again and again, since a tombstone or another's claim may hit them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError, apply
from edgevpn.errors import UntrustedDataError
from edgevpn.proto.messages import Announce, Body, Done, HostSelf, LedgerEntry, LedgerReply, LedgerRequest, Withdraw
from edgevpn.proto.values import (
    HEALTHCHECK,
    USERS,
    User,
    heartbeat_time_untrusted,
    service_untrusted,
    write_value,
)

STRANGER_PATIENCE = 3.0  # seconds for the ledger to bring word of a peer that asks for something


@dataclass(frozen=True, slots=True)
class Ours:
    """An entry that we announce."""

    bucket: str
    key: str
    value: str


class LedgerView:
    """Follows `buckets` ("users", "services", "files", "egress")."""

    def __init__(self, client: Client, buckets: Sequence[str]) -> None:
        self._client = client
        self._buckets: dict[str, dict[str, Body]] = {bucket: {} for bucket in buckets}
        self._changed = trio.Event()

    async def follow(self) -> None:
        async with trio.open_nursery() as nursery:
            for bucket in self._buckets:
                nursery.start_soon(self._follow, bucket)

    async def _follow(self, bucket: str) -> None:
        async with self._client.watch(bucket) as updates:
            async for update in updates:
                apply(self._buckets[bucket], update)
                self._changed.set()
                self._changed = trio.Event()

    def keys(self, bucket: str) -> list[str]:
        return list(self._buckets[bucket])

    def knows_user(self, peer_id: str) -> bool:
        return peer_id in self._buckets[USERS]

    def provider(self, bucket: str, name: str) -> str:
        """Who offers the service or file; "" for nobody."""
        entry = self._buckets[bucket].get(name)
        if not isinstance(entry, LedgerEntry):
            return ""
        try:
            return service_untrusted(entry.value).peer_id
        except UntrustedDataError:
            return ""

    async def wait_for(self, true: Callable[[], bool], timeout: float) -> bool:
        """Whether `true()` comes to hold within `timeout` seconds."""
        with trio.move_on_after(timeout):
            while not true():
                await self._changed.wait()
            return True
        return true()

    async def admits(self, peer_id: str) -> bool:
        """Whether the peer may open tunnels to us: it is in `users`, or soon."""
        return await self.wait_for(lambda: self.knows_user(peer_id), STRANGER_PATIENCE)

    async def changed(self, timeout: float) -> None:
        """Wait for a change, or `timeout` seconds."""
        with trio.move_on_after(timeout):
            await self._changed.wait()

    async def live(self, max_age: float) -> set[str]:
        """The peers whose heartbeat is younger than `max_age` seconds."""
        try:
            found = await self._client.call(LedgerRequest(HEALTHCHECK), LedgerReply)
        except (ActorUnavailableError, RefusedError):
            return set()
        oldest = (time.time() - max_age) * 1e9
        ages = {entry.key: heartbeat_time_untrusted(entry.value) for entry in found.entries if not entry.deleted}
        return {peer for peer, at in ages.items() if at is not None and at > oldest}


def user_of(peer_id: str) -> Ours:
    """That we may be admitted by those who offer something."""
    return Ours(USERS, peer_id, write_value(User(peer_id, time.strftime("%Y-%m-%d %H:%M:%S %z"))))


async def own_peer_id(host: Client) -> str:
    async with host.watch("self") as updates:
        items: dict[str, Body] = {}
        async for update in updates:
            apply(items, update)
            if isinstance(me := items.get("host"), HostSelf):
                return me.peer_id
    raise AssertionError("a watch has no end")


class Announcer:
    """Keeps entries of ours in the ledger; `refused` tells which are another's, and why."""

    def __init__(self, ledger: Client, complain: Callable[[Ours, str], None]) -> None:
        self._ledger = ledger
        self._complain = complain
        self._leaving = False
        self.refused: dict[tuple[str, str], str] = {}

    async def announce(self, ours: Sequence[Ours]) -> None:
        """Once. A ledger that is away is asked again the next time."""
        for entry in ours if not self._leaving else ():
            place = entry.bucket, entry.key
            try:
                await self._ledger.call(Announce(entry.bucket, entry.key, entry.value), Done)
            except RefusedError as exc:
                if place not in self.refused:
                    self._complain(entry, str(exc))
                self.refused[place] = str(exc)
            except ActorUnavailableError:
                return
            else:
                self.refused.pop(place, None)

    async def keep(self, ours: Sequence[Ours], interval: float) -> None:
        while True:
            await self.announce(ours)
            await trio.sleep(1.0 if self.refused else interval)  # a name is free as soon as its owner leaves

    async def withdraw(self, ours: Sequence[Ours]) -> None:
        """Put tombstones on what is ours, so that others may take the names at once. Nothing is announced after."""
        self._leaving = True
        for entry in ours:
            if (entry.bucket, entry.key) in self.refused:
                continue
            try:
                await self._ledger.call(Withdraw(entry.bucket, entry.key), Done, timeout=1)
            except (ActorUnavailableError, RefusedError):
                continue
