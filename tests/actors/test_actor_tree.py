"""The tree of actors under every way an actor, the template or the supervisor can end."""

from __future__ import annotations

import gc
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from edgevpn.actors.actor_tree import ActorStartError, ActorTree, ProcessOptions, User, open_actor_tree
from edgevpn.actors.linux_process import is_stopped
from edgevpn.actors.tractor_mends import tractor
from edgevpn.errors import SetupError
from tests.actors.abilities import CAN_TAKE_REAL_TIME

ACTORS = "tests.actors.sample_actors"
STAGES = [("late", [ACTORS])]


@asynccontextmanager
async def open_tree(run_dir: Path, **options: Any) -> AsyncIterator[ActorTree]:
    async with open_actor_tree("test", run_dir, **{"stages": STAGES, **options}) as tree:
        yield tree


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - these are facts of the kernel, nobody sets an event for them
            await trio.sleep(0.01)


async def ready(tree: ActorTree, other_than: int | None = None) -> int:
    """Wait for a template that is ready (and not the one of pid `other_than`); its pid."""
    await until(lambda: tree.template_state.status == "ready" and tree.template_state.pid != other_than)
    assert tree.template_state.pid is not None
    return tree.template_state.pid


def is_running(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("use_template", [True, False], ids=["forked", "plain"])
async def test_an_actor_starts_tells_its_first_value_and_returns(tmp_path: Path, use_template: bool) -> None:
    async with open_tree(tmp_path, use_template=use_template) as tree:
        value = {"list": [1, b"x"], "none": None}
        actor = await tree.start("one", f"{ACTORS}:echo", {"value": value})
        assert actor.first == {"pid": actor.pid, "parent": os.getpid(), "value": value}
        reason = await actor.wait()
        assert (reason.kind, reason.code, actor.result) == ("exit", 0, value)
        assert (actor.plain_because is None) == use_template
        assert tree.template_state.forks == (1 if use_template else 0)
        assert tree.template_state.status == ("off" if not use_template else tree.template_state.status)


@pytest.mark.parametrize(
    ("how", "kind", "code", "text"),
    [
        ("exception", "exception", 0, "ValueError: two lines"),
        ("group", "exception", 0, "SystemExit: 4"),
        ("sys.exit", "exception", 0, "SystemExit: 3"),
        ("interrupt", "exception", 0, "KeyboardInterrupt"),
        ("_exit", "exit", 3, "it left with exit status 3"),
        ("segv", "signal", -signal.SIGSEGV, "killed by SIGSEGV"),
        ("kill", "signal", -signal.SIGKILL, "killed by SIGKILL"),
        ("forget", "exit", 0, "its entry returned"),
    ],
)
async def test_however_an_actor_ends_only_its_handle_tells(
    tmp_path: Path, how: str, kind: str, code: int, text: str
) -> None:
    async with open_tree(tmp_path) as tree:
        bystander = await tree.start("bystander", f"{ACTORS}:serve")
        actor = await tree.start("victim", f"{ACTORS}:end", {"how": how})
        reason = await actor.wait()
        assert (reason.kind, reason.code, reason.text) == (kind, code, text)
        assert reason.signal_name == (text.removeprefix("killed by ") if kind == "signal" else "")
        assert ("Traceback" in reason.traceback) == (kind == "exception")
        with pytest.raises(ActorStartError) as failure:
            await tree.start("victim", f"{ACTORS}:end", {"how": how, "started": False})
        assert failure.value.reason.kind == kind
        assert bystander.reason is None
        again = await tree.start("victim", f"{ACTORS}:echo", {"value": 5})
        assert (await again.wait()).kind == "exit"
        assert bystander.reason is None


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (f"{ACTORS}:unmarked", "is not marked"),
        (f"{ACTORS}:no_such", "AttributeError"),
        ("tests.actors.no_such:main", "ModuleNotFoundError"),
    ],
)
async def test_an_entry_that_can_not_be_run_says_why(tmp_path: Path, entry: str, text: str) -> None:
    async with open_tree(tmp_path) as tree:
        with pytest.raises(ActorStartError, match=text) as failure:
            await tree.start("bad", entry)
        assert failure.value.reason.kind == "exception"


