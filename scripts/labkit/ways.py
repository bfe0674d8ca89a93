"""The ways an actor is brought to its end, none of which needs the actor's consent or a hook in it.

Signals come from outside, as from the kernel or a person. `exit`, `exception` and the hoarding of `memory` run inside
the actor, typed at its own prompt (`edgevpn repl`). `memory` and `fds` are limits that the kernel puts on the running
process (prlimit(2)): the next allocation, the next descriptor fails where it happens to be. An actor may live through
these two; then the limit is lifted, and it must be of use again.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgevpn.cli import direct
from edgevpn.errors import EdgevpnError
from edgevpn.proto.messages import Done, OpenRepl
from edgevpn.proto.prompt_frames import Run, encode
from scripts.labkit.processes import set_soft_limit, soft_limit, virtual_size

_ROOM = 2 << 20  # bytes of address space left to one that is to run out of it
_BOOM = """\
async def _boom():
    raise RuntimeError("chaos")
actor._nursery.start_soon(_boom)
"""
_HOARD = """\
_hoard, _size = [], 1 << 20
while _size > 64:
    try:
        _hoard.append(bytearray(_size))
    except MemoryError:
        _size //= 2
"""

Lift = Callable[[], None]  # takes back what was done, as far as it is more than a signal


@dataclass(frozen=True, slots=True)
class Way:
    """`do(run_dir, actor, pid)` starts it. `hangs`: the end must come by the supervisor's hand. `may_live`: see above.

    `template`: whether it can be done to the template, which has no prompt.
    """

    name: str
    do: Callable[[Path, str, int], Lift]
    hangs: bool = False
    may_live: bool = False
    template: bool = False


def _by(number: int) -> Callable[[Path, str, int], Lift]:
    def send(_run_dir: Path, _actor: str, pid: int) -> Lift:
        os.kill(pid, number)
        return _nothing

    return send


def _nothing() -> None:
    """There is nothing to take back."""


def _typed(source: str) -> Callable[[Path, str, int], Lift]:
    def run(run_dir: Path, actor: str, _pid: int) -> Lift:
        return type_into(run_dir, actor, source).close

    return run


def type_into(run_dir: Path, actor: str, source: str) -> socket.socket:
    """Type at an actor's prompt and wait for no answer; the prompt lasts until the socket is closed. Raises
    EdgevpnError, OSError."""
    pipe, _ = direct.open_pipe(run_dir, actor, OpenRepl(), Done)
    try:
        pipe.sendall(encode(Run(source)))
    except BaseException:
        pipe.close()
        raise
    return pipe


def _limited(pid: int, option: str, line: str, value: int) -> Lift:
    before = soft_limit(pid, line)
    set_soft_limit(pid, option, str(value))

    def lift() -> None:
        with suppress(OSError):  # it has ended
            set_soft_limit(pid, option, before)

    return lift


def _out_of_memory(run_dir: Path, actor: str, pid: int) -> Lift:
    unlimited = _limited(pid, "as", "Max address space", virtual_size(pid) + _ROOM)
    pipe: socket.socket | None = None
    with suppress(EdgevpnError, OSError):  # it had too little already
        pipe = type_into(run_dir, actor, _HOARD)

    def lift() -> None:
        unlimited()
        if pipe is not None:
            pipe.close()

    return lift


def _out_of_descriptors(_run_dir: Path, _actor: str, pid: int) -> Lift:
    return _limited(pid, "nofile", "Max open files", 3)  # every one that is free is over it


WAYS = {
    way.name: way
    for way in (
        Way("kill", _by(signal.SIGKILL), template=True),
        Way("segv", _by(signal.SIGSEGV), template=True),
        Way("stop", _by(signal.SIGSTOP), hangs=True, template=True),
        Way("exit", _typed("import os; os._exit(3)")),
        Way("exception", _typed(_BOOM)),
        Way("memory", _out_of_memory, may_live=True),
        Way("fds", _out_of_descriptors, may_live=True),
    )
}
