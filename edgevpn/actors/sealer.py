"""The sealer actor: the network's secrets, and everything that is derived from them.

No other process has them. The others get names (state "windows": topics and rendezvous of the previous, current and
next window) and have messages sealed and opened: Seal takes the compressed block, Open gives it back. A message is
opened with the current, the previous or the next key, since clocks differ and messages travel around a change.

Dies: messages wait in gossip and ledger; the next sealer derives everything again from the token and the clock.
"""

from __future__ import annotations

import time
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.mailbox import RequestError
from edgevpn.actors.shell import Shell, open_shell
from edgevpn.errors import UntrustedDataError
from edgevpn.proto import gossip_message, network_config, network_tag, rendezvous, seal
from edgevpn.proto.clock_jump import Jump
from edgevpn.proto.messages import (
    Body,
    NetworkFacts,
    Open,
    Opened,
    OpenFrame,
    Seal,
    Sealed,
    SealFrame,
    Window,
)

_MAY_SEAL = frozenset({"ledger", "trust"})  # who speaks with the other nodes by sealed messages
_KEYS = ("current", "previous", "next")  # the order in which they are tried
_LOOK_AT_CLOCK = 30.0  # seconds: a clock that is slewed is followed within this; one that jumps at the next beat


@actor_entry
async def main(ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
    async with open_shell(ctx, name, run_dir, config, ticket) as (shell, _nursery):
        network = network_config.parse_config_yaml((await shell.grant("token")).decode())
        actor = SealerActor(shell, network)
        actor.derive()
        shell.when_clock_jumps.append(actor.clock_jumped)
        await shell.ready()
        await actor.follow_clock()


class SealerActor:
    """Holds the network config; derives, seals and opens."""

    def __init__(self, shell: Shell, network: network_config.NetworkConfig) -> None:
        self._shell = shell
        self._network = network
        self._state = shell.mailbox.state("windows")
        self._jumped = trio.Event()
        self._windows = rendezvous.windows(network, time.time())
        shell.mailbox.on_request(Seal, self._seal, only=_MAY_SEAL)
        shell.mailbox.on_request(Open, self._open, only=_MAY_SEAL)
        shell.mailbox.on_request(SealFrame, self._seal_frame, only={"ledger"})
        shell.mailbox.on_request(OpenFrame, self._open_frame, only={"ledger"})
        shell.namespace |= {"network": network, "sealer": self}
        for secret in network.secrets():
            shell.secrets.add(secret)
        shell.secrets.add_source(lambda: [getattr(self._windows, name).seal_key for name in _KEYS])

    def derive(self) -> float:
        """Bring the state up to date; unix time of the next change."""
        now = time.time()
        self._windows = found = rendezvous.windows(self._network, now)
        named = {"previous": found.previous, "current": found.current, "next": found.next}
        facts = NetworkFacts(
            rendezvous.mdns_service(self._network),
            self._network.max_message_size,
            network_tag.ledger_tag(self._network),
            network_tag.lease_name(self._network),
        )
        self._state.replace({key: _window(names) for key, names in named.items()} | {"network": facts})
        return min(found.current.topic_end, found.current.rendezvous_end)

    async def follow_clock(self) -> None:
        while True:
            self._jumped = trio.Event()
            change = self.derive()
            with trio.move_on_after(min(max(change - time.time(), 0.001), _LOOK_AT_CLOCK)):
                await self._jumped.wait()

    def clock_jumped(self, jump: Jump) -> None:
        """Other windows may hold now."""
        self._shell.log.info(str(jump))
        self._jumped.set()

    async def _seal(self, request: Seal) -> Body:
        self.derive()  # the current key, to the second
        self._shell.count("sealed")
        windows = [getattr(self._windows, name) for name in _KEYS]
        window = next((w for w in windows if request.topic in ("", w.topic)), None)
        if window is None:
            raise RequestError("no-window", "that topic is of none of our windows any more")
        return Sealed(gossip_message.write_message(request.plaintext, window.seal_key, request.annotations or None))

    async def _seal_frame(self, request: SealFrame) -> Body:
        self.derive()
        self._shell.count("frames_sealed")
        return Sealed(seal.seal_raw(request.plaintext, self._windows.current.seal_key, request.additional))

    async def _open_frame(self, request: OpenFrame) -> Body:
        self.derive()
        keys = [getattr(self._windows, name).seal_key for name in _KEYS]
        try:
            plaintext, index = seal.open_raw_untrusted(request.data, keys, request.additional)
        except UntrustedDataError as exc:
            self._shell.count("frames_not_opened")
            raise RequestError("not-opened", str(exc)) from exc
        self._shell.count(f"frames_opened_with_{_KEYS[index]}")
        return Opened(plaintext, _KEYS[index])

    async def _open(self, request: Open) -> Body:
        self.derive()
        keys = [getattr(self._windows, name).seal_key for name in _KEYS]
        try:
            opened = gossip_message.open_message_untrusted(request.data, keys)
        except UntrustedDataError as exc:
            self._shell.count("not_opened")
            raise RequestError("not-opened", str(exc)) from exc
        window = _KEYS[opened.key_index]
        self._shell.count(f"opened_with_{window}")
        annotations = {n: text for n, text in (opened.annotations or {}).items() if isinstance(text, str)}
        return Opened(opened.plaintext, window, annotations)


def _window(names: rendezvous.Names) -> Window:
    return Window(
        topic=names.topic,
        topic_start=names.topic_start,
        topic_end=names.topic_end,
        rendezvous=names.rendezvous,
        rendezvous_start=names.rendezvous_start,
        rendezvous_end=names.rendezvous_end,
        rendezvous_key=names.rendezvous_key,
        public_topic=names.public_topic,
    )