async def test_a_crash_in_tractors_loop_is_told_as_the_exit_that_it_is(tmp_path: Path) -> None:
    async with open_tree(tmp_path, use_template=False) as tree:
        options = ProcessOptions(limits={"RLIMIT_NOFILE": (4, 4)})  # not enough for trio itself
        with pytest.raises(ActorStartError) as failure:
            await tree.start("poor", f"{ACTORS}:echo", options=options)
        assert (failure.value.reason.kind, failure.value.reason.code) == ("exit", 70)


@pytest.mark.parametrize("how", ["spin", "stop", "refuse"])
async def test_an_actor_that_does_not_stop_is_killed_and_called_hung(tmp_path: Path, how: str) -> None:
    async with open_tree(tmp_path) as tree:
        actor = await tree.start("stubborn", f"{ACTORS}:end", {"how": how})
        reason = await actor.stop(grace=0.2)
        assert (reason.kind, reason.code, reason.text) == ("hung", -signal.SIGKILL, "it did not stop in 0.2 s")


async def test_stopping_and_killing_an_actor_is_no_failure_of_it(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        stopped = await tree.start("one", f"{ACTORS}:serve")
        assert ((await stopped.stop()).kind, stopped.reason and stopped.reason.code) == ("cancelled", 0)
        killed = await tree.start("one", f"{ACTORS}:serve")
        killed.kill()
        assert ((await killed.wait()).kind, (await killed.wait()).code) == ("cancelled", -signal.SIGKILL)
        hung = await tree.start("one", f"{ACTORS}:serve")
        hung.kill(hung=True, text="no heartbeat")
        assert ((await hung.wait()).kind, (await hung.wait()).text) == ("hung", "no heartbeat")
        assert (await stopped.stop()) == stopped.reason  # once more does nothing


async def test_an_actor_that_does_not_start_in_time_is_killed(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        await ready(tree)
        with pytest.raises(ActorStartError, match=r"did not start in 0\.3 s") as failure:
            await tree.start("slow", f"{ACTORS}:end", {"how": "refuse", "started": False}, timeout=0.3)
        assert failure.value.reason.kind == "hung"
        assert [child.pid for child in psutil.Process().children()] == [tree.template_state.pid]


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.02])
async def test_a_start_that_is_cancelled_leaves_no_process(tmp_path: Path, delay: float) -> None:
    async with open_tree(tmp_path) as tree:
        await ready(tree)
        with trio.move_on_after(delay):
            await tree.start("late", f"{ACTORS}:serve")
            await trio.sleep_forever()
        for handle in list(tree._handles):  # it was quicker than the cancellation
            await handle.stop()
        # A child that was being forked is killed when the template tells of it.
        await until(lambda: [child.pid for child in psutil.Process().children()] == [tree.template_state.pid])


