"""Notices an actor that hangs: a stopped process (SIGSTOP) or a blocked event loop, within 2 seconds.

The supervisor keeps a pipe to each ready actor. At each beat it reads the actor's answer to the beat before, and writes
a byte, which the actor's loop sends back. No answer for PATIENCE: it hangs. A pipe that ends is no hang by itself, for
the process may be ending, which its owner sees; but one that can't be had again within AWAY is: then the actor lives
without serving anybody. (A MemoryError in the middle of trio does that: the mailbox is closed, and something still
waits for ever.)

All actors have the same beat, and nobody waits for an answer that comes in time: so an idle supervisor wakes once a
beat, however many actors it has.

Our own pauses must not count: when the supervisor itself was stopped, or the machine had no time for it, its clock has
run on while the actor's answer lay unread. A wait that took much longer than it was to take is therefore done again.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor

import trio

from edgevpn.actors.channel import Pipe
from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError
from edgevpn.proto.messages import Done, Heartbeat

INTERVAL = 0.8  # seconds
PATIENCE = 1.0  # seconds; the two together are what an actor may hang at most before it is noticed
AWAY = INTERVAL + PATIENCE  # seconds until a ready actor must have given us a pipe
_RETRY = 0.05
_SAME = 0.01  # seconds: so near to a beat it is this beat, whichever way its number was rounded
_OVERSLEPT = 0.3  # seconds: so late a wake-up says that we were the ones who stood still


async def wait_until_hung(client: Client, *, interval: float = INTERVAL, patience: float = PATIENCE) -> str:
    """Why the actor is of no use any more, a line. To be cancelled at the end of its process."""
    while (pipe := await _pipe_to(client, interval + patience)) is not None:
        async with pipe:
            try:
                while True:
                    await pipe.send_all(b".")
                    sent = trio.current_time()
                    beat = (floor((sent + _SAME) / interval) + 1) * interval
                    await trio.sleep_until(beat)
                    overslept = trio.current_time() - beat >= _OVERSLEPT
                    left = patience if overslept else patience - (beat - sent)
                    if not await _answered(pipe, left, patience):
                        return "it does not answer"
            except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                await trio.sleep(_RETRY)
    return "it lives, but serves nobody"


async def _pipe_to(client: Client, away: float) -> Pipe | None:
    """None when there is none to be had for so long."""
    deadline = trio.current_time() + away
    while (left := deadline - (began := trio.current_time())) > 0:
        try:
            return (await client.open_pipe(Heartbeat(), Done, timeout=left))[1]
        except (ActorUnavailableError, RefusedError):
            if trio.current_time() > began + left + _OVERSLEPT:
                deadline = trio.current_time() + away
            await trio.sleep(_RETRY)
    return None


async def _answered(pipe: trio.abc.ReceiveStream, left: float, patience: float) -> bool:
    """Whether the answer comes in `left` seconds, and if we stood still meanwhile, in `patience` more."""
    while True:
        began = trio.current_time()
        with trio.move_on_after(left):
            if not await pipe.receive_some(1):
                raise EOFError
            return True
        if trio.current_time() - began < left + _OVERSLEPT:
            return False
        left = patience


async def echo(stream: trio.abc.Stream, on_beat: Callable[[], None] = lambda: None) -> None:
    """The actor's half: send back what comes, until the other end goes. `on_beat` is called at each."""
    async with stream:
        try:
            while data := await stream.receive_some(16):
                await stream.send_all(data)
                on_beat()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
