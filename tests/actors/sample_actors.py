"""Actors for the tests of the tree: well-behaved ones, and every way to end badly."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from typing import Any

import trio

from edgevpn.actors.actor_entry import actor_entry
from edgevpn.actors.tractor_mends import tractor


@actor_entry
async def echo(ctx: Any, value: Any = None) -> Any:
    """Say where it runs, then return `value`."""
    await ctx.started({"pid": os.getpid(), "parent": os.getppid(), "value": value})
    return value


@actor_entry
async def serve(ctx: Any) -> None:
    """Run until cancelled."""
    await ctx.started(os.getpid())
    await trio.sleep_forever()


@actor_entry
async def describe(ctx: Any, variable: str = "", fd: int = -1) -> None:
    """Tell what the process is like, then run until cancelled."""
    status = (await trio.Path("/proc/self/status").read_text()).splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    await ctx.started(
        {
            "name": fields["Name"],
            "no_new_privs": fields["NoNewPrivs"],
            "native_id": threading.get_native_id() == os.getpid(),
            "random": random.random(),
            "modules": [name for name in ("colorsys", "this") if name in sys.modules],
            "variable": os.environ.get(variable),
            "uids": os.getresuid(),
            "nice": os.nice(0),
            "scheduler": os.sched_getscheduler(0),
            "read": os.read(fd, 100) if fd >= 0 else b"",
            "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "path": [entry for entry in sys.path if entry.rstrip("/").endswith(("actors", "tractor"))],
        }
    )
    await trio.sleep_forever()


@actor_entry
async def end(ctx: Any, how: str, started: bool = True) -> None:
    """End in the way that `how` names, before or after ctx.started."""
    if started:
        await ctx.started(os.getpid())
    match how:
        case "exception":
            raise ValueError("two\nlines")
        case "group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_exit_from_a_task)
        case "sys.exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "_exit":
            os._exit(3)
        case "segv":
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "spin":
            while True:
                time.sleep(3600)  # noqa: ASYNC251 - this actor hangs
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "refuse":
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        case "forget":
            return
    await trio.sleep_forever()


async def _exit_from_a_task() -> None:
    sys.exit(4)


async def count_contexts() -> int:
    """How many dialogs tractor remembers in this actor; a plain call, not an entry."""
    return len(tractor.current_actor()._contexts)


@tractor.context  # type: ignore[untyped-decorator]
async def end_in_context(ctx: Any, how: str) -> None:
    """`end`, before it has started, as tractor itself would call it."""
    await end(ctx, how, started=False)


async def unmarked(ctx: Any) -> None:
    """Is no actor's entry."""
    await ctx.started()
