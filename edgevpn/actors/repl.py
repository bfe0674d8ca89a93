"""A Python prompt inside a running actor, with top-level await.

`run_code` runs a piece of source to its end and returns what it printed and what its last expression was worth.
`converse` serves an interactive prompt over a pipe: one line of source comes in at a time; what it says goes out,
and then PROMPT_MARK, the next prompt and PROMPT_MARK again, by which the terminal's side knows that it is its turn.

Whoever can open the actor's socket (root, or the user it runs as) can run code in it: that is the point, and the
mailbox's credential check is its guard.
"""

from __future__ import annotations

import ast
import codeop
import contextlib
import inspect
import io
import pprint
import traceback
import types
from typing import Any

import trio

from edgevpn.proto.messages import CodeResult

PROMPT_MARK = b"\0"
MAX_LINE = 1 << 20
_FILENAME = "<repl>"


async def run_code(source: str, namespace: dict[str, Any]) -> CodeResult:
    """Run `source` in `namespace`. Errors of the code are in the result; Cancelled is passed on."""
    printed = io.StringIO()
    try:
        tree = ast.parse(source, _FILENAME)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            if tree.body:
                await _execute(compile(tree, _FILENAME, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
            if isinstance(last, ast.Expr):
                expression = ast.Expression(last.value)
                code = compile(expression, _FILENAME, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                value = await _execute(code, namespace)
                if value is not None:
                    namespace["_"] = value
                    print(_pretty(value))  # into `printed`
    except trio.Cancelled:
        raise
    except BaseException as exc:  # noqa: BLE001 - the code of a person at a prompt may raise anything, SystemExit too
        return CodeResult(printed.getvalue(), _format(exc))
    return CodeResult(printed.getvalue(), "")


async def converse(stream: trio.abc.HalfCloseableStream, namespace: dict[str, Any], banner: str) -> None:
    """Serve a prompt until the other side closes."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    pending: list[str] = []
    received = bytearray()
    await stream.send_all(banner.encode() + _prompt(">>> "))
    async for chunk in stream:
        received += chunk
        if len(received) > MAX_LINE:
            return
        while (end := received.find(b"\n")) >= 0:
            pending.append(received[:end].decode(errors="replace"))
            del received[: end + 1]
            source = "\n".join(pending)
            try:
                complete = compiler(source, _FILENAME, "single") is not None
            except (SyntaxError, ValueError, OverflowError):
                complete = True  # run_code reports it
            if not complete:
                await stream.send_all(_prompt("... "))
                continue
            pending.clear()
            result = await run_code(source, namespace)
            await stream.send_all((result.output + result.error).encode(errors="replace") + _prompt(">>> "))


def _prompt(text: str) -> bytes:
    return PROMPT_MARK + text.encode() + PROMPT_MARK


async def _execute(code: types.CodeType, namespace: dict[str, Any]) -> Any:
    result = types.FunctionType(code, namespace)()
    if code.co_flags & inspect.CO_COROUTINE:
        return await result
    return result


def _pretty(value: object) -> str:
    return value if isinstance(value, str) and "\n" in value else pprint.pformat(value, width=110, compact=True)


def _format(exc: BaseException) -> str:
    """The traceback from the typed code on, without the frames of this module."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != _FILENAME:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(exc), exc, trace))
