"""Notices an actor that hangs: a stopped process (SIGSTOP) or a blocked event loop, within 2 seconds.

The supervisor keeps a pipe to each ready actor, writes a byte every INTERVAL and reads it back from the actor's loop.
No answer for PATIENCE: it hangs. A pipe that ends is no hang by itself, for the process may be ending, which its owner
sees; but one that can't be had again within AWAY is: then the actor lives without serving anybody. (A MemoryError in
the middle of trio does that: the mailbox is closed, and something still waits for ever.)

Our own pauses must not count: when the supervisor itself was stopped, or the machine had no time for it, its clock has
run on while the actor's answer lay unread. A wait that took much longer than it was to take is therefore done again.
"""

from __future__ import annotations

import trio

from edgevpn.actors.channel import Pipe
from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError
from edgevpn.proto.messages import Done, Heartbeat

INTERVAL = 0.7  # seconds
PATIENCE = 1.1  # seconds; the two together are what an actor may hang at most before it is noticed
AWAY = INTERVAL + PATIENCE  # seconds until a ready actor must have given us a pipe
_RETRY = 0.05
_OVERSLEPT = 0.3  # seconds: so late a wake-up says that we were the ones who stood still


async def wait_until_hung(client: Client, *, interval: float = INTERVAL, patience: float = PATIENCE) -> str:
    """Why the actor is of no use any more, a line. To be cancelled at the end of its process."""
    while (pipe := await _pipe_to(client, interval + patience)) is not None:
        async with pipe:
            try:
                while True:
                    await pipe.send_all(b".")
                    if not await _answered(pipe, patience):
                        return "it does not answer"
                    await trio.sleep(interval)
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


async def _answered(pipe: trio.abc.ReceiveStream, patience: float) -> bool:
    while True:
        began = trio.current_time()
        with trio.move_on_after(patience):
            if not await pipe.receive_some(1):
                raise EOFError
            return True
        if trio.current_time() - began < patience + _OVERSLEPT:
            return False


async def echo(stream: trio.abc.Stream) -> None:
    """The actor's half: send back what comes, until the other end goes."""
    async with stream:
        try:
            while data := await stream.receive_some(16):
                await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
