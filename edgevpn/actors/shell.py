"""What every actor process has: its mailbox, its clients, its log, its prompt, and the way to its descriptors.

An actor's module has an entry `main(ctx, name, run_dir, config, ticket)` that opens a shell, registers its handlers,
does what can fail at the start, calls `shell.ready(...)` and runs until it is cancelled. Ready means: it serves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from edgevpn import __version__
from edgevpn.actors import log, pulse, repl, run_directory, users
from edgevpn.actors.client import Client
from edgevpn.actors.mailbox import MAILBOX_VARIABLE, Mailbox, OpenStream
from edgevpn.actors.show import Secrets
from edgevpn.actors.users import Users
from edgevpn.config import NodeConfig
from edgevpn.errors import SetupError
from edgevpn.proto.clock_jump import ClockLooks, Jump
from edgevpn.proto.messages import (
    Body,
    Done,
    Grant,
    Heartbeat,
    OpenRepl,
    Scalar,
    Stats,
    StatsRequest,
    VitalsRequest,
)
from edgevpn.proto.prompt_frames import Greeting
from edgevpn.proto.queue_state import Tell

EXHAUSTED_AFTER = 3.0  # seconds without a descriptor for a client: the actor ends, and is started again with none open


class Shell:
    """The common half of an actor."""

    def __init__(self, ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str) -> None:
        self.name = name
        self.run_dir = Path(run_dir)
        self.config = NodeConfig.from_dict(config)
        inherited = os.environ.pop(MAILBOX_VARIABLE, "")
        self.mailbox = Mailbox(
            name,
            self.run_dir,
            listener=socket.socket(fileno=int(inherited)) if inherited else None,
            users=Users.from_json(os.environ.get(users.VARIABLE, "")),
            give_up_after=EXHAUSTED_AFTER,
        )
        log.configure_actor(self.config.log_level, name)
        self.log = log.get(name)
        self.limit = log.RateLimit()
        self.counters: dict[str, int] = {}
        self.gauges: dict[str, Callable[[], Scalar]] = {}
        self.queues: dict[str, Tell] = {}
        self.namespace: dict[str, Any] = {"actor": self, "trio": trio, "config": self.config}
        self._ctx = ctx
        self._ticket = ticket
        self.secrets = Secrets()  # what the prompt must not show
        self.secrets.add(ticket)
        # Told of time that went on without us; asked at each of the supervisor's beats, so nobody wakes up for it.
        self.when_clock_jumps: list[Callable[[Jump], None]] = []
        self._looks: ClockLooks | None = None
        self._nursery: trio.Nursery | None = None
        self.mailbox.on_request(Heartbeat, self._heartbeat)
        self.mailbox.on_request(StatsRequest, self._stats)
        self.mailbox.on_request(VitalsRequest, self._vitals)
        self.mailbox.on_pipe(OpenRepl, self._open_repl, only=())
        self.mailbox.on_pipe(Heartbeat, self._pulse, only=())

    @property
    def state_dir(self) -> Path:
        """Where this actor may keep files from one of its lives to the next; the supervisor has made it."""
        return run_directory.state_dir(self.run_dir, self.name)

    def client(self, actor: str) -> Client:
        return Client(self.run_dir, actor, caller=self.name, taps=self.mailbox.taps)

    def count(self, name: str, by: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def warn(self, event: str, **facts: object) -> None:
        """Something a peer caused: counted always, logged at most once a minute."""
        self.count(event)
        held = self.limit.allow(event, time.monotonic())
        if held is not None:
            self.log.warning(event.replace("_", " "), **facts, **({"unsaid_before": held} if held else {}))

    @property
    def ticket(self) -> str:
        """What the supervisor knows this start of the actor by. A secret."""
        return self._ticket

    async def grant(self, what: str) -> bytes:
        """The content of a secret memfd ("token", "identity") that the supervisor holds for this actor."""
        descriptor = await self.grant_descriptor(what)
        try:
            content = os.pread(descriptor, 1 << 20, 0)
        finally:
            os.close(descriptor)
        self.secrets.add(content)
        return content

    async def grant_descriptor(self, what: str) -> int:
        _, descriptors = await self.client("supervisor").grant(Grant(self._ticket, what), Done)
        if len(descriptors) != 1:
            raise SetupError(
                f"the supervisor handed {len(descriptors)} descriptors for {what}: stop the node, start it again"
            )
        return descriptors[0]

    async def ready(self, first: Any = None) -> None:
        """Serve the mailbox, then tell the supervisor that this actor is ready (with a msgpack-able value)."""
        if self._nursery is None:
            raise RuntimeError("ready() outside open_shell()")
        await self._nursery.start(self.mailbox.serve)
        await self._ctx.started(first)

    async def _heartbeat(self, _: Heartbeat) -> Body:
        return Done()

    async def _pulse(self, _: Heartbeat, open_stream: OpenStream) -> None:
        await pulse.echo(await open_stream(Done()), self.look_at_clock)

    def look_at_clock(self) -> None:
        """Whether the machine slept, this process was stopped, or the clock was set; who wants to know is told."""
        now, wall = trio.current_time(), time.time()
        if self._looks is None:
            self._looks = ClockLooks(now, wall)
        elif (jump := self._looks.look(now, wall, 2 * pulse.INTERVAL)) is not None:
            self.count("clock_jumps")
            for tell in self.when_clock_jumps:
                tell(jump)

    def stats(self) -> dict[str, Scalar]:
        """Counters and gauges, by name."""
        values: dict[str, Scalar] = dict(sorted(self.counters.items()))
        values |= {name: gauge() for name, gauge in self.gauges.items()}
        return values | {"mailbox_served": self.mailbox.served, "mailbox_refused": self.mailbox.refused}

    async def _stats(self, _: StatsRequest) -> Body:
        return Stats(self.stats())

    async def _vitals(self, _: VitalsRequest) -> Body:
        return self.mailbox.vitals(self.queues)

    async def _open_repl(self, _: OpenRepl, open_stream: OpenStream) -> None:
        prompt = repl.Conversation(self.namespace, secrets=self.secrets, taps=self.mailbox.taps, stats=self.stats)
        names = ", ".join(sorted(name for name in self.namespace if not name.startswith("_")))
        text = (
            f"edgevpn {__version__}, {self.name} actor, process {os.getpid()}. Names: {names}.\n"
            "await tap(), tasks(), stats(), reveal(x). Tab completes, Ctrl-C interrupts, Ctrl-D leaves.\n"
        )
        async with await open_stream(Done()) as stream:
            await prompt.serve(stream, Greeting(text, os.getpid()))


@asynccontextmanager
async def open_shell(
    ctx: Any, name: str, run_dir: str, config: dict[str, Any], ticket: str
) -> AsyncIterator[tuple[Shell, trio.Nursery]]:
    """The shell and a nursery for the actor's tasks; leaving ends them all."""
    shell = Shell(ctx, name, run_dir, config, ticket)
    async with trio.open_nursery() as nursery:
        shell._nursery = nursery
        yield shell, nursery
        nursery.cancel_scope.cancel()
