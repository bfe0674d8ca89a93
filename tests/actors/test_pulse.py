"""Who counts as hung, with a virtual clock and a real mailbox for the end-to-end half (tests/netns)."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from edgevpn.actors.pulse import INTERVAL, PATIENCE, echo, wait_until_hung


class OnePipe:
    """A client whose pipe is `stream`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def open_pipe(self, *_: object, **__: object) -> tuple[None, trio.abc.Stream]:
        return None, self._stream


def client_and_actor() -> tuple[Any, trio.abc.Stream]:
    ours, theirs = trio.testing.memory_stream_pair()
    return OnePipe(ours), theirs


async def test_an_actor_that_answers_is_let_live(autojump_clock: trio.testing.MockClock) -> None:
    client, actor = client_and_actor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, actor)
        with trio.move_on_after(1000) as scope:
            await wait_until_hung(client)
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_silence_is_noticed_within_two_seconds_of_its_beginning(autojump_clock: trio.testing.MockClock) -> None:
    client, actor = client_and_actor()

    async def answer_for_10_s() -> None:
        with trio.move_on_after(10):
            while True:
                await actor.send_all(await actor.receive_some(16))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_for_10_s)
        assert await wait_until_hung(client) is True
    assert 10 <= trio.current_time() - began <= 12
    assert INTERVAL + PATIENCE < 2


async def test_an_actor_that_goes_is_not_called_hung(autojump_clock: trio.testing.MockClock) -> None:
    client, actor = client_and_actor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.testing.wait_all_tasks_blocked)
        await actor.aclose()
        assert await wait_until_hung(client) is False
