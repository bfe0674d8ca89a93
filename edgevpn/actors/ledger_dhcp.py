"""The ledger actor's part of --dhcp: it feeds the lessee (edgevpn/ledger/lessee.py) and does what that says.

The state "dhcp" shows which addresses are ours and what is waited for; the supervisor sets them on the interface
(own_addresses.py) before they are shown to the others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import trio

from edgevpn.actors.client import ActorUnavailableError, RefusedError
from edgevpn.actors.shell import Shell
from edgevpn.ledger.claims import Viewer
from edgevpn.ledger.lessee import Lessee, Step, contests, graves, held_in, write_step
from edgevpn.ledger.merge import Place, Violation
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.state import LedgerState, WriteRefusedError
from edgevpn.proto.block import write_block
from edgevpn.proto.entry import Entry
from edgevpn.proto.gossip_message import compress
from edgevpn.proto.messages import (
    DhcpState,
    Done,
    Lease,
    NetworkFacts,
    Publish,
    Published,
    ReadLease,
    Seal,
    Sealed,
    SetAddresses,
    Snapshot,
)

CALM = 0.3  # seconds between two looks while we have our addresses
_RETRY = 1.0  # seconds, while the supervisor can't set an address


class LedgerDhcp:
    """Gets this node's addresses. `wrote`: called after the ledger was changed here."""

    def __init__(self, shell: Shell, state: LedgerState, wrote: Callable[[], None]) -> None:
        self._shell = shell
        self._state = state
        self._wrote = wrote
        config = shell.config
        self._viewer = Viewer(state.signer.peer_id, state.mode, state.ttl, config.max_heartbeat_age)
        self._shown = shell.mailbox.state("dhcp")
        self._changed = trio.Event()
        self._name = ""
        self._graves: dict[Place, Entry] = {}
        self._set: tuple[str, ...] = ()
        self._lessee = Lessee(state.signer.peer_id, config.addresses, (), random.Random(), trio.current_time())  # noqa: S311
        self._show("an address: the node is starting")
        shell.namespace["dhcp"] = self

    @property
    def addresses(self) -> Sequence[str]:
        """Ours, as CIDRs, once they are on the interface."""
        return self._set

    def merged(self, violations: Sequence[Violation]) -> None:
        """A block of another node was merged."""
        now = trio.current_time()
        self._lessee.heard(now)
        for violation in violations:
            if contests(violation):
                self._lessee.contested(violation.place.key, violation.entry.owner, now)
        if self._state.mode is not Mode.OFF:
            self._graves |= graves(self._state, violations, time.time())
        self._changed.set()

    def note_change(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        await self._begin()
        while True:
            self._changed = trio.Event()
            now = time.time()
            step = self._lessee.step(self._viewer.view(self._state.storage, now), now, trio.current_time())
            for address, winner in step.lost:
                self._shell.count("addresses_lost")
                self._shell.log.warning(f"{address} is left to {winner}, which has it too: another one is chosen")
            wake = await self._carry_out(step, now)
            await self._bury()
            with trio.move_on_at(wake):
                await self._changed.wait()
                if not step.waiting:
                    await trio.sleep(CALM)  # a look costs a pass over all machines

    async def _begin(self) -> None:
        """From what the ledger actor before this one held, or the lease of the last run."""
        async with self._shell.client("sealer").watch("windows") as updates:
            async for update in updates:
                if isinstance(update, Snapshot) and isinstance(facts := update.items.get("network"), NetworkFacts):
                    self._name = facts.lease_name
                    break
        try:
            lease = await self._shell.client("supervisor").call(ReadLease(self._shell.ticket, self._name), Lease)
        except (ActorUnavailableError, RefusedError) as exc:
            self._shell.log.warning(f"the lease of the last run is not used: {exc}")
            return
        self._lessee.remember(lease.last_run, held_in(self._state), lease.on_interface)
        self._set = self._lessee.held

    async def _carry_out(self, step: Step, now: float) -> float:
        """Do it; when to look again."""
        wake, changed = step.wake, False
        if step.held != self._set:
            request = SetAddresses(self._shell.ticket, self._name, list(step.held))
            try:
                await self._shell.client("supervisor").call(request, Done)
            except (ActorUnavailableError, RefusedError) as exc:
                self._shell.warn("addresses_not_set", addresses=step.held, reason=str(exc))
                wake = min(wake, trio.current_time() + _RETRY)
            else:
                self._set, changed = step.held, True
                if step.held:
                    self._shell.log.info(f"{self._shell.config.interface} has {', '.join(step.held)} by DHCP")
        try:
            changed |= write_step(self._state, step, now)
        except WriteRefusedError as exc:
            self._shell.warn("claims_not_written", reason=str(exc))
        self._show(step.waiting)
        if changed:
            self._wrote()
        return wake

    async def _bury(self) -> None:
        """Tell that we gave up what some still think is ours; who still has it then says so, and it is told again."""
        graves, self._graves = self._graves, {}
        if not graves:
            return
        block = self._state.partial_block(graves, time.time())
        try:
            sealed = await self._shell.client("sealer").call(Seal(compress(write_block(block))), Sealed)
            await self._shell.client("gossip").call(Publish(sealed.data), Published)
        except (ActorUnavailableError, RefusedError):
            self._shell.count("publishes_failed")

    def _show(self, waiting: str) -> None:
        self._shown.put("dhcp", DhcpState(list(self._set), waiting))
