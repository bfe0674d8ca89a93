"""The template process and its client: what children are like, stages, and every way the template can die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from edgevpn.actors import template_client
from edgevpn.actors.child_entry import ChildSettings, User
from edgevpn.actors.child_spawn import spawn_plainly
from edgevpn.actors.template_client import TemplateClient, TemplateDownError
from edgevpn.actors.template_start import adopt_template, start_template
from tests.actors.abilities import CAN_TAKE_REAL_TIME

CHILDREN = "tests.actors.sample_children"
Stages = list[tuple[str, list[str]]]


@asynccontextmanager
async def open_client(stages: Stages | None = None) -> AsyncIterator[TemplateClient]:
    client = TemplateClient(stages if stages is not None else [("late", [CHILDREN])])
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield client
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - these are facts of the kernel, nobody sets an event for them
            await trio.sleep(0.01)


async def facts_of(client: TemplateClient | None, function: str = "tell", **settings: Any) -> dict[str, Any]:
    """Start a child that tells what it is like, and return that."""
    reading, writing = os.pipe()
    arguments = ("17", settings.pop("wanted", "")) if function == "tell" else ("17",)
    needs = settings.pop("needs", "base")
    wanted = ChildSettings(f"test:{function}", f"{CHILDREN}:{function}", arguments, descriptors=(17,), **settings)
    try:
        if client is None:
            process = spawn_plainly(wanted, [writing])
        else:
            process = await client.spawn(wanted, needs, [writing])
    finally:
        os.close(writing)
    with trio.fail_after(20):
        async with trio.lowlevel.FdStream(reading) as stream:
            told = b"".join([chunk async for chunk in stream])
        status = await process.wait()
    return {**json.loads(told), "status": status, "process": process.pid}


def open_descriptors() -> list[str]:
    listed = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sorted(os.readlink(name).partition(":")[0] for name in listed if os.path.lexists(name))


@pytest.mark.parametrize("forked", [True, False], ids=["forked", "plain"])
async def test_a_child_is_ours_and_what_its_settings_say(forked: bool) -> None:
    async with open_client() as client:
        facts = await facts_of(client if forked else None, environment={"SAMPLE": "yes"}, nice=3)
        assert facts["pid"] == facts["process"]
        assert facts["parent"] == os.getpid()
        assert facts["status"] == 7
        assert facts["name"] == facts["title"] == "test:tell"
        assert facts["no_new_privs"] == "1"
        assert facts["threads"] == ["MainThread"]
        assert facts["thread_id_is_right"]
        assert facts["environment"] == {"SAMPLE": "yes"}
        assert facts["nice"] == os.nice(0) + 3
        assert facts["descriptors"] == [0, 1, 2, 17]
        assert facts["interrupts"] == "1"  # SIG_IGN
        assert client.state.forks == (1 if forked else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("forked", [True, False], ids=["forked", "plain"])
async def test_a_child_can_run_as_another_user(forked: bool) -> None:
    async with open_client() as client:
        facts = await facts_of(client if forked else None, user=User(65534, 65534), preload=[CHILDREN])
        assert facts["status"] == 7
        assert (facts["uids"], facts["groups"]) == ([65534] * 3, [])


# Root without CAP_SYS_NICE, or one processor: there is nothing to give. What a child does then is the next test.
@pytest.mark.skipif(not CAN_TAKE_REAL_TIME, reason="root may not set priorities here, or there is one processor")
@pytest.mark.parametrize("forked", [True, False], ids=["forked", "plain"])
async def test_a_child_can_have_real_time_priority_as_another_user(forked: bool) -> None:
    async with open_client() as client:
        user = User(65534, 65534)
        facts = await facts_of(client if forked else None, user=user, preload=[CHILDREN], real_time=True)
        assert (facts["scheduler"], facts["no_real_time"]) == (os.SCHED_RR, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("forked", [True, False], ids=["forked", "plain"])
async def test_a_child_without_rights_gets_no_real_time_and_goes_on(forked: bool) -> None:
    async with open_client() as client:
        facts = await facts_of(client if forked else None, user=User(65534, 65534), preload=[CHILDREN])
        assert (facts["status"], facts["scheduler"]) == (7, os.SCHED_OTHER)
        assert facts["no_real_time"].startswith(("the system does not allow it", "there is only one processor"))


async def test_forked_siblings_draw_different_numbers() -> None:
    async with open_client() as client:
        drawn = [(await facts_of(client, needs="late"))["random"] for _ in range(3)]
        assert len(set(drawn)) == 3


async def test_signals_find_the_thread_of_a_forked_child() -> None:
    async with open_client() as client:
        assert (await facts_of(client, "signal_own_thread"))["signals"] == [signal.SIGUSR1]


async def test_descriptors_that_swap_their_numbers_arrive_at_the_right_ones(tmp_path: Path) -> None:
    texts = ["first", "second"]
    files = [os.open(tmp_path / text, os.O_RDWR | os.O_CREAT) for text in texts]
    try:
        settings = ChildSettings("swap", "os:_exit", ("0",), descriptors=list(reversed(files)))
        async with open_client() as client:
            for process in (await client.spawn(settings, descriptors=files), spawn_plainly(settings, files)):
                await process.wait()
    finally:
        for fd in files:
            os.close(fd)
    # What became of them is seen from within: a child that reads both.
    program = "import os; from edgevpn.actors.child_entry import _place_descriptors as place\n"
    program += "a, b = os.pipe(), os.pipe(); os.write(a[1], b'a'); os.write(b[1], b'b')\n"
    program += "place([a[0], b[0]], [b[0], a[0]]); print(os.read(a[0], 1), os.read(b[0], 1))"
    told = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert told.stdout.decode().strip() == "b'b' b'a'"


async def test_a_child_whose_function_raises_has_a_status_and_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_client() as client:
        process = await client.spawn(ChildSettings("fail", f"{CHILDREN}:fail"))
        assert await process.wait() == 70
    assert "ValueError: a child's own fault" in capfd.readouterr().err


async def test_a_request_waits_for_its_stage_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_gate.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(tmp_path / 'open')!r}): time.sleep(0.01)\n"
    )
    (tmp_path / "sample_quick.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with open_client([("quick", ["sample_quick"]), ("slow", ["sample_gate"])]) as client:
        # The template now waits within an import. Nothing can be forked until that ends.
        await until(lambda: "quick" in client.state.stages)
        assert client.state.status == "loading"
        answers: dict[str, dict[str, Any]] = {}
        async with trio.open_nursery() as nursery:

            async def ask(needs: str) -> None:
                answers[needs] = await facts_of(client, needs=needs, wanted="sample_quick,sample_gate")

            nursery.start_soon(ask, "slow")
            nursery.start_soon(ask, "base")
            await trio.sleep(0.05)
            (tmp_path / "open").touch()
        assert answers["slow"]["imported"] == ["sample_quick", "sample_gate"]
        await until(lambda: client.state.status == "ready")
        assert client.state.stages == ("base", "quick", "slow")


async def test_an_early_stage_is_served_between_the_modules_of_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = []
    for name in ("sample_gate_a", "sample_gate_b"):
        gates.append(tmp_path / f"{name}.open")
        (tmp_path / f"{name}.py").write_text(
            f"import os, time\nwhile not os.path.exists({str(gates[-1])!r}): time.sleep(0.01)\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    async with open_client([("slow", ["sample_gate_a", "sample_gate_b"])]) as client:
        await until(lambda: "base" in client.state.stages)
        facts: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                facts.update(await facts_of(client, wanted="sample_gate_a,sample_gate_b"))

            await trio.sleep(0.05)
            gates[0].touch()
        assert facts["imported"] == ["sample_gate_a"]  # the second import had not begun
        assert client.state.status == "loading"


async def test_a_stage_that_cannot_be_imported_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with open_client([("broken", ["sample_broken"]), ("late", [CHILDREN])]) as client:
        await until(lambda: client.state.status == "ready")
        assert client.state.stages == ("base", "late")
        for needs in ("broken", "unheard-of"):
            with pytest.raises(TemplateDownError, match=r"ZeroDivisionError|no stage unheard-of"):
                await facts_of(client, needs=needs)
        assert (await facts_of(client, needs="late"))["status"] == 7


async def test_a_template_killed_at_idle_is_replaced_before_anybody_asks() -> None:
    async with open_client() as client:
        await until(lambda: client.state.status == "ready")
        first = client.state.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: client.state.status == "ready" and client.state.pid != first)
        assert client.state.restarts == 1
        assert (await facts_of(client))["status"] == 7


async def test_a_template_killed_during_a_request_refuses_it_and_leaves_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample_gate.py").write_text("import time; time.sleep(3600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with open_client([("slow", ["sample_gate"])]) as client:
        await until(lambda: "base" in client.state.stages)
        pid = client.state.pid
        assert pid is not None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(TemplateDownError):
                    await client.spawn(ChildSettings("late", f"{CHILDREN}:sleep"), needs="slow")

            await trio.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        assert [child.pid for child in psutil.Process().children()] in ([], [client.state.pid])


async def test_a_template_that_does_not_answer_is_killed_and_what_it_still_forked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample_gate.py").write_text("import time; time.sleep(3600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(template_client, "LOADING_TIMEOUT", 0.2)
    async with open_client([("slow", ["sample_gate"])]) as client:
        await until(lambda: "base" in client.state.stages)
        first = client.state.pid
        assert first is not None
        with pytest.raises(TemplateDownError, match="did not answer"):
            await client.spawn(ChildSettings("late", f"{CHILDREN}:sleep"))
        assert not psutil.pid_exists(first)
        await until(lambda: client.state.pid not in (None, first))
        assert [child.pid for child in psutil.Process().children()] == [client.state.pid]


async def test_a_child_that_nobody_waits_for_any_more_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_client, "STOPPED_PERIOD", 60)
    monkeypatch.setattr(template_client, "is_stopped", lambda _: False)  # it only slows the template down here
    async with open_client() as client:
        await until(lambda: client.state.status == "ready")
        pid = client.state.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.spawn, ChildSettings("late", f"{CHILDREN}:sleep"))
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        os.kill(pid, signal.SIGCONT)
        await until(lambda: client.state.forks == 1)
        assert [child.pid for child in psutil.Process().children()] == [pid]


async def test_nothing_is_left_when_the_client_ends() -> None:
    before = open_descriptors()
    async with open_client() as client:
        for _ in range(3):
            await facts_of(client)
    assert psutil.Process().children() == []
    assert open_descriptors() == before


def is_running(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_starting_a_template_imports_nothing_heavy() -> None:
    program = """
    import sys
    from edgevpn.actors.template_start import start_template
    start_template().stop()
    print([name for name in ("trio", "tractor", "typing", "dataclasses", "json", "asyncio") if name in sys.modules])
    """
    told = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True, text=True)
    assert told.stdout.strip() == "[]"


_BEFORE_EXEC = """
import os, sys
from edgevpn.actors.template_start import start_template, hand_over
template = start_template([("late", ["tests.actors.sample_children"])])
fd, pid = hand_over(template)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], str(fd), str(pid), str(os.getpid())])
"""
_AFTER_EXEC = """
import os, signal, sys
import trio
from edgevpn.actors.child_entry import ChildSettings
from edgevpn.actors.template_client import TemplateClient
from edgevpn.actors.template_start import adopt_template
assert os.getpid() == int(sys.argv[3])
stages = [("late", ["tests.actors.sample_children"])]
template = adopt_template(int(sys.argv[1]), int(sys.argv[2]), stages)
assert not os.get_inheritable(int(sys.argv[1]))
async def main():
    client = TemplateClient(stages, template)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        child = await client.spawn(ChildSettings("after", "tests.actors.sample_children:sleep"), needs="late")
        print(client.state.pid, child.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def test_a_template_is_taken_up_again_after_an_exec_and_still_dies_with_us() -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", _BEFORE_EXEC, _AFTER_EXEC], stdout=subprocess.PIPE, text=True)
    with supervisor:
        try:
            assert supervisor.stdout is not None
            processes = [psutil.Process(int(pid)) for pid in supervisor.stdout.readline().split()]
            assert [process.ppid() for process in processes] == [supervisor.pid] * 2
            assert processes[0].name() == "edgevpn-template"
            processes[0].suspend()  # so that it can't see the end of its socket: only the kernel's word reaches it
        finally:
            supervisor.kill()
    deadline = time.monotonic() + 2
    while any(is_running(process.pid) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_no_template_is_not_taken_up() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(ChildProcessError):
            adopt_template(ours.fileno(), 1)
        child = subprocess.Popen([sys.executable, "-c", ""])
        with pytest.raises(OSError, match="not the socket of a template"):
            adopt_template(ours.detach(), child.pid)
        child.wait()


def test_a_template_whose_supervisor_is_gone_ends_at_once() -> None:
    template = start_template()
    template.socket.shutdown(socket.SHUT_WR)
    assert template.process.wait(timeout=20) == 0
    template.stop()
