"""The supervisor: the root of a node's processes.

It starts every actor of the configuration in a process of its own, each after what it requires (dependencies.py),
starts again whatever dies (supervision.py decides when) or hangs (pulse.py), holds what can't work while another is
given up, hands descriptors to actors, answers the commands, and takes everything down at the end. It reads nothing that
came from the network.

An actor that cannot start for a reason only a person can mend (SetupError, UsageError) ends the node at its first
start, with that reason; later it is tried again like any other crash.
"""

from __future__ import annotations

import math
import os
import random
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from edgevpn.actors import dependencies, log
from edgevpn.actors.actor_tree import (
    ActorHandle,
    ActorStartError,
    ActorTree,
    ExitReason,
    ProcessOptions,
    open_actor_tree,
)
from edgevpn.actors.client import Client
from edgevpn.actors.errand import Errand
from edgevpn.actors.linux_process import age, memory
from edgevpn.actors.log_intake import Intake
from edgevpn.actors.mailbox import MAILBOX_VARIABLE, Mailbox, RequestError, bind_socket
from edgevpn.actors.node_view import NodeView
from edgevpn.actors.pulse import wait_until_hung
from edgevpn.actors.run_directory import socket_path
from edgevpn.actors.secret_store import Descriptors, SecretStore
from edgevpn.actors.service_manager import ServiceManager
from edgevpn.actors.stages import CONFINEMENT, NEEDS, stages_for
from edgevpn.actors.supervision import Phase, Supervision
from edgevpn.actors.template_start import StartedTemplate
from edgevpn.actors.users import NO_USERS, VARIABLE, Users
from edgevpn.config import NodeConfig
from edgevpn.errors import EdgevpnError, NodeUselessError, SetupError, UsageError
from edgevpn.proto.log_lines import tidy_traceback
from edgevpn.proto.messages import (
    ActorExit,
    Actors,
    ActorsRequest,
    ActorStatus,
    Body,
    Done,
    Grant,
    Heartbeat,
    Leave,
    NodeStatus,
    ReadLease,
    RestartActor,
    SetAddresses,
    StatusRequest,
    Stop,
    VitalsRequest,
)

STOP_GRACE = 1.5
LEAVE_GRACE = 1.0
LEAVE_GOSSIP = 0.2  # for the ledger's last word to get out
RESTART_TIMEOUT = 10.0
MAILBOX_DESCRIPTOR = 41  # the number of its mailbox's socket in an actor
ENTRY = "edgevpn.actors.{name}:main"


@dataclass
class _Kept:
    """An actor as the supervisor keeps it."""

    name: str
    life: Supervision
    handle: ActorHandle | None = None
    woken: trio.Event = field(default_factory=trio.Event)  # something changed for it while it rests
    wanted: bool = False  # a person asked for its start
    has_process: trio.Event = field(default_factory=trio.Event)  # or had one
    became_ready: trio.Event = field(default_factory=trio.Event)
    began: float = 0.0