async def test_eight_stubborn_actors_are_gone_within_the_bound(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                how = ("spin", "stop", "refuse", "serve")[number % 4]
                entry = ("serve", {}) if how == "serve" else ("end", {"how": how})
                nursery.start_soon(tree.start, f"actor{number}", f"{ACTORS}:{entry[0]}", entry[1])
        pids = [child.pid for child in psutil.Process().children()]
        before = trio.current_time()
    assert trio.current_time() - before < 3 + 2  # the bound is 3; the rest is for a busy machine
    assert len(pids) == 9
    assert not any(map(psutil.pid_exists, pids))


async def test_cancelling_the_tree_ends_it_and_passes_the_cancellation_on(tmp_path: Path) -> None:
    with trio.move_on_after(60) as scope:
        async with open_tree(tmp_path) as tree:
            actor = await tree.start("two", f"{ACTORS}:serve")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert actor.reason is not None
    assert (actor.reason.kind, actor.reason.code) == ("cancelled", 0)  # it had time to clean up
    assert psutil.Process().children() == []


async def test_an_error_in_the_body_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with open_tree(tmp_path) as tree:
            await tree.start("one", f"{ACTORS}:serve")
            raise ZeroDivisionError
    assert psutil.Process().children() == []


@pytest.mark.parametrize("use_template", [True, False], ids=["forked", "plain"])
async def test_an_actors_process_is_what_its_options_say(tmp_path: Path, use_template: bool) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"through a descriptor")
    os.close(writing)
    options = ProcessOptions(
        environment={"SAMPLE": "yes"}, descriptors=[(reading, 11)], nice=2, real_time=CAN_TAKE_REAL_TIME
    )
    async with open_tree(tmp_path, use_template=use_template) as tree:
        actor = await tree.start("one", f"{ACTORS}:describe", {"variable": "SAMPLE", "fd": 11}, options=options)
        os.close(reading)
        assert actor.first["name"] == "test:one"
        assert actor.first["variable"] == "yes"
        assert actor.first["read"] == b"through a descriptor"
        assert actor.first["nice"] == os.nice(0) + 2
        assert actor.first["scheduler"] == (os.SCHED_RR if CAN_TAKE_REAL_TIME else os.SCHED_OTHER)
        assert actor.first["no_new_privs"] == "1"
        assert actor.first["native_id"]
        assert actor.first["path"] == []
        assert set(actor.first["descriptors"]) >= {0, 1, 2, 11}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("use_template", [True, False], ids=["forked", "plain"])
