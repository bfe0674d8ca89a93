"""Runs the source that a prompt was given: top-level await, and nothing may keep the actor's loop to itself.

The supervisor takes an actor that does not answer for dead (pulse.py), so a step of the code, from one await to the
next, is interrupted after HOLD_LIMIT seconds.
"""

from __future__ import annotations

import ast
import inspect
import signal
import traceback
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio

HOLD_LIMIT = 0.8  # seconds
_FILENAME = "<repl>"


async def run_source(source: str, names: dict[str, Any]) -> object:
    """Run Python source in `names`; what its last expression was worth, None if it ends in no expression."""
    tree = ast.parse(source, _FILENAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if tree.body:
        await _execute(compile(tree, _FILENAME, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if not isinstance(last, ast.Expr):
        return None
    return await _execute(compile(ast.Expression(last.value), _FILENAME, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)


async def _execute(code: types.CodeType, names: dict[str, Any]) -> object:
    function = types.FunctionType(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        return await _Watched(function())
    with _TimeLimit():
        return function()


class HeldTooLongError(Exception):
    """Code at the prompt kept the actor from everything else."""


class _Watched:
    """Awaits a coroutine, each of whose steps may take HOLD_LIMIT seconds."""

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, object]:
        step: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            try:
                with _TimeLimit():
                    yielded = step(value)
            except StopIteration as end:
                return end.value
            try:
                value = yield yielded
                step = self._coroutine.send
            except BaseException as exc:  # noqa: BLE001 - it goes to the coroutine, as `await` would have it
                value = exc
                step = self._coroutine.throw


class _TimeLimit:
    """Interrupts what runs within, in the main thread, when it takes longer than HOLD_LIMIT (setitimer(2))."""

    def __enter__(self) -> None:
        self._held = True
        self._before = signal.signal(signal.SIGALRM, self._too_long)
        signal.setitimer(signal.ITIMER_REAL, HOLD_LIMIT, 0.1)  # again, if the code takes no notice

    def __exit__(self, *_: object) -> None:
        self._held = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _too_long(self, *_: object) -> None:
        if self._held:
            raise HeldTooLongError(
                f"this ran for {HOLD_LIMIT} s without an await, while the actor stood still: "
                f"put `await trio.sleep(0)` in its loop, or use trio.to_thread.run_sync"
            )


def is_cancellation(exc: BaseException) -> bool:
    """Whether `exc` is trio's way of ending what runs, and must go on."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def format_error(exc: BaseException) -> str:
    """The traceback from the typed code on, without the frames of this module."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != _FILENAME:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(exc), exc, trace))
