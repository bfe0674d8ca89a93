"""The thread that waits for packets."""

from __future__ import annotations

import os
import threading

import pytest
import trio
import trio.testing

from edgevpn.tun.packet_thread import PacketThread


async def test_handlers_run_in_the_thread_whenever_there_is_something_to_read(nursery: trio.Nursery) -> None:
    thread = PacketThread()
    nursery.start_soon(thread.run)
    reading, writing = os.pipe()
    got: list[tuple[bytes, bool]] = []
    seen = trio.Event()

    def handler() -> None:
        got.append((os.read(reading, 100), threading.current_thread() is threading.main_thread()))
        thread.in_trio(seen.set)

    thread.add(reading, handler)
    with trio.fail_after(5):
        for word in (b"one", b"two"):
            os.write(writing, word)
            await seen.wait()
            seen = trio.Event()
    assert got == [(b"one", False), (b"two", False)]
    thread.remove(reading)
    thread.remove(reading)
    os.write(writing, b"three")
    await trio.sleep(0.02)
    assert len(got) == 2
    os.close(reading)
    os.close(writing)


async def test_a_handler_may_mute_itself(nursery: trio.Nursery) -> None:
    thread = PacketThread()
    nursery.start_soon(thread.run)
    reading, writing = os.pipe()
    calls = 0
    seen = trio.Event()

    def handler() -> None:
        nonlocal calls
        calls += 1
        thread.mute(reading)
        thread.in_trio(seen.set)

    thread.add(reading, handler)
    os.write(writing, b"x")
    with trio.fail_after(5):
        await seen.wait()
    await trio.sleep(0.02)
    assert calls == 1
    os.close(reading)
    os.close(writing)


async def test_a_handler_that_fails_ends_the_actor_not_just_the_thread() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")

    def handler() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(5):  # noqa: PT012
        thread = PacketThread()
        thread.add(reading, handler)
        await thread.run()
    assert caught.group_contains(ZeroDivisionError)
    os.close(reading)
    os.close(writing)


async def test_cancelling_ends_the_thread() -> None:
    thread = PacketThread()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_timer_is_called_when_its_time_is_over_and_after_each_turn(nursery: trio.Nursery) -> None:
    thread = PacketThread()
    calls = 0
    enough = trio.Event()

    def timer() -> float | None:
        nonlocal calls
        calls += 1
        if calls == 5:
            thread.in_trio(enough.set)
        return 0.002 if calls < 5 else None

    thread.add_timer(timer)
    nursery.start_soon(thread.run)
    with trio.fail_after(5):
        await enough.wait()
    await trio.sleep(0.02)
    assert calls == 5