async def test_an_actor_can_run_as_another_user(use_template: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    for parent in (run_dir, run_dir.parent, run_dir.parent.parent):
        parent.chmod(0o711)
    options = ProcessOptions(user=User(65534, 65534))
    async with open_tree(run_dir, use_template=use_template, group=65534) as tree:
        actor = await tree.start("one", f"{ACTORS}:describe", options=options)
        assert actor.first["uids"] == [65534] * 3
        assert (await actor.stop()).code == 0


async def test_siblings_are_not_alike(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        drawn = [(await tree.start("one", f"{ACTORS}:describe")).first["random"] for _ in range(3)]
        assert len(set(drawn)) == 3


async def test_an_actor_can_be_plain_if_it_asks(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        actor = await tree.start("one", f"{ACTORS}:serve", options=ProcessOptions(plain=True))
        assert actor.plain_because == "asked for"


async def test_with_a_dead_template_actors_start_plainly_and_a_new_template_comes(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        first = await ready(tree)
        os.kill(first, signal.SIGKILL)
        await (await tree.start("one", f"{ACTORS}:echo")).wait()
        await ready(tree, other_than=first)
        actor = await tree.start("one", f"{ACTORS}:echo")
        assert actor.plain_because is None


async def test_with_a_stopped_template_an_actor_starts_plainly(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        first = await ready(tree)
        os.kill(first, signal.SIGSTOP)
        await until(lambda: is_stopped(first))
        actor = await tree.start("one", f"{ACTORS}:serve")
        assert actor.plain_because == "it was stopped by a signal"
        assert not psutil.pid_exists(first)
        await ready(tree, other_than=first)
        assert actor.reason is None


async def test_actors_outlive_the_template_that_forked_them(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        first = await ready(tree)
        actor = await tree.start("one", f"{ACTORS}:serve")
        os.kill(first, signal.SIGKILL)
        await ready(tree, other_than=first)
        assert actor.reason is None
        assert (await actor.stop()).code == 0


async def test_thirty_cycles_leave_nothing_behind(tmp_path: Path) -> None:
    hows = ("exception", "_exit", "segv", "kill", "forget", "cancel")
    async with open_tree(tmp_path) as tree:
        bystander = await tree.start("bystander", f"{ACTORS}:serve")
        await ready(tree)
        root = tractor.current_actor()
        counts = []
        for cycle in range(30):
            if cycle in (6, 29):
                gc.collect()
                await until(lambda: len(root._peers) == 1)  # tractor's handler of a connection takes its time
                counts.append((psutil.Process().num_fds(), len(root._contexts), len(root._registry)))
            how = hows[cycle % len(hows)]
            if how == "cancel":
                await (await tree.start("victim", f"{ACTORS}:serve")).stop()
            else:
                await (await tree.start("victim", f"{ACTORS}:end", {"how": how})).wait()
        assert all(later <= earlier for earlier, later in zip(*counts, strict=True)), counts
        children = psutil.Process().children(recursive=True)
        assert {child.pid for child in children} == {bystander.pid, tree.template_state.pid}
        assert sorted(entry.name for entry in tree.directory.iterdir()) == sorted(
            [str(os.getpid()), str(bystander.pid)]
        )
        assert (tree.template_state.forks, tree.template_state.restarts) == (31, 0)


async def test_the_sockets_directory_is_ours_alone(tmp_path: Path) -> None:
    async with open_tree(tmp_path) as tree:
        assert stat.S_IMODE(tree.directory.stat().st_mode) == 0o700
        assert psutil.Process().net_connections("inet") == []
        actor = await tree.start("one", f"{ACTORS}:serve")
        assert psutil.Process(actor.pid).net_connections("inet") == []


async def test_a_directory_that_is_too_deep_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="too long"):
        async with open_tree(tmp_path / ("x" * 100)):
            pass


async def test_an_ordinary_life_writes_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_tree(tmp_path) as tree:
        for use in (tree.start("one", f"{ACTORS}:serve"), tree.start("two", f"{ACTORS}:end", {"how": "exception"})):
            await use
    assert capfd.readouterr() == ("", "")


async def test_the_breakpoint_hook_is_as_before(tmp_path: Path) -> None:
    before = os.environ.get("PYTHONBREAKPOINT")
    async with open_tree(tmp_path, use_template=False):
        pass
    assert os.environ.get("PYTHONBREAKPOINT") == before


_SUPERVISOR = """
import sys
from pathlib import Path
import trio
from edgevpn.actors.actor_tree import ProcessOptions, open_actor_tree
async def main():
    async with open_actor_tree("test", Path(sys.argv[1]), stages=[("late", ["colorsys"])]) as tree:
        pids = []
        for how in ("spin", "stop", "refuse", "wait"):
            for plain in (False, True):
                actor = await tree.start(
                    how, "tests.actors.sample_actors:end", {"how": how}, options=ProcessOptions(plain=plain)
                )
                pids.append(actor.pid)
        print(*pids, tree.template_state.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_nobody_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", _SUPERVISOR, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with supervisor:
        try:
            assert supervisor.stdout is not None
            pids = [int(pid) for pid in supervisor.stdout.readline().split()]
            assert all(map(is_running, pids))
        finally:
            supervisor.kill()
    assert len(pids) == 9
    deadline = time.monotonic() + 2
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


_DEBUGGED = """
import sys
from pathlib import Path
import trio
from edgevpn.actors.actor_tree import open_actor_tree
async def main():
    async with open_actor_tree("test", Path(sys.argv[1]), debug=True) as tree:
        actor = await tree.start("one", "tests.actors.sample_actors:end", {"how": "exception"})
        print("ended:", (await actor.wait()).kind, flush=True)
trio.run(main)
"""


def test_in_debug_mode_a_crash_opens_a_prompt_where_it_happened(tmp_path: Path) -> None:
    terminal, its_end = os.openpty()
    supervisor = subprocess.Popen(
        [sys.executable, "-c", _DEBUGGED, str(tmp_path)], stdin=its_end, stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    said = b""

    def read_until(word: bytes) -> None:
        nonlocal said
        while word not in said:
            assert select.select([terminal], [], [], 30)[0], said
            said += os.read(terminal, 4096)

    with supervisor:
        try:
            read_until(b"(Pdb+) ")
            os.write(terminal, b"how.upper()\n")  # a name of the function that raised
            read_until(b"'EXCEPTION'")
            os.write(terminal, b"c\n")
            read_until(b"ended: exception")
        finally:
            supervisor.kill()
            os.close(terminal)
