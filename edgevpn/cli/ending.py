"""How a command ends: what ended it becomes one line on stderr and an exit code (edgevpn/errors.py).

Of several errors at once the first that is meant for the user is told. The traceback is shown with --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from edgevpn.errors import EdgevpnError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def run_guarded(work: Callable[[], int], *, debug: Callable[[], bool]) -> int:
    """Call `work` and turn whatever ends it into an exit code and at most one line on stderr.

    `debug`: asked after a failure, whether to show its traceback.
    """
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Keep the interpreter from trying, and failing, to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except BaseException as exc:
        if isinstance(exc, SystemExit):
            raise
        if debug():
            import traceback

            traceback.print_exception(exc)
        reason = _reason(exc)
        if isinstance(reason, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        if isinstance(reason, EdgevpnError):
            complain(str(reason))
            return reason.exit_code
        complain(f"unexpected {type(reason).__name__}: {reason} (run it with --debug for the traceback)")
        return 1
    return code


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"edgevpn: {' '.join(text.split())}", file=sys.stderr)


def _reason(exc: BaseException) -> BaseException:
    """What to tell of `exc`: of a group's leaves the first meant for the user, else an interrupt, else the first."""
    leaves = list(_leaves(exc))
    for kind in (EdgevpnError, KeyboardInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(exc: BaseException) -> Iterable[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
