"""The tree of actors: starts each as a process of its own, knows how each ends, and is never hurt by it.

`open_actor_tree` makes this process tractor's root actor, over Unix sockets in `run_dir`/tractor. `ActorTree.start`
starts an actor, forked from the template where that is possible, and returns when its entry has called
`ctx.started(value)`. However an actor ends (return, exception, sys.exit, _exit, a signal, silence), that shows in
`ActorHandle.wait` and nowhere else. Whether to start it again is the supervisor's business, not ours.

One task owns one actor, with a tractor nursery of its own, so that no actor's end cancels another. That task is
shielded from cancellation: tractor's code under cancellation is its weakest part, so an actor is always ended from
outside, by asking it, then by killing its process, and tractor unwinds because the process is gone.

Nothing outlives this process: children and template die with its main thread (linux_process.die_with_parent).
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from ast import literal_eval
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trio

from edgevpn.actors import tractor_sockets
from edgevpn.actors.actor_entry import ActorError, describe_error, run_entry
from edgevpn.actors.child_entry import ChildSettings, User
from edgevpn.actors.child_spawn import spawn_plainly
from edgevpn.actors.template_client import TemplateClient, TemplateDownError, TemplateState
from edgevpn.actors.template_start import BASE_STAGE, StartedTemplate
from edgevpn.actors.tractor_mends import CHANNEL_LOST, load_debugger, process_spawner, tractor

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from edgevpn.actors.template_start import Stages

START_TIMEOUT = 20.0  # seconds until an actor must have called ctx.started
STOP_GRACE = 2.0  # seconds that an actor has to clean up when it is asked to end
CANCELLED_START_GRACE = 0.5  # seconds for an actor whose start was cancelled
KILLED_GRACE = 1.0  # seconds for tractor to unwind after the process is gone
_TRACEBACK_SIZE = 20_000  # characters

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExitReason:
    """How an actor ended.

    `kind`: "exit" (its entry returned, or it left by _exit), "signal", "exception" (sys.exit too), "cancelled" (we
    asked it, or killed it), "hung" (it did not do what we asked in time and was killed). `code` is the exit status of
    its process as subprocess gives it (-9: SIGKILL). `text` is one line for people; `traceback` is the actor's own.
    """

    kind: Literal["exit", "signal", "exception", "cancelled", "hung"]
    code: int | None
    signal_name: str = ""
    text: str = ""
    traceback: str = ""


class ActorStartError(Exception):
    """The actor ended, or was ended, before it had started; `reason` says how."""

    def __init__(self, name: str, reason: ExitReason) -> None:
        super().__init__(f"actor {name} did not start: {reason.text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What an actor's process is to be, besides a process (see child_entry.ChildSettings).

    `descriptors` are handed to it as (our number, its number). `plain` starts a fresh interpreter even if the template
    could fork: an address space, hash seed and stack canary of its own.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[tuple[int, int]] = ()
    nice: int = 0
    cpus: Sequence[int] = ()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    real_time: bool = False
    user: User | None = None
    no_new_privileges: bool = True
    hidden: bool = False
    confinement: str = ""
    plain: bool = False


_DEFAULT_OPTIONS = ProcessOptions()


class _StoppedWhileStartingError(Exception):
    """Ends tractor's start of an actor that is not wanted any more."""


