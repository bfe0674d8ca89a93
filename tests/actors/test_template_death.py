"""The template's death at every moment: its children are ours or never were, and nothing of it is left.

Each test walks through the moments in steps and checks after each that no child is there but the template, none of them
a zombie, and that no descriptor is open that was not before.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest
import trio

from edgevpn.actors import template_client
from edgevpn.actors.actor_tree import open_actor_tree
from edgevpn.actors.child_entry import ChildSettings
from edgevpn.actors.child_spawn import spawn_plainly
from edgevpn.actors.linux_process import is_stopped
from edgevpn.actors.template_client import TemplateClient, TemplateDownError

CHILDREN = "tests.actors.sample_children"
ACTORS = "tests.actors.sample_actors"
SLEEPER = ChildSettings("sleeper", f"{CHILDREN}:sleep")
WAYS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV)


@pytest.fixture(autouse=True)
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that died young is replaced at once: the pause is not what is tested here."""
    monkeypatch.setattr(template_client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(template_client, "LONGEST_PAUSE", 0.01)


@asynccontextmanager
async def open_client(stages: list[tuple[str, list[str]]]) -> AsyncIterator[TemplateClient]:
    client = TemplateClient(stages)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


@contextmanager
def nothing_left() -> Iterator[None]:
    """Neither a child nor a descriptor that was not there before."""
    before = (psutil.Process().num_fds(), [child.pid for child in psutil.Process().children()])
    yield
    assert (psutil.Process().num_fds(), [child.pid for child in psutil.Process().children()]) == before


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - these are facts of the kernel, nobody sets an event for them
            await trio.sleep(0.005)


async def ready(client: TemplateClient, other_than: int | None = None) -> int:
    """Wait for a template that is ready, and not the one of that pid."""
    await until(lambda: client.state.status == "ready" and client.state.pid != other_than)
    assert client.state.pid is not None
    return client.state.pid


async def only_the_template(client: TemplateClient) -> None:
    """No child but the template, none dead. A child that nobody waits for is killed when it tells of itself."""
    await until(lambda: [child.pid for child in psutil.Process().children()] == [client.state.pid])
    assert psutil.Process(client.state.pid).status() != psutil.STATUS_ZOMBIE


async def a_child(client: TemplateClient, needs: str) -> bool:
    """Get one, forked or plain, see that it is ours and lives, and end it; whether it was forked."""
    try:
        process, forked = await client.spawn(SLEEPER, needs), True
    except TemplateDownError:
        process, forked = spawn_plainly(SLEEPER), False
    assert psutil.Process(process.pid).ppid() == os.getpid()
    process.kill()
    with trio.fail_after(20):
        assert await process.wait() == -signal.SIGKILL
    return forked


def slow_stages(directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Two stages whose imports take some time each."""
    for number in range(4):
        (directory / f"sample_slow_{number}.py").write_text("import time\ntime.sleep(0.03)\n")
    monkeypatch.syspath_prepend(str(directory))
    return [("early", ["sample_slow_0", "sample_slow_1"]), ("late", ["sample_slow_2", CHILDREN, "sample_slow_3"])]


# After how many stages, and how much later.
MOMENTS = [(0, 0.0), (0, 0.05), (0, 0.2), (1, 0.0), (1, 0.04), (2, 0.0), (2, 0.04)]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: signal.Signals) -> None:
    stages = slow_stages(tmp_path, monkeypatch)
    with nothing_left():
        for complete, later in MOMENTS:
            async with open_client(stages) as client:
                first = client.state.pid
                assert first is not None
                forked: dict[str, bool] = {}
                async with trio.open_nursery() as nursery:

                    async def ask(
                        needs: str, client: TemplateClient = client, forked: dict[str, bool] = forked
                    ) -> None:
                        forked[needs] = await a_child(client, needs)

                    for needs in ("base", "early", "late"):
                        nursery.start_soon(ask, needs)
                    await until(lambda: len(client.state.stages) >= complete)  # noqa: B023 - awaited here
                    await trio.sleep(later)
                    os.kill(first, way)
                assert set(forked) == {"base", "early", "late"}
                assert forked["base"] or complete < 2
                await ready(client, other_than=first)
                assert await a_child(client, "late")
                await only_the_template(client)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_while_many_ask_at_once(way: signal.Signals) -> None:
    outcomes = []
    with nothing_left():
        async with open_client([("late", [CHILDREN])]) as client:
            for step in range(7):
                pid = await ready(client)
                async with trio.open_nursery() as nursery:
                    done: list[bool] = []

                    async def ask(done: list[bool] = done) -> None:
                        done.append(await a_child(client, "late"))

                    for _ in range(8):
                        nursery.start_soon(ask)
                    if step < 6:
                        await trio.sleep(step * 0.004)
                    else:
                        await until(lambda done=done: len(done) > 0)  # type: ignore[misc]
                    os.kill(pid, way)
                assert len(done) == 8
                outcomes.append(sum(done))
                await ready(client, other_than=pid)
                await only_the_template(client)
    assert min(outcomes) < 8, "it was never hit while somebody waited"
    assert max(outcomes) > 0, "no request was ever answered before"


async def test_while_the_client_ends_and_requests_are_on_their_way() -> None:
    with nothing_left():
        for step in range(8):
            got: list[trio.Process] = []
            async with open_client([("late", [CHILDREN])]) as client, trio.open_nursery() as nursery:
                pid = await ready(client)

                async def ask(client: TemplateClient = client, got: list[trio.Process] = got) -> None:
                    got.append(await client.spawn(SLEEPER, "late"))

                if step % 2:
                    os.kill(pid, signal.SIGSTOP)
                for _ in range(8):
                    nursery.start_soon(ask)
                await trio.sleep(step * 0.002)
                nursery.cancel_scope.cancel()
            for process in got:
                process.kill()
                await process.wait()


async def test_while_the_last_answers_of_a_killed_one_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    timeout = 0.01  # halved after a round in which it was quick enough to fork all eight
    with nothing_left():
        async with open_client([("late", [CHILDREN])]) as client:
            while client.state.restarts < 5:
                monkeypatch.setattr(template_client, "ANSWER_TIMEOUT", timeout)
                pid = await ready(client)
                killed = watch_for_a_kill(client, monkeypatch)
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(a_child, client, "late")
                if killed.is_set():
                    await ready(client, other_than=pid)
                else:
                    timeout /= 2
                await only_the_template(client)


def watch_for_a_kill(client: TemplateClient, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """An event that is set when the client kills the template that it has now."""
    assert client._template is not None
    process, killed = client._template.process, trio.Event()
    kill = process.kill

    def kill_and_tell() -> None:
        killed.set()
        kill()

    monkeypatch.setattr(process, "kill", kill_and_tell)
    return killed


async def test_when_it_is_stopped_nobody_need_ask_for_a_new_one() -> None:
    with nothing_left():
        async with open_client([]) as client:
            pid = await ready(client)
            os.kill(pid, signal.SIGSTOP)
            began = trio.current_time()
            await until(lambda: client.state.pid != pid)
            assert trio.current_time() - began < 2
            assert client.state.trouble == "it was stopped by a signal"
            await ready(client)
            assert await a_child(client, "base")


async def test_when_it_is_stopped_an_actor_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_client, "STOPPED_PERIOD", 60)
    with nothing_left():
        async with open_client([]) as client:
            pid = await ready(client)
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: is_stopped(pid))
            with trio.fail_after(1), pytest.raises(TemplateDownError, match="stopped by a signal"):
                await client.spawn(SLEEPER)
            await ready(client, other_than=pid)


async def test_one_that_goes_on_at_once_is_let_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_client, "STOPPED_PAUSE", 0.2)
    with nothing_left():
        async with open_client([]) as client:
            pid = await ready(client)
            async with trio.open_nursery() as nursery:
                os.kill(pid, signal.SIGSTOP)  # as Ctrl-Z and fg do with the whole node
                nursery.start_soon(a_child, client, "base")
                await trio.sleep(0.05)
                os.kill(pid, signal.SIGCONT)
            assert client.state.pid == pid
            assert client.state.restarts == 0


async def test_an_actor_comes_whenever_the_template_goes(tmp_path: Path) -> None:
    plain = []
    with nothing_left():
        async with open_actor_tree("test", tmp_path, stages=[("late", [ACTORS])]) as tree:
            for step in range(9):
                await until(lambda: tree.template_state.status == "ready")
                pid = tree.template_state.pid
                assert pid is not None
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def start() -> None:
                        actor = await tree.start("one", f"{ACTORS}:serve", needs="late")
                        plain.append(actor.plain_because)
                        assert (await actor.stop()).code == 0

                    if step < 8:
                        await trio.sleep(step * 0.003)
                    else:
                        await until(lambda: len(plain) == 9)
                    os.kill(pid, WAYS[step % len(WAYS)])
                await until(lambda pid=pid: tree.template_state.pid not in (None, pid))  # type: ignore[misc]
    assert None in plain, "none was forked before"
    assert any(plain), "none was started the plain way"
