"""One test a mend: each fails when that mend alone is left out."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import signal
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from edgevpn.actors import tractor_mends, tractor_sockets
from edgevpn.actors.actor_entry import run_entry
from edgevpn.actors.child_entry import ChildSettings
from edgevpn.actors.child_spawn import spawn_plainly
from edgevpn.actors.tractor_mends import process_spawner, tractor
from tests.actors import sample_actors

SERVE = {"entry": "tests.actors.sample_actors:serve", "kwargs": {}}


async def spawn_actor(arguments: Sequence[str]) -> trio.Process:
    """A spawner: the plain start of the actor that tractor asks for."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    name, uuid = eval(given["--uid"])  # noqa: S307 - tractor's own words
    directory, number = eval(given["--parent_addr"])  # noqa: S307
    settings = ChildSettings(name, "edgevpn.actors.actor_entry:run", (name, uuid, directory, str(number)))
    return spawn_plainly(settings)


async def spawn_nothing(_arguments: Sequence[str]) -> trio.Process:
    """A spawner whose child ends before it says a word."""
    return await trio.lowlevel.open_process(["true"])


@asynccontextmanager
async def open_root(directory: Path) -> AsyncIterator[Any]:
    tractor_sockets.prepare_directory(directory)
    async with tractor.open_root_actor(
        name="root", arbiter_addr=(str(directory), os.getpid()), loglevel="critical"
    ) as actor:
        yield actor


@asynccontextmanager
async def open_child(directory: Path, module: str = run_entry.__module__) -> AsyncIterator[tuple[Any, Any, Any]]:
    """A root and one child of it: (root actor, portal, process)."""
    async with open_root(directory) as root:
        process_spawner.set(spawn_actor)
        async with tractor.open_nursery() as nursery:
            with trio.fail_after(20):
                portal = await nursery.start_actor("child", enable_modules=[module], bind_addr=(str(directory), 0))
            process = nursery._children[portal.channel.uid][1]
            try:
                yield root, portal, process
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


def test_multierror_is_the_group_class_and_trio_is_left_as_it_was() -> None:
    assert tractor.MultiError is BaseExceptionGroup
    assert tractor._actor.trio.MultiError is BaseExceptionGroup
    assert "MultiError" not in vars(trio)


def test_tractors_context_managers_are_the_standard_librarys() -> None:
    for function in (tractor.open_nursery, tractor.open_root_actor, tractor.Portal.open_context):
        assert inspect.getmodule(function.__code__) is contextlib


async def test_tractors_nurseries_let_a_lone_error_out_bare_and_ours_do_not() -> None:
    async def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        async with tractor._supervise.trio.open_nursery() as nursery:
            nursery.start_soon(fail)
    with pytest.raises(ExceptionGroup):
        async with trio.open_nursery() as strict:
            strict.start_soon(fail)


async def test_tractors_events_are_true_and_work() -> None:
    event = tractor._actor.trio.Event()
    assert event
    assert not event.is_set()
    event.set()
    await event.wait()
    assert event.statistics().tasks_waiting == 0


@pytest.mark.parametrize("name", ["_actor", "_exceptions", "_debug", "_root", "_supervise"])
async def test_a_group_of_cancellations_is_one(name: str) -> None:
    cancelled = await _cancelled()
    ask = getattr(tractor, name).is_multi_cancelled
    assert ask(cancelled)
    assert ask(BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [cancelled])]))
    assert not ask(BaseExceptionGroup("", [cancelled, ValueError()]))
    assert not ask(ValueError())


async def _cancelled() -> trio.Cancelled:
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            return cancelled
    raise AssertionError


async def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(3600)"
    process = await trio.lowlevel.open_process([sys.executable, "-c", program], stdout=-1)
    assert process.stdout is not None
    await process.stdout.receive_some()
    await tractor._spawn.do_hard_kill(process, 0.05)
    assert process.returncode == -signal.SIGKILL
    await process.stdout.aclose()


def test_a_child_runs_no_main_of_ours_and_keeps_its_import_path() -> None:
    path = list(sys.path)
    actor = tractor._actor.Actor("one", enable_modules=["tests.actors.sample_actors"], spawn_method="trio")
    actor.load_modules()
    assert actor._parent_main_data == {}
    assert actor._mods["tests.actors.sample_actors"] is sample_actors
    assert sys.path == path


