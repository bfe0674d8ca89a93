"""Has one thing done by a process of its own, which ends with it.

For what needs a large library once: were it imported here, its memory would stay with a process that lives for ever,
and its import would hold up the start. The job is a fork of this process, so it may use everything that is there,
and it runs beside us until we ask for its outcome.

Begin one before this process has threads (a fork takes only one of them along), and from the main thread, with which
the job's process dies (linux_process.die_with_parent).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from traceback import format_exc
from typing import NoReturn, ParamSpec

from edgevpn.actors import linux_process
from edgevpn.errors import EdgevpnError, SetupError, UsageError

P = ParamSpec("P")
_KINDS: dict[str, type[EdgevpnError]] = {kind.__name__: kind for kind in (SetupError, UsageError)}
_READ = 65536


class SideJob:
    """One call of a function in a process of its own, begun by making this object. Raises OSError, RuntimeError.

    Its result is not passed on, only how it failed.
    """

    def __init__(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        if linux_process.count_threads() != 1:
            raise RuntimeError("a process with several threads can't be forked safely")
        self._name = function.__qualname__
        parent = os.getpid()
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reading)
            os.close(writing)
            raise
        if self._pid == 0:
            _do(parent, writing, lambda: function(*args, **kwargs))
        os.close(writing)

    def finish(self) -> None:
        """Wait until it is done. Raises what it raised: SetupError, UsageError; RuntimeError for anything else."""
        if self._pid <= 0:
            return
        told = b""
        while data := os.read(self._reading, _READ):
            told += data
        status = self._reap()
        if told:
            kind, text = json.loads(told)
            raise _KINDS.get(kind, RuntimeError)(text)
        if status:
            raise RuntimeError(f"{self._name} ended with status {status}")

    def abandon(self) -> None:
        """End it if it still runs; it does nothing when it is done."""
        if self._pid > 0:
            os.kill(self._pid, signal.SIGKILL)  # our child, not reaped yet: the pid can't be another's
            self._reap()

    def _reap(self) -> int:
        pid, self._pid = self._pid, 0
        os.close(self._reading)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _do(parent: int, writing: int, work: Callable[[], object]) -> NoReturn:
    """The process's whole life; never back into the caller's stack, nor through its exit handlers."""
    status = 1
    try:
        linux_process.die_with_parent(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group: our parent decides
        work()
        status = 0
    except EdgevpnError as exc:
        _tell(writing, type(exc).__name__, str(exc))
    except BaseException:  # noqa: BLE001 - the last frame of this process
        _tell(writing, "", format_exc().strip())
    finally:
        os._exit(status)


def _tell(writing: int, kind: str, text: str) -> None:
    data = json.dumps([kind, text]).encode()
    while data:
        data = data[os.write(writing, data) :]
