"""Makes tractor 0.1.0a5 run on today's trio, and sound under crashes. Import `tractor` from here, never directly.

0.1.0a5 is tractor's newest release on PyPI. It was written for trio 0.22 and Python 3.10, and loses track of actors
that are killed. Each mend below is one function or class with the fault that it mends; they are put on tractor's own
modules (our code keeps the real trio) once, when this module is imported.

A mend may count on the others. What stays broken and must be designed around: a reader that does not read its stream
stalls its whole channel, and `run_in_actor` can't report two errors; we use neither.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import pdb
import sys
import types
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import async_generator
import trio

QUIET = "CRITICAL"  # the level of tractor's own log: what it warns of, we report ourselves
CHANNEL_LOST = "ChannelLost"  # the `type_str` of the error that the dialogs of a dead channel get
MESSAGE_SIZE_LIMIT = 16 * 2**20  # bytes; tractor itself would buffer 4 GiB for whoever announces them
METHODS_OF_THE_ROOT = frozenset({"register_actor", "unregister_actor"})  # all that an actor may call
KILL_AFTER = 1.0  # seconds between SIGTERM and SIGKILL, where tractor itself ends a process

# Starts the process of an actor, given the arguments of tractor's own child program ("--uid", ...).
Spawner: TypeAlias = Callable[[Sequence[str]], Awaitable[trio.Process]]


# --- Compatibility: what tractor finds in `trio` -----------------------------------------------------------------


class LooseTrio(types.ModuleType):
    """`trio` as tractor's modules see it: `replaced` names first, the real ones else."""

    def __init__(self, real: types.ModuleType, **replaced: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced)
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def open_loose_nursery() -> Any:
    """tractor catches single exceptions around nurseries; today's trio wraps every one in a group unless asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TrioDeprecationWarning
        return trio.open_nursery(strict_exception_groups=False)


class TruthyEvent:
    """tractor writes `if event:`, which trio.Event refuses."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self.set = self._event.set
        self.is_set = self._event.is_set
        self.wait = self._event.wait
        self.statistics = self._event.statistics


class DebuggerStandIn(types.ModuleType):
    """tractor subclasses pdbpp's debugger at import. pdbpp does not run on 3.13, and its heir pdbp takes 0.1 s to
    import, so until `load_debugger` there is only the standard debugger behind its name."""

    class DefaultConfig:
        """pdbpp's settings, none."""

    class Pdb(pdb.Pdb):
        """A class of our own, so that `load_debugger` can give it another base."""


class AsyncioStandIn(types.ModuleType):
    """In place of tractor.to_asyncio, which runs asyncio beside trio: nobody here does, and asyncio takes 1.5 MB in the
    supervisor and 20 ms of every start."""

    @staticmethod
    def run_as_asyncio_guest(*_: Any, **__: Any) -> None:
        raise RuntimeError("actors run on trio alone")


def _import_tractor() -> types.ModuleType:
    """Import tractor where `from trio import MultiError` still works: BaseExceptionGroup took that class's place.

    It must be the group class itself: `except MultiError` looks at what was really raised. tractor's context managers
    are made by the standard library instead of async_generator, which calls `athrow` in a way that 3.12 deprecates.
    """
    theirs = async_generator.asynccontextmanager
    async_generator.asynccontextmanager = contextlib.asynccontextmanager  # type: ignore[assignment]
    sys.modules.setdefault("pdbpp", DebuggerStandIn("pdbpp"))
    sys.modules.setdefault("tractor.to_asyncio", AsyncioStandIn("tractor.to_asyncio"))
    trio.__dict__["MultiError"] = BaseExceptionGroup
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its dependencies' deprecations
            return importlib.import_module("tractor")
    finally:
        del trio.__dict__["MultiError"]
        async_generator.asynccontextmanager = theirs


tractor = _import_tractor()
logging.getLogger("tractor").setLevel(QUIET)
from tractor import (  # type: ignore[import-untyped] # noqa: E402 - the import above made it importable
    _actor,
    _debug,
    _exceptions,
    _ipc,
    _mp_fixup_main,
    _portal,
    _spawn,
    _state,
)


def load_debugger() -> None:
    """Put pdbp, pdbpp's living heir, where tractor expects pdbpp. Needed before `debug_mode`; more calls do nothing."""
    import pdbp  # type: ignore[import-untyped] # 0.1 s that only a debugging run should pay

    if _debug.pdbpp is not pdbp:
        sys.modules["pdbpp"] = _debug.pdbpp = pdbp
        _debug.TractorConfig.__bases__ = (pdbp.DefaultConfig,)
        _debug.MultiActorPdb.__bases__ = (pdbp.Pdb,)


def is_multi_cancelled(error: BaseException) -> bool:
    """Whether `error` is nothing but cancellation. tractor's own calls MultiError.filter, which is gone."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


async def do_hard_kill(process: trio.Process, terminate_after: float = KILL_AFTER) -> None:
    """End a process for good. tractor's own relies on `async with process`, which trio no longer has."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(terminate_after):
            await process.wait()
        process.kill()  # does nothing once it is reaped
        await process.wait()


