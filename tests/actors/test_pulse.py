"""Who counts as hung, with a virtual clock and a real mailbox for the end-to-end half (tests/netns)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from edgevpn.actors.client import ActorUnavailableError
from edgevpn.actors.pulse import INTERVAL, PATIENCE, echo, wait_until_hung


class OnePipe:
    """A client whose pipe is `stream`, once."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream: trio.abc.Stream | None = stream
        self.asked = 0

    async def open_pipe(self, *_: object, timeout: float) -> tuple[None, trio.abc.Stream]:
        self.asked += 1
        stream, self._stream = self._stream, None
        if stream is None:
            await self.wait_in_vain(timeout)
        assert stream is not None
        return None, stream

    async def wait_in_vain(self, timeout: float) -> None:
        await trio.sleep(timeout)
        raise ActorUnavailableError("nobody listens")


class Refused(OnePipe):
    """A client whose later pipes are refused at once."""

    async def wait_in_vain(self, timeout: float) -> None:
        raise ActorUnavailableError("it went away before it answered")


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
        assert await wait_until_hung(client) == "it does not answer"
    assert 10 <= trio.current_time() - began <= 12
    assert INTERVAL + PATIENCE < 2


@pytest.mark.parametrize("kind", [OnePipe, Refused])
async def test_an_actor_that_serves_nobody_any_more_is_of_no_use(
    autojump_clock: trio.testing.MockClock, kind: type[OnePipe]
) -> None:
    ours, actor = trio.testing.memory_stream_pair()
    client: Any = kind(ours)
    await actor.aclose()
    began = trio.current_time()
    assert await wait_until_hung(client) == "it lives, but serves nobody"
    assert 1 < trio.current_time() - began < 2


async def test_a_pipe_that_ends_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    pairs = [trio.testing.memory_stream_pair() for _ in range(3)]

    class Pipes:
        async def open_pipe(self, *_: object, timeout: float) -> tuple[None, trio.abc.Stream]:
            return None, pairs[len(told)][0]

    told: list[int] = []
    client: Any = Pipes()

    async def answer_a_little() -> None:
        for number, (_, actor) in enumerate(pairs):
            for _ in range(2):
                await actor.send_all(await actor.receive_some(16))
            if number < 2:
                told.append(number)
                await actor.aclose()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_a_little)
        assert await wait_until_hung(client) == "it does not answer"
    assert told == [0, 1]
    assert trio.current_time() - began > 3 * INTERVAL + PATIENCE


async def test_our_own_pause_while_we_wait_for_a_pipe_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    class Paused:
        tries = 0

        async def open_pipe(self, *_: object, timeout: float) -> tuple[None, trio.abc.Stream]:
            self.tries += 1
            if self.tries == 1:
                autojump_clock.jump(60)  # as after SIGCONT
                raise ActorUnavailableError("in vain")
            await trio.sleep_forever()
            raise AssertionError

    client: Any = Paused()
    with trio.move_on_after(70) as scope:
        await wait_until_hung(client)
    assert scope.cancelled_caught
    assert client.tries == 2


async def test_a_supervisor_that_stood_still_gives_its_actors_their_patience_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    client, actor = client_and_actor()
    found: list[str] = []

    async def watch() -> None:
        found.append(await wait_until_hung(client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60)  # nobody ran: neither we nor the actor
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(PATIENCE * 0.9)
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        await actor.send_all(await actor.receive_some(16))
        await trio.testing.wait_all_tasks_blocked()
        assert not found
        nursery.cancel_scope.cancel()


async def test_an_idle_supervisor_wakes_once_a_beat_for_all_its_actors(autojump_clock: trio.testing.MockClock) -> None:
    class Wakes(trio.abc.Instrument):
        def __init__(self) -> None:
            self.beats: set[float] = set()

        def after_io_wait(self, timeout: float) -> None:
            if timeout:
                self.beats.add(round(trio.current_time(), 6))

    async with trio.open_nursery() as nursery:
        for delay in (0.0, 0.13, 0.41):
            client, actor = client_and_actor()
            nursery.start_soon(echo, actor)
            await trio.sleep(delay)
            nursery.start_soon(wait_until_hung, client)
        await trio.sleep(2)
        wakes = Wakes()
        trio.lowlevel.add_instrument(wakes)
        await trio.sleep(80)
        trio.lowlevel.remove_instrument(wakes)
        nursery.cancel_scope.cancel()
    assert len(wakes.beats) <= 80 / INTERVAL + 2
