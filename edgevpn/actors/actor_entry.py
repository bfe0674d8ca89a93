"""Where an actor's own code begins: the one function that tractor exposes in every actor.

`run_entry` imports the entry ("module:function") when it is called, so that an actor's imports fail, and are reported,
as the actor's own error. It runs only functions marked with `actor_entry`. What the entry raises reaches the
supervisor as one line; SystemExit and KeyboardInterrupt too, which would else leave a process without its task.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from edgevpn.actors import tractor_sockets  # noqa: F401 - puts the mends and the sockets on tractor
from edgevpn.actors.tractor_mends import QUIET, debugging, is_multi_cancelled, tractor

Entry = TypeVar("Entry", bound=Callable[..., Awaitable[Any]])
_MARK = "__edgevpn_actor_entry__"


class ActorError(Exception):
    """What an actor's entry raised, as one line."""


def actor_entry(function: Entry) -> Entry:
    """Mark `async def main(ctx, **kwargs)` as the entry of an actor.

    `ctx` is a tractor.Context; call `await ctx.started(value)` when the actor is ready. `kwargs` and `value` are
    msgpack's types. What it returns is msgpack's too, and ends the actor.
    """
    setattr(function, _MARK, True)
    return function


@tractor.context  # type: ignore[untyped-decorator]
async def run_entry(ctx: Any, entry: str, kwargs: dict[str, Any]) -> Any:
    """Import `entry` and run it. Called by the supervisor over tractor."""
    try:
        module, _, name = entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        if not getattr(function, _MARK, False):
            raise TypeError(f"{entry} is not marked as an actor's entry")
        return await function(ctx, **kwargs)
    except BaseException as error:
        if is_multi_cancelled(error):
            raise
        if debugging() and isinstance(error, Exception):
            raise _first(error) from None  # the crash prompt must open where it happened, not at a nursery's end
        raise ActorError(describe_error(error)) from error


def _first(error: BaseException) -> BaseException:
    """Of a group the first error that is not a cancellation."""
    while isinstance(error, BaseExceptionGroup):
        _, rest = error.split(trio.Cancelled)
        error = (rest or error).exceptions[0]
    return error


def describe_error(error: BaseException) -> str:
    """`Type: text` of the first error in `error` that is not a cancellation, in one line."""
    error = _first(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def run(name: str, uuid: str, directory: str, number: str, loglevel: str = "") -> None:
    """A child's whole life: be the actor that the parent asked for, until it is cancelled.

    The parent's tractor listens at the socket `number` in `directory`.
    """
    level = (
        None if loglevel.upper() in ("", QUIET) else loglevel
    )  # quiet it is, and to say so again walks over all loggers
    actor = tractor._actor.Actor(name, uid=uuid, loglevel=level, spawn_method="trio")
    tractor._entry._trio_main(actor, parent_addr=(directory, int(number)))