class ActorHandle:
    """One run of one actor."""

    def __init__(
        self, tree: ActorTree, name: str, entry: str, kwargs: dict[str, Any], needs: str, options: ProcessOptions
    ) -> None:
        self.name = name
        self.first: Any = None  # what it gave to ctx.started
        self.result: Any = None  # what its entry returned
        self.on_process: Callable[[], None] | None = None
        self.plain_because: str | None = None  # why it was not forked from the template; None if it was
        self._tree = tree
        self.needs, self.options = needs, options
        self.entry, self._kwargs = entry, kwargs
        self._process: trio.Process | None = None
        self._portal: Any = None
        self._started_or_ended = trio.Event()
        self._has_started = False
        self._has_returned = False
        self._ended = trio.Event()
        self._reason: ExitReason | None = None
        self._ending: Literal["", "cancelled", "hung"] = ""  # set before we end it
        self._ending_text = ""
        self._error: Exception | None = None
        self._spawn_scope = trio.CancelScope()
        self._scope = trio.CancelScope(shield=True)

    @property
    def pid(self) -> int | None:
        """The pid of its process, when it has one."""
        return self._process.pid if self._process else None

    @property
    def reason(self) -> ExitReason | None:
        """How it ended, if it has."""
        return self._reason

    async def wait(self) -> ExitReason:
        """Wait until its process is gone and reaped. Never raises for what the actor did."""
        await self._ended.wait()
        return self._reason or self._find_reason()

    async def stop(self, grace: float = STOP_GRACE) -> ExitReason:
        """Ask it to end, kill it after `grace` seconds, and return how it ended; takes `grace` + 1 s at most.

        Cancelling the caller does not cut this short.
        """
        self._end_as("cancelled", "stopped")
        self._spawn_scope.cancel()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(grace):
                if self._portal is None:
                    self.kill()  # it has not connected yet, so can't be asked
                else:
                    await self._portal.cancel_actor(grace)
                await self._ended.wait()
            if not self._ended.is_set():
                self.kill(hung=True, text=f"it did not stop in {grace:g} s")
            return await self.wait()

    def kill(self, hung: bool = False, text: str = "") -> None:
        """SIGKILL. `hung`, and the line `text`, say that it had it coming: it did not answer."""
        self._end_as("hung" if hung else "cancelled", text or ("it does not answer" if hung else "killed"))
        self._spawn_scope.cancel()
        if self._process is not None:
            self._process.kill()

    def _end_as(self, kind: Literal["cancelled", "hung"], text: str) -> None:
        if not self._ended.is_set() and (not self._ending or kind == "hung"):
            self._ending, self._ending_text = kind, text

    async def _live(self) -> None:
        """The task that owns the actor."""
        try:
            with self._scope:
                await self._start_and_talk()
        except Exception as error:  # noqa: BLE001 - no actor, and no fault of tractor's, may hurt the others
            self._error = self._error or error
        finally:
            with trio.CancelScope(shield=True):
                await self._reap()
            self._reason = self._find_reason()
            self._tree._forget(self)
            self._started_or_ended.set()
            self._ended.set()

    async def _start_and_talk(self) -> None:
        process_spawner.set(self._spawn)
        address = (tractor_sockets.CHILDS_DIRECTORY, 0)
        async with tractor.open_nursery() as nursery:
            self._portal = await nursery.start_actor(
                self.name, enable_modules=[run_entry.__module__], bind_addr=address
            )
            try:
                async with self._portal.open_context(run_entry, entry=self.entry, kwargs=self._kwargs) as (
                    context,
                    self.first,
                ):
                    self._has_started = True
                    self._started_or_ended.set()
                    self.result = await context.result()
                    self._has_returned = True
            except Exception as error:  # noqa: BLE001 - the actor's end, in whatever form tractor tells it
                self._error = error
            await self._end_process()

    async def _spawn(self, arguments: Sequence[str]) -> trio.Process:
        """tractor's open_process for this actor."""
        with self._spawn_scope:
            self._process = await self._tree._spawn_process(self, arguments)
            if self.on_process is not None:
                self.on_process()
            self._tree._nursery.start_soon(self._let_go_after_death, self._process)
            return self._process
        raise _StoppedWhileStartingError

    async def _let_go_after_death(self, process: trio.Process) -> None:
        """tractor unwinds when the process is gone. Should it ever not, leave it."""
        with trio.CancelScope(shield=True):
            await process.wait()
            with trio.move_on_after(KILLED_GRACE):
                await self._ended.wait()
        if not self._ended.is_set():
            _log.error("tractor did not let go of the actor %s, whose process %d is gone", self.name, process.pid)
            self._scope.cancel()

    async def _end_process(self) -> None:
        """After the dialog's end: see the process off."""
        if self._process is None:
            return
        with trio.move_on_after(STOP_GRACE):
            await self._portal.cancel_actor(STOP_GRACE)  # returns at once when the connection is lost
            await self._process.wait()
        if self._process.poll() is None:
            if not self._ending and not self._has_returned and _told_error(self._error) is None:
                self._end_as("hung", "its connection ended, its process did not")
            self._process.kill()
            await self._process.wait()

    async def _reap(self) -> None:
        if self._process is not None:
            self._process.kill()  # does nothing once it is reaped
            await self._process.wait()
            tractor_sockets.remove_socket(self._tree.directory, self._process.pid)

    def _find_reason(self) -> ExitReason:
        code = self._process.returncode if self._process is not None else None
        signal_name = _signal_name(code)
        told = _told_error(self._error)
        if self._ending:
            text = self._ending_text + (f"; meanwhile: {told[0]}" if told else "")
            return ExitReason(self._ending, code, signal_name, text, told[1] if told else "")
        if told:
            return ExitReason("exception", code, signal_name, *told)
        if self._has_returned:
            return ExitReason("exit", code, text="its entry returned")
        if code is None or code == 0:
            text = describe_error(self._error) if self._error else "it left without a word"
            return ExitReason("exit" if code == 0 else "exception", code, text=text)
        if code < 0:
            return ExitReason("signal", code, signal_name, f"killed by {signal_name}")
        return ExitReason("exit", code, text=f"it left with exit status {code}")