class Supervisor:
    """Keeps the actors of one node."""

    def __init__(
        self,
        config: NodeConfig,
        run_dir: Path,
        store: SecretStore,
        tree: ActorTree,
        peer_id: str,
        users: Users = NO_USERS,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._store = store
        self._users = users
        self._tree = tree
        self._log = log.get("supervisor")
        self._stop = trio.Event()
        self._failure: Exception | None = None
        self._listen: list[str] = list(config.listen)
        self._kept = {name: _Kept(name, Supervision(random.Random())) for name in config.actors()}  # noqa: S311
        self._errand = Errand(config.run_dir, config.errand_words) if config.errand else None
        self._manager = ServiceManager()
        self._view = NodeView(config, run_dir, peer_id, self._manager)
        self._began = time.monotonic()
        own = bind_socket(socket_path(run_dir, "supervisor"), mode=self._socket_mode)
        self._mailbox = Mailbox("supervisor", run_dir, listener=own, users=users)
        self._nursery: trio.Nursery

    async def run(self) -> int:
        """Until asked to stop, or the errand is done; the exit code.

        Raises the reason when an actor cannot start at all.
        """
        mailbox = self._mailbox
        mailbox.on_request(Heartbeat, self._heartbeat)
        mailbox.on_request(ActorsRequest, self._actors)
        mailbox.on_request(VitalsRequest, self._vitals)
        mailbox.on_request(RestartActor, self._restart, only=())
        mailbox.on_request(StatusRequest, self._status)
        mailbox.on_request(Stop, self._stop_request, only=())
        if self._config.dhcp:
            self._serve_addresses(mailbox)
        mailbox.on_descriptors(Grant, self._store.grant)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(mailbox.serve)
            nursery.start_soon(self._signals)
            for name in dependencies.start_order(self._kept):
                nursery.start_soon(self._keep, self._kept[name])
            nursery.start_soon(self._view.follow)
            nursery.start_soon(self._view.tell_progress)
            nursery.start_soon(self._manager.keep_alive)
            if self._errand is not None:
                nursery.start_soon(self._run_errand, self._errand)
            await self._stop.wait()
            self._view.stopping = True
            self._manager.tell(STOPPING="1", STATUS="stopping")
            if self._errand is not None:
                await self._errand.end()
            await self._leave()
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_GRACE + 0.5):
                async with trio.open_nursery() as stopping:
                    for kept in self._kept.values():
                        if kept.handle is not None:
                            stopping.start_soon(kept.handle.stop, STOP_GRACE)
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return self._errand.code if self._errand is not None else 0

    async def _run_errand(self, errand: Errand) -> None:
        await errand.run()
        self._stop.set()

    def _serve_addresses(self, mailbox: Mailbox) -> None:
        from edgevpn.actors.own_addresses import OwnAddresses  # it brings the netlink library: 10 MB

        addresses = OwnAddresses(self._config, self._store)
        mailbox.on_request(ReadLease, addresses.read_lease, only={"ledger"})
        mailbox.on_request(SetAddresses, addresses.set, only={"ledger"})

    async def _leave(self) -> None:
        """What we announced for others to use is taken back, while there is still somebody to say it."""
        if self._failure is not None:
            return
        with trio.move_on_after(LEAVE_GRACE) as scope:
            scope.shield = True
            for name in ("tunnels", "ledger"):  # in this order: the ledger carries what the others take back
                if name in self._kept:
                    with suppress(EdgevpnError):
                        await Client(self._run_dir, name, caller="supervisor", wait=False).call(Leave(), Done)
            if self._view.has_members:
                await trio.sleep(LEAVE_GOSSIP)

    # --- keeping actors

    async def _keep(self, kept: _Kept) -> None:
        for need in dependencies.required_by(kept.name, self._kept):
            await self._kept[need].has_process.wait()
        while True:
            pause = await self._live_once(kept)
            if self._stop.is_set():
                return
            if kept.life.phase is Phase.FAILED:
                self._give_up(kept)
            await self._rest(kept, math.inf if pause is None else trio.current_time() + pause)

    async def _rest(self, kept: _Kept, deadline: float) -> None:
        """Until its next start: at the deadline, by a person's word, or when what it lacked is back."""
        while not self._is_due(kept, deadline):
            with trio.move_on_at(deadline if kept.life.phase is Phase.BACKING_OFF else math.inf):
                await kept.woken.wait()
            kept.woken = trio.Event()
        kept.wanted = False

    def _is_due(self, kept: _Kept, deadline: float) -> bool:
        if kept.life.phase is Phase.HELD:
            return kept.name not in self._lacking()
        return kept.wanted or (kept.life.phase is Phase.BACKING_OFF and trio.current_time() >= deadline)

    def _give_up(self, kept: _Kept) -> None:
        """It died too often: what requires it is held, and the node ends if nothing useful is left."""
        log.get(kept.name).error(
            f"died too often and is given up; `edgevpn actors restart {kept.name}` tries again",
            last=kept.life.last_exit,
        )
        self._view.given_up(kept.name, f"died too often: {kept.life.last_exit}")
        lacking = self._lacking()
        for name, need in lacking.items():
            held = self._kept[name]
            if held.life.can_be_held:
                held.life.hold(need)
                self._view.given_up(name, f"is held, since it can't work without {need}")
                log.get(name).warning(f"is held: it can't work without the {need} actor")
                held.woken.set()
                if held.handle is not None:
                    self._nursery.start_soon(held.handle.stop, STOP_GRACE)
        if not dependencies.is_of_use({*lacking, *self._given_up()}, self._kept):
            self._failure = NodeUselessError(
                f"the {kept.name} actor died too often (last: {kept.life.last_exit}), and this node is of no use "
                f"without it: its log tells more"
            )
            self._stop.set()

    def _given_up(self) -> set[str]:
        return {name for name, kept in self._kept.items() if kept.life.phase is Phase.FAILED}

    def _lacking(self) -> dict[str, str]:
        return dependencies.brought_down(self._given_up(), self._kept)

    async def _live_once(self, kept: _Kept) -> float | None:
        """One life of an actor: its pause before the next, None if there is none by itself."""
        kept.life.start()
        kept.began = time.monotonic()
        for held in self._kept.values():
            if held.life.phase is Phase.HELD:
                held.woken.set()
        extra: dict[str, Any] = {"listen": self._listen} if kept.name == "host" else {}
        intake = self._open_intake(kept.name)
        path = socket_path(self._run_dir, kept.name)
        mailbox = bind_socket(path, mode=self._socket_mode)
        try:
            kept.handle = await self._tree.start(
                kept.name,
                ENTRY.format(name=kept.name),
                {
                    "name": kept.name,
                    "run_dir": ".",  # its working directory
                    "config": self._config.to_dict(),
                    "ticket": self._store.issue(kept.name),
                    **extra,
                },
                needs=NEEDS[kept.name],
                options=self._process_options(kept.name, intake, mailbox),
                on_process=kept.has_process.set,
            )
            mailbox.close()
            if intake is not None:
                intake.handed_over()
        except ActorStartError as exc:
            self._refuse_to_start(kept, exc.reason)
            reason = exc.reason
        else:
            if kept.life.phase is Phase.STARTING:
                kept.life.ready(time.monotonic())
                self._ready(kept)
                reason = await self._see_out(kept.handle)
            else:  # it was to be held, or stopped, before it could be asked
                reason = await kept.handle.stop(STOP_GRACE)
            kept.handle = None
        finally:
            mailbox.close()
            path.unlink(missing_ok=True)
            if intake is not None:
                intake.finish()
        if not self._stop.is_set() and kept.life.phase not in (Phase.STOPPING, Phase.HOLDING):
            self._tell_end(kept, reason)
        if kept.became_ready.is_set():
            kept.became_ready = trio.Event()
        self._view.not_ready(kept.name)
        return kept.life.exited(time.monotonic(), reason.text, time.time())

    def _open_intake(self, name: str) -> Intake | None:
        """Where the actor's log lines come in; None when there is no descriptor left: then they go to our stderr."""
        try:
            intake = Intake(name, log.say, keep_stderr=self._config.debug)
        except OSError as exc:
            self._log.error(f"the {name} actor's lines are not in the log", reason=exc.strerror)
            return None
        self._nursery.start_soon(intake.run)
        return intake

    @property
    def _socket_mode(self) -> int:
        """Of the mailboxes' sockets: for the actors' group, where they have users of their own."""
        return 0o660 if self._users.uids else 0o600

    def _process_options(self, name: str, intake: Intake | None, mailbox: socket.socket) -> ProcessOptions:
        """What the actor's process is: whose, with which descriptors, and how confined."""
        environment = {MAILBOX_VARIABLE: str(MAILBOX_DESCRIPTOR), VARIABLE: self._users.to_json()}
        descriptors = [(mailbox.fileno(), MAILBOX_DESCRIPTOR)]
        if intake is not None:
            descriptors.append(intake.descriptor)
            environment |= intake.environment
        return ProcessOptions(
            descriptors=descriptors,
            environment=environment,
            real_time=name == "tun" and self._config.packet_priority == "auto",
            user=self._users.user(name),
            # A user's own processes could look into each other: those of a node without users keep the sealer's shut.
            hidden=not self._config.debug and (bool(self._users.uids) or name == "sealer"),
            confinement="" if self._config.debug else CONFINEMENT.get(name, "network"),
        )

    def _tell_end(self, kept: _Kept, reason: ExitReason) -> None:
        traceback = tidy_traceback(reason.traceback, reason.text)
        facts = {"traceback": traceback} if traceback else {}
        log.get(kept.name).warning("ended and is started again", reason=reason.text, **facts)

    async def _see_out(self, handle: ActorHandle) -> ExitReason:
        """Wait for an actor's end, which comes by our hand when it hangs; the reason."""

        async def end_when_hung() -> None:
            why = await wait_until_hung(Client(self._run_dir, handle.name, caller="supervisor"))
            handle.kill(hung=True, text=why)

        async with trio.open_nursery() as nursery:
            if not self._config.debug:  # with it somebody may sit at the actor's crash prompt
                nursery.start_soon(end_when_hung)
            reason = await handle.wait()
            nursery.cancel_scope.cancel()
        return reason

    def _ready(self, kept: _Kept) -> None:
        handle = kept.handle
        if kept.name == "host" and handle is not None and isinstance(handle.first, dict):
            self._listen = list(handle.first.get("listen", self._listen))
        took = time.monotonic() - kept.began
        log.get(kept.name).debug("is ready", pid=handle.pid if handle else 0, ms=round(took * 1000))
        kept.became_ready.set()
        self._view.ready(kept.name)

    def _refuse_to_start(self, kept: _Kept, reason: ExitReason) -> None:
        """A reason that a person must mend, at the first start: the node ends with it."""
        if kept.life.restarts:
            return
        for kind in (SetupError, UsageError):
            marker = f"{kind.__name__}: "
            if reason.kind == "exception" and reason.text.startswith(marker):
                self._failure = kind(reason.text.removeprefix(marker))
                self._stop.set()

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for _ in signals:
                self._stop.set()
                return

    # --- requests

    async def _heartbeat(self, _: Heartbeat) -> Body:
        return Done()

    async def _stop_request(self, _: Stop) -> Body:
        self._stop.set()
        return Done()

    async def _actors(self, _: ActorsRequest) -> Body:
        now = time.monotonic()
        template = self._tree.template_state
        found = [
            ActorStatus("supervisor", os.getpid(), "ready", 0, now - self._began, 0, ""),
            *(self._describe(kept, now) for kept in self._kept.values()),
        ]
        if template.pid:
            found.append(
                ActorStatus("template", template.pid, template.status, template.restarts, age(template.pid), 0, "")
            )
        for number, status in enumerate(found):
            rss, pss = memory(status.pid) if status.pid else (0, 0)
            found[number] = msgspec.structs.replace(status, rss_bytes=rss, pss_bytes=pss)
            await trio.lowlevel.checkpoint()  # up to 1 ms each
        return Actors(found)

    async def _vitals(self, _: VitalsRequest) -> Body:
        return self._mailbox.vitals({})

    def _describe(self, kept: _Kept, now: float) -> ActorStatus:
        pid = (kept.handle.pid or 0) if kept.handle is not None else 0
        uptime = now - kept.life.ready_at if kept.life.ready_at is not None else 0.0
        life = kept.life
        exits = [ActorExit(at, reason) for at, reason in life.exits]
        return ActorStatus(
            kept.name, pid, life.phase.value, life.restarts, uptime, 0, life.last_exit, exits=exits, lacks=life.lacks
        )

    async def _restart(self, request: RestartActor) -> Body:
        kept = self._kept.get(request.name)
        if kept is None:
            names = ", ".join(self._kept)
            raise RequestError("unknown", f"there is no actor {request.name!r} to restart: there are {names}")
        if lacks := self._lacking().get(kept.name):
            raise RequestError(
                "held", f"the {kept.name} actor can't work without the {lacks} actor: restart that one first"
            )
        kept.became_ready = trio.Event()
        if kept.handle is not None:
            kept.life.stop()
            await kept.handle.stop(STOP_GRACE)
        kept.wanted = True
        kept.woken.set()
        with trio.move_on_after(RESTART_TIMEOUT):
            await kept.became_ready.wait()
            return Done()
        raise RequestError(
            "timeout", f"the {kept.name} actor is not ready after {RESTART_TIMEOUT:g} s: {kept.life.last_exit}"
        )

    async def _status(self, _: StatusRequest) -> Body:
        status: NodeStatus = self._view.status(time.monotonic() - self._began)
        return status


async def supervise(
    config: NodeConfig,
    descriptors: Descriptors,
    peer_id: str,
    template: StartedTemplate | None,
    users: Users = NO_USERS,
) -> int:
    """Run a node in its locked run directory until it is asked to stop (SIGINT, SIGTERM, a Stop message).

    The exit code.
    """
    run_dir = Path(config.run_dir)
    group = users.group if users.uids else None
    stages = stages_for(config.actors())
    async with open_actor_tree(
        "edgevpn", run_dir, template=template, stages=stages, debug=config.debug, group=group
    ) as tree:
        return await Supervisor(config, run_dir, SecretStore(descriptors), tree, peer_id, users).run()