async def test_a_peer_that_was_there_first_is_not_waited_for() -> None:
    actor = tractor._actor.Actor("one", enable_modules=[])
    actor._peers["child", "uuid"].append("its channel")
    with trio.fail_after(1):
        event, channel = await actor.wait_for_peer(("child", "uuid"))
    assert event.is_set()
    assert channel == "its channel"


async def test_a_child_that_ends_before_it_connects_fails_its_start_and_is_forgotten(tmp_path: Path) -> None:
    async with open_root(tmp_path) as root:
        process_spawner.set(spawn_nothing)
        with trio.fail_after(10):
            with pytest.raises(tractor._exceptions.ActorFailure, match="before it connected, with status 0"):
                async with tractor.open_nursery() as nursery:
                    await nursery.start_actor("child", bind_addr=(str(tmp_path), 0))
        assert (root._peer_connected, root._actoruid2nursery, nursery._children) == ({}, {}, {})


async def test_a_killed_child_is_forgotten(tmp_path: Path) -> None:
    async with open_child(tmp_path, "tests.actors.sample_actors") as (root, portal, _):
        await portal.run(sample_actors.count_contexts)  # it answers calls once it is registered
        with pytest.raises(tractor.RemoteActorError):
            async with portal.open_context(sample_actors.end_in_context, how="kill"):
                pass
        assert "child" in {name for name, _ in root._registry}
    assert "child" not in {name for name, _ in root._registry}
    assert (root._actoruid2nursery, root._contexts) == ({}, {})


@pytest.mark.parametrize(
    "garbage", [b"", b"\0", b"\1\0\0\0\xc1", b"\5\0\0\0\xff\xff", b"\xff\xff\xff\xff", b"\1\0\0\0\5"]
)
async def test_garbage_on_a_socket_ends_that_connection_alone(tmp_path: Path, garbage: bytes) -> None:
    async with open_root(tmp_path) as root:
        for _ in range(2):
            async with await trio.open_unix_socket(str(tmp_path / str(os.getpid()))) as stream:
                await stream.send_all(garbage)
                await stream.send_eof()
                with trio.fail_after(5):  # read to the end: the root has dropped it
                    async for _ in stream:
                        pass
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()  # what tractor left open would warn now
        assert not root._service_n.cancel_scope.cancel_called
        async with tractor.get_arbiter(str(tmp_path), os.getpid()) as portal:
            assert await portal.run_from_ns("self", "get_registry")


async def test_a_message_that_is_too_long_or_cut_short_closes_the_transport() -> None:
    ours, theirs = memory_stream_pair()
    stream = tractor._ipc.BufferedReceiveStream(theirs)
    with pytest.raises(tractor._exceptions.TransportClosed, match="announced"):
        await stream.receive_exactly(tractor_mends.MESSAGE_SIZE_LIMIT + 1)
    await ours.send_all(b"abc")
    await ours.send_eof()
    with pytest.raises(tractor._exceptions.TransportClosed):
        await stream.receive_exactly(5)


async def test_a_dialog_ends_when_its_actor_is_killed(tmp_path: Path) -> None:
    async with open_child(tmp_path) as (_, portal, process):
        with trio.fail_after(10), pytest.raises(tractor.RemoteActorError) as failure:  # noqa: PT012
            async with portal.open_context(run_entry, **SERVE) as (_, first):
                assert first == process.pid
                process.kill()
                await trio.sleep_forever()  # no read is needed to learn of it
        assert failure.value.msgdata["type_str"] == tractor_mends.CHANNEL_LOST
        assert not portal.channel.connected()
        with pytest.raises(trio.BrokenResourceError):
            await portal.channel.send(None)