def load_modules(actor: Any) -> None:
    """Import the modules that an actor exposes, and nothing else.

    tractor's own also runs the parent's `__main__` again in the child (here: the command line) and appends every
    module's directory to sys.path, where its `log.py` or our `channel.py` become importable by their bare names.
    """
    for name in actor.enable_modules:
        actor._mods[name] = importlib.import_module(name)


# --- Processes ---------------------------------------------------------------------------------------------------


async def _no_spawner(arguments: Sequence[str]) -> trio.Process:
    raise RuntimeError(f"no spawner is set for the actor {list(arguments)[1]}")


process_spawner: ContextVar[Spawner] = ContextVar("process_spawner", default=_no_spawner)
_process_of_this_task: ContextVar[trio.Process] = ContextVar("_process_of_this_task")


async def open_process(command: Sequence[str], **_options: Any) -> trio.Process:
    """Start actors by the `process_spawner` of the calling task: children need these mends, and may be forked."""
    arguments = list(command)[list(command).index("tractor._child") + 1 :]
    process = await process_spawner.get()(arguments)
    _process_of_this_task.set(process)  # new_proc runs in a task of its own, which is where wait_for_peer asks
    return process


def _mend_wait_for_peer(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def wait_for_peer(actor: Any, uid: tuple[str, str]) -> tuple[Any, Any]:
        """Wait for a child's connection.

        tractor's own waits for ever when the child dies before its handshake, and also when the child (a forked one
        does) connects before we come here: nobody sets the event that it then makes.
        """
        if actor._peers.get(uid):
            event = TruthyEvent()
            event.set()
            return event, actor._peers[uid][-1]
        process = _process_of_this_task.get()
        connected: tuple[Any, Any] | None = None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def watch_process() -> None:
                await process.wait()
                nursery.cancel_scope.cancel()

            connected = await original(actor, uid)
            nursery.cancel_scope.cancel()
        if connected is None:
            raise _exceptions.ActorFailure(f"{uid[0]} ended before it connected, with status {process.returncode}")
        return connected

    return wait_for_peer


def _mend_new_proc(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def new_proc(name: str, nursery: Any, subactor: Any, *arguments: Any, **options: Any) -> None:
        """Run one child from start to end, and forget it afterwards.

        tractor's own never forgets a dead child (find_actor then returns the address of the dead), and pops a child
        that it has not entered yet when its start fails, so that a KeyError hides the reason.
        """
        uid = subactor.uid
        nursery._children.setdefault(uid, (subactor, None, None))
        try:
            await original(name, nursery, subactor, *arguments, **options)
        finally:
            actor = nursery._actor
            nursery._children.pop(uid, None)
            for table in (actor._actoruid2nursery, actor._peer_connected, getattr(actor, "_registry", {})):
                table.pop(uid, None)
            for key in [key for key in actor._contexts if key[0] == uid]:
                del actor._contexts[key]

    return new_proc


# --- Channels ----------------------------------------------------------------------------------------------------


class BoundedReceiveStream(_ipc.BufferedReceiveStream):  # type: ignore[misc]
    """Refuses messages over MESSAGE_SIZE_LIMIT, and says that the transport closed when a message is cut short."""

    async def receive_exactly(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises TransportClosed."""
        if size > MESSAGE_SIZE_LIMIT:
            raise _exceptions.TransportClosed(f"the peer announced a message of {size} bytes")
        try:
            received: bytes = await super().receive_exactly(size)
        except (ValueError, trio.BrokenResourceError) as error:
            raise _exceptions.TransportClosed("the transport closed within a message") from error
        return received


def _mend_stream_handler(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def stream_handler(actor: Any, stream: trio.SocketStream) -> None:
        """Serve one connection. Without this, one bad handshake (a reset, five bytes of garbage) ends the actor."""
        try:
            await original(actor, stream)
        except Exception as error:  # noqa: BLE001 - whatever one connection does wrong ends that connection alone
            _actor.log.warning(f"dropped a connection: {error!r}")
            await trio.aclose_forcefully(stream)

    return stream_handler


async def only_allowed_calls(actor: Any, channel: Any, messages: Any) -> AsyncGenerator[Any, None]:
    """The messages of a channel to the root actor, up to a call that is none of an actor's business.

    tractor lets every peer call any method of the actor, `cancel` too: an actor that was taken over could end the
    whole node. All that an actor needs of the root is the registry; functions of modules are only those exposed.
    """
    async with contextlib.aclosing(messages):
        async for message in messages:
            namespace, method = message["cmd"][:2] if message is not None and "cmd" in message else ("", "")
            if namespace == "self" and method not in METHODS_OF_THE_ROOT:
                _actor.log.warning(f"{channel.uid} may not call {method} of {actor.uid}: its connection ends")
                return
            yield message


async def _close_readers(channel: Any) -> None:
    await channel._agen.aclose()
    if channel.msgstream is not None:
        await channel.msgstream._agen.aclose()


def _mend_do_handshake(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def do_handshake(actor: Any, channel: Any) -> Any:
        """Exchange names. tractor's own leaves a failed channel's generators to the garbage collector, which warns."""
        try:
            return await original(actor, channel)
        except BaseException:
            await _close_readers(channel)
            raise

    return do_handshake


def _mend_process_messages(original: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    async def process_messages(actor: Any, channel: Any, *arguments: Any, **options: Any) -> bool:
        """Read a channel to its end, then end every dialog on it.

        tractor's own just stops reading: contexts, calls and streams to a killed actor would wait for ever, and the
        tasks that served it would run on. Its generators too are left to the garbage collector.
        """
        if actor._parent_chan is None and not debugging():
            channel._agen = only_allowed_calls(actor, channel, channel._agen)
        try:
            return await original(actor, channel, *arguments, **options)
        finally:
            channel.is_lost = True
            for (served, _), (scope, _, _) in list(actor._rpc_tasks.items()):
                if served is channel:
                    scope.cancel()
            why = {"tb_str": str(channel._exc or "the connection to the actor is lost"), "type_str": CHANNEL_LOST}
            for context in [context for context in actor._contexts.values() if context.chan is channel]:
                message = {"cid": context.cid, "error": why}
                # Whoever waits for an answer, then whoever is inside of open_context. A full queue has a reader that
                # will meet the queue's end instead; a closed one has no reader.
                with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                    context._send_chan.send_nowait(message)
                with contextlib.suppress(RuntimeError):  # the context's nursery has closed
                    await context._maybe_raise_from_remote_msg(message)
                context._send_chan.close()
            await _close_readers(channel)

    return process_messages


def _mend_connected(original: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def connected(channel: Any) -> bool:
        """Whether somebody still reads the channel. tractor's own only knows whether our end of it is open."""
        return not getattr(channel, "is_lost", False) and original(channel)

    return connected


def _mend_send(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def send(channel: Any, item: Any) -> None:
        """Send, unless nobody would ever read an answer: a dialog begun on a lost channel would wait for ever."""
        if getattr(channel, "is_lost", False):
            raise trio.BrokenResourceError("the connection to the actor is lost")
        await original(channel, item)

    return send


# --- Calls -------------------------------------------------------------------------------------------------------


def _mend_cancel_actor(original: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    async def cancel_actor(portal: Any, timeout: float | None = None) -> bool:
        """Ask an actor to end. One that ends before it answers did what it was asked, and is no error."""
        try:
            return await original(portal, timeout)
        except _exceptions.RemoteActorError:
            return False

    return cancel_actor


def _mend_invoke(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def invoke(actor: Any, cid: str, channel: Any, *arguments: Any, **options: Any) -> None:
        """Serve a call, and forget it: tractor's own keeps some 2 KB of every plain call, here and at the caller."""
        try:
            await original(actor, cid, channel, *arguments, **options)
        finally:
            actor._contexts.pop((channel.uid, cid), None)

    return invoke


def _mend_return_once(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def return_once(portal: Any, context: Any) -> Any:
        """Receive a plain call's answer, and forget the call (see `_mend_invoke`)."""
        try:
            return await original(portal, context)
        finally:
            portal.actor._contexts.pop((context.chan.uid, context.cid), None)

    return return_once


# ---------------------------------------------------------------------------------------------------------------------


def _put_on() -> None:
    loose = LooseTrio(
        trio,
        MultiError=BaseExceptionGroup,
        open_nursery=open_loose_nursery,
        Event=TruthyEvent,
        lowlevel=LooseTrio(trio.lowlevel, open_process=open_process),
    )
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tractor":
            if getattr(module, "trio", None) is trio:
                module.__dict__["trio"] = loose
            if hasattr(module, "is_multi_cancelled"):
                module.__dict__["is_multi_cancelled"] = is_multi_cancelled
    actor, portal, channel = _actor.Actor, _portal.Portal, _ipc.Channel
    _mp_fixup_main._mp_figure_out_main = dict
    actor.load_modules = load_modules
    actor.wait_for_peer = _mend_wait_for_peer(actor.wait_for_peer)
    actor._stream_handler = _mend_stream_handler(actor._stream_handler)
    actor._do_handshake = _mend_do_handshake(actor._do_handshake)
    actor._process_messages = _mend_process_messages(actor._process_messages)
    _actor._invoke = _mend_invoke(_actor._invoke)
    portal.cancel_actor = _mend_cancel_actor(portal.cancel_actor)
    portal._return_once = _mend_return_once(portal._return_once)
    channel.connected = _mend_connected(channel.connected)
    channel.send = _mend_send(channel.send)
    _ipc.BufferedReceiveStream = BoundedReceiveStream
    _spawn.do_hard_kill = do_hard_kill
    _spawn.new_proc = _mend_new_proc(_spawn.new_proc)


_put_on()


def debugging() -> bool:
    """Whether this tree of actors runs in tractor's debug mode."""
    return bool(_state.debug_mode())