def _signal_name(code: int | None) -> str:
    if code is None or code >= 0:
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _told_error(error: BaseException | None) -> tuple[str, str] | None:
    """(line, traceback) of the error that an actor told us of. None: it told none, its connection just ended."""
    while isinstance(error, BaseExceptionGroup):
        error = next(
            (one for one in error.exceptions if isinstance(one, tractor.RemoteActorError)), error.exceptions[0]
        )
    if not isinstance(error, tractor.RemoteActorError) or isinstance(error, tractor.ContextCancelled):
        return None
    if error.msgdata["type_str"] == CHANNEL_LOST:
        return None
    traceback = str(error.msgdata["tb_str"]).strip()
    line = traceback.rpartition("\n")[2]
    return line.removeprefix(f"{ActorError.__module__}.{ActorError.__qualname__}: "), traceback[-_TRACEBACK_SIZE:]


class ActorTree:
    """All the actors of this process. Made by `open_actor_tree`."""

    def __init__(
        self, name: str, directory: Path, nursery: trio.Nursery, template: TemplateClient | None, debug: bool
    ) -> None:
        self.name = name
        self.directory = directory
        self._nursery = nursery
        self._template = template
        self._debug = debug
        self._handles: set[ActorHandle] = set()
        self._closing = trio.Event()

    @property
    def template_state(self) -> TemplateState:
        """How the template fares; its status is "off" when the tree has none."""
        if self._template is None:
            return TemplateState("off", None, (), {}, 0, 0, "")
        return self._template.state

    async def start(
        self,
        name: str,
        entry: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        needs: str = BASE_STAGE,
        options: ProcessOptions = _DEFAULT_OPTIONS,
        timeout: float = START_TIMEOUT,
        on_process: Callable[[], None] | None = None,
    ) -> ActorHandle:
        """Start `entry` ("module:function", marked with `actor_entry`) as the actor `name`; return when it has started.

        `kwargs` are msgpack's types. `needs` is the template's stage with the entry's imports. `on_process` is called
        when its process exists. Raises ActorStartError when it ends before, or does not start within `timeout` seconds
        (it is gone then). Cancelling this ends it.
        """
        if self._closing.is_set():
            raise RuntimeError("the tree of actors is closing")
        handle = ActorHandle(self, name, entry, dict(kwargs or {}), needs, options)
        handle.on_process = on_process
        self._handles.add(handle)
        self._nursery.start_soon(handle._live, name=f"actor {name}")
        try:
            with trio.move_on_after(math.inf if self._debug else timeout):  # somebody may sit at its crash prompt
                await handle._started_or_ended.wait()
        except trio.Cancelled:
            await handle.stop(grace=CANCELLED_START_GRACE)
            raise
        if not handle._has_started:
            handle.kill(hung=True, text=f"it did not start in {timeout:g} s")
            with trio.CancelScope(shield=True):
                raise ActorStartError(name, await handle.wait())
        return handle

    async def _spawn_process(self, handle: ActorHandle, arguments: Sequence[str]) -> trio.Process:
        """Start the child program of tractor that `arguments` ("--uid", ...) are for."""
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        actor_name, uuid = literal_eval(given["--uid"])
        _, number = literal_eval(given["--parent_addr"])
        options = handle.options
        settings = ChildSettings(
            title=f"{self.name}:{actor_name}",
            run="edgevpn.actors.actor_entry:run",
            arguments=(
                actor_name,
                uuid,
                tractor_sockets.CHILDS_DIRECTORY,
                str(number),
                given.get("--loglevel", ""),
            ),
            environment=options.environment,
            descriptors=[wanted for _, wanted in options.descriptors],
            nice=options.nice,
            cpus=options.cpus,
            limits=options.limits,
            real_time=options.real_time,
            user=options.user,
            preload=(handle.entry.partition(":")[0],),
            no_new_privileges=options.no_new_privileges,
            directory=str(self.directory.parent),
            hidden=options.hidden,
            confinement=options.confinement,
            debugger=self._debug,
        )
        passed = [ours for ours, _ in options.descriptors]
        if self._debug or options.plain or self._template is None:
            handle.plain_because = "asked for"
        else:
            try:
                return await self._template.spawn(settings, handle.needs, passed)
            except TemplateDownError as error:
                handle.plain_because = str(error)
                _log.warning("the actor %s starts without the template: %s", actor_name, error)
        return spawn_plainly(settings, passed, keep_stdin=self._debug)

    def _forget(self, handle: ActorHandle) -> None:
        self._handles.discard(handle)

    async def _end_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for handle in self._handles:
                nursery.start_soon(handle.stop)