async def test_a_call_ends_when_its_actor_is_killed(tmp_path: Path) -> None:
    async with open_child(tmp_path) as (_, portal, process):
        os.kill(process.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def call() -> None:
                with trio.fail_after(10), pytest.raises(tractor.RemoteActorError):
                    await portal.run_from_ns("self", "get_parent")

            await trio.testing.wait_all_tasks_blocked()
            process.kill()


async def test_nobody_can_speak_to_a_channel_that_nobody_reads_any_more(tmp_path: Path) -> None:
    """A child's garbage ends the reading of its channel, but the connection stays for half a second more."""
    uid = ("child", "uuid")
    async with open_root(tmp_path) as root:
        root._actoruid2nursery[uid] = types.SimpleNamespace(exited=trio.Event(), _children={})
        async with await trio.open_unix_socket(str(tmp_path / str(os.getpid()))) as stream:
            channel = tractor._ipc.Channel.from_stream(stream)
            await channel.send(uid)
            await channel.recv()
            await trio.testing.wait_all_tasks_blocked()
            (of_root,) = root._peers[uid]
            await channel.send(5)
            await trio.testing.wait_all_tasks_blocked()
            assert not of_root.connected()
            with pytest.raises(trio.BrokenResourceError):
                await of_root.send({})
            await channel.msgstream._agen.aclose()
        del root._actoruid2nursery[uid]


async def test_a_channel_that_ends_in_good_order_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    async with open_root(tmp_path) as root:
        async with await trio.open_unix_socket(str(tmp_path / str(os.getpid()))) as stream:
            channel = tractor._ipc.Channel.from_stream(stream)
            await channel.send(("peer", "uuid"))
            await channel.recv()
            await channel.send(None)
            await trio.testing.wait_all_tasks_blocked()
            await channel.msgstream._agen.aclose()
        assert root._peers == {}
        gc.collect()


async def test_tasks_that_serve_a_lost_peer_are_cancelled(tmp_path: Path) -> None:
    """A peer that goes away leaves no task of its own running in us."""
    async with open_root(tmp_path) as root:
        ended = trio.Event()

        async def forever() -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        root._mods["sample"] = types.SimpleNamespace(forever=forever)
        stream = await trio.open_unix_socket(str(tmp_path / str(os.getpid())))
        channel = tractor._ipc.Channel.from_stream(stream)
        await channel.send(("peer", "uuid"))
        await channel.recv()
        await channel.send({"cmd": ("sample", "forever", {}, ("peer", "uuid"), "1")})
        assert (await channel.recv())["functype"] == "asyncfunc"
        await channel.msgstream._agen.aclose()
        await stream.aclose()
        with trio.fail_after(5):
            await ended.wait()


async def test_an_actor_can_not_end_the_root(tmp_path: Path) -> None:
    """Nor call any other of its methods: its connection ends instead, and the root goes on."""
    async with open_root(tmp_path) as root:
        for method in ("cancel", "load_modules", "_cancel_task", "cancel_rpc_tasks"):
            async with await trio.open_unix_socket(str(tmp_path / str(os.getpid()))) as stream:
                channel = tractor._ipc.Channel.from_stream(stream)
                await channel.send(("peer", method))
                await channel.recv()
                await channel.send({"cmd": ("self", method, {}, ("peer", method), "1")})
                with trio.fail_after(5), pytest.raises(tractor._exceptions.TransportClosed):
                    await channel.recv()
                await channel.msgstream._agen.aclose()
        assert not root._cancel_called
        await trio.testing.wait_all_tasks_blocked()
        assert root._peers == {}


async def test_asking_an_actor_to_end_that_dies_of_it_is_no_error(tmp_path: Path) -> None:
    async with open_child(tmp_path) as (_, portal, process):
        os.kill(process.pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert await portal.cancel_actor(10) is False

            await trio.testing.wait_all_tasks_blocked()
            process.kill()


async def test_calls_are_forgotten_on_both_sides(tmp_path: Path) -> None:
    async with open_child(tmp_path, "tests.actors.sample_actors") as (root, portal, _):
        counts = [(await portal.run(sample_actors.count_contexts), len(root._contexts)) for _ in range(4)]
        assert counts == [(1, 0)] * 4  # while a call counts, there is itself


async def test_a_spawner_is_asked_with_the_words_of_tractors_child() -> None:
    asked: list[Sequence[str]] = []

    async def spawner(arguments: Sequence[str]) -> trio.Process:
        asked.append(arguments)
        return await spawn_nothing(arguments)

    process_spawner.set(spawner)
    process = await tractor._spawn.trio.lowlevel.open_process(["python", "-m", "tractor._child", "--uid", "('a', 'b')"])
    await process.wait()
    assert asked == [["--uid", "('a', 'b')"]]


def test_the_debugger_takes_its_stand_ins_place() -> None:
    program = """
from edgevpn.actors import tractor_mends as mends
import sys
assert "pdbp" not in sys.modules
mends.load_debugger()
mends.load_debugger()
import pdbp
assert issubclass(mends.tractor._debug.MultiActorPdb, pdbp.Pdb)
assert issubclass(mends.tractor._debug.TractorConfig, pdbp.DefaultConfig)
mends.tractor._debug.MultiActorPdb()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_tractor_brings_no_asyncio() -> None:
    code = "import sys, edgevpn.actors.actor_entry; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
