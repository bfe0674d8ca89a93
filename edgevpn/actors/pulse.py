"""Notices an actor that hangs: a stopped process (SIGSTOP) or a blocked event loop, within 2 seconds.

The supervisor keeps a pipe to each ready actor, writes a byte every INTERVAL and reads it back from the actor's loop.
No answer for PATIENCE: it hangs. A pipe that ends is no hang: then the process is ending, which its owner sees.

Our own pauses must not count: when the supervisor itself was stopped, or the machine had no time for it, its clock has
run on while the actor's answer lay unread. A wait that took much longer than it was to take is therefore done again.
"""

from __future__ import annotations

from math import inf

import trio

from edgevpn.actors.client import ActorUnavailableError, Client, RefusedError
from edgevpn.proto.messages import Done, Heartbeat

INTERVAL = 0.7  # seconds
PATIENCE = 1.1  # seconds; the two together are what an actor may hang at most before it is noticed
_OVERSLEPT = 0.3  # seconds: so late a wake-up says that we were the ones who stood still


async def wait_until_hung(client: Client, *, interval: float = INTERVAL, patience: float = PATIENCE) -> bool:
    """True when the actor does not answer any more; False when the pipe ended, which says nothing about hanging."""
    try:
        _, pipe = await client.open_pipe(Heartbeat(), Done, timeout=inf)
    except (ActorUnavailableError, RefusedError):
        return False
    async with pipe:
        try:
            while True:
                await pipe.send_all(b".")
                if not await _answered(pipe, patience):
                    return True
                await trio.sleep(interval)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            return False


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