@asynccontextmanager
async def open_actor_tree(
    name: str,
    run_dir: Path,
    *,
    template: StartedTemplate | None = None,
    stages: Stages = (),
    use_template: bool = True,
    group: int | None = None,
    debug: bool = False,
) -> AsyncGenerator[ActorTree, None]:
    """Open the tree; at its end every actor and the template are gone, in STOP_GRACE + 1 seconds at most.

    `template` is one that was started before (template_start), else one with `stages` is started here, unless
    `use_template` is false. `group` is that of the actors, if they run as other users. An actor's working directory is
    `run_dir`.
    `debug` opens tractor's prompt in the terminal where an actor crashes or calls `await tractor.breakpoint()`.
    One process has one tree at a time, opened in its main thread. Raises SetupError.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the tree of actors must be opened in the main thread: its children die with the thread")
    directory = run_dir / "tractor"
    tractor_sockets.prepare_directory(directory, group)
    client = None
    if debug:
        load_debugger()
    if template is not None and (debug or not use_template):
        template.stop()
    elif use_template and not debug:
        client = TemplateClient(template.stages if template is not None else stages, template)
    hook_before = os.environ.get("PYTHONBREAKPOINT")
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                tree = await nursery.start(_run_tree, name, directory, client, debug)
                try:
                    yield tree
                finally:
                    tree._closing.set()
            except BaseException as error:
                failure = error
                raise
    except BaseExceptionGroup as group:
        if failure is not None and group.exceptions == (failure,):
            raise failure from None  # our nursery put it into a group; the caller knows of no nursery
        raise
    finally:
        if hook_before is None:  # tractor's root actor puts its own hook there
            os.environ.pop("PYTHONBREAKPOINT", None)
        else:
            os.environ["PYTHONBREAKPOINT"] = hook_before


async def _run_tree(
    name: str,
    directory: Path,
    client: TemplateClient | None,
    debug: bool,
    task_status: TaskStatus[ActorTree] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Be the root actor until the tree is closed.

    In a task of its own, shielded: were the root's runtime cancelled together with its user, the actors could not be
    asked to end any more.
    """
    with trio.CancelScope(shield=True):
        async with (
            tractor.open_root_actor(
                name=name, arbiter_addr=(str(directory), os.getpid()), loglevel="critical", debug_mode=debug
            ),
            trio.open_nursery() as nursery,
        ):
            tree = ActorTree(name, directory, nursery, client, debug)
            if client is not None:
                await nursery.start(client.run)
            task_status.started(tree)
            await tree._closing.wait()
            await tree._end_all()
            nursery.cancel_scope.cancel()
