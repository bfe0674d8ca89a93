"""What a child process does before it becomes an actor, whether it was forked from the template or spawned plainly.

`ChildSettings` says what the child is to be; it travels as JSON (over the template's socket, or as the argument of
`python -m edgevpn.actors.child_entry`). `run_child` puts the settings on and calls the function they name; it ends in
os._exit whatever happens: a forked child must never return into the template's stack nor run its exit handlers.

The order matters: descriptors first, the working directory while we may still go there, the title before setuid
(afterwards /proc/self belongs to root), no_new_privs and the parent-death signal after setuid (a change of credentials
clears the latter), then the check that the parent is still there, and the system-call filter last.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from edgevpn.actors import linux_process, readable_imports, real_time

_FAILED = 70  # EX_SOFTWARE, the exit status of a child whose function raised


@dataclass(frozen=True, slots=True)
class User:
    """Whom a child runs as: numeric user, group, further groups."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What a child process is to be. `run` is "module:function", called with the strings of `arguments`.

    `directory` is its working directory: what is in it can be reached by a relative path, even by who may not pass the
    directories above. `descriptors` are the numbers that the passed descriptors get in the child, in their order.
    `limits` are setrlimit's, by name ("RLIMIT_NOFILE": (soft, hard)). `real_time`: with real_time.py's priority, where
    the system allows it. `preload` are modules to import before the change to `user`, who may not be able to read them
    (an installation in root's home). `hidden`: no other process may look into its memory. `confinement`: a profile of
    seccomp_profile. `debugger` loads the real debugger.
    """

    title: str
    run: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()
    nice: int = 0
    cpus: Sequence[int] = ()
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    real_time: bool = False
    user: User | None = None
    preload: Sequence[str] = ()
    no_new_privileges: bool = True
    directory: str = ""
    hidden: bool = False
    confinement: str = ""
    debugger: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ChildSettings:
        """From what `to_json` made. Raises TypeError."""
        user = values.get("user")
        return cls(**{**values, "user": User(**user) if user else None})


def run_child(
    settings: ChildSettings,
    descriptors: Sequence[int],
    parent_pid: int,
    title: linux_process.TitleArea,
    randoms: Sequence[random.Random] = (),
) -> NoReturn:
    """Become what `settings` say, run its function, and exit with what it returns (0 for None)."""
    status = _FAILED
    try:
        _put_on(settings, descriptors, parent_pid, title, randoms)
        status = _load(settings.run)(*settings.arguments) or 0
    except SystemExit as exit_request:
        status = exit_request.code if isinstance(exit_request.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of this process: print what it was, then end
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _put_on(
    settings: ChildSettings,
    descriptors: Sequence[int],
    parent_pid: int,
    title: linux_process.TitleArea,
    randoms: Sequence[random.Random],
) -> None:
    for number in linux_process.caught_signals():  # to ask for all of them by signal's names touches 50 pages
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # ^C, a closed terminal and service managers reach the whole group; the supervisor is told too, and ends us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for generator in randoms:  # forked siblings would all draw the same numbers
        generator.seed()
    _place_descriptors(descriptors, settings.descriptors)
    if settings.directory:
        os.chdir(settings.directory)
    for name, value in settings.environment.items():  # os.environ.update() touches 50 pages more
        os.environ[name] = value
    title.write(settings.title)
    if settings.nice:
        os.setpriority(os.PRIO_PROCESS, 0, settings.nice)
    if settings.cpus:
        os.sched_setaffinity(0, settings.cpus)
    if settings.real_time:
        real_time.take()
    for name, (soft, hard) in settings.limits.items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if settings.user is not None:
        readable_imports.keep_readable_once()
        _import_first((settings.run.partition(":")[0], *settings.preload))
        os.setgroups(settings.user.groups)
        os.setresgid(settings.user.gid, settings.user.gid, settings.user.gid)
        os.setresuid(settings.user.uid, settings.user.uid, settings.user.uid)
    if settings.no_new_privileges:
        linux_process.forbid_new_privileges()
    if settings.hidden:
        linux_process.hide_memory()
    linux_process.die_with_parent(parent_pid)
    if settings.confinement:
        from edgevpn.actors import seccomp_profile  # the template has it; a plain child without a profile needs it not

        if why := seccomp_profile.confine(settings.confinement):
            print(f"{settings.title} runs without a system-call filter: {why}", file=sys.stderr)
    gc.enable()


def _import_first(modules: Sequence[str]) -> None:
    for module in modules:
        # Whatever an import raises, it raises again where the module is really needed, and is reported from there.
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def _place_descriptors(received: Sequence[int], wanted: Sequence[int]) -> None:
    """Move each received descriptor to its wanted number, also when the two sets overlap."""
    if len(received) != len(wanted):
        raise ValueError(f"{len(received)} descriptors came, {len(wanted)} were announced")
    floor = max((*received, *wanted, 2)) + 1
    moved = []
    for fd in received:  # first out of the way of every wanted number
        moved.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, floor))
        os.close(fd)
    for fd, number in zip(moved, wanted, strict=True):
        os.dup2(fd, number, inheritable=number <= 2)
        os.close(fd)


def _load(name: str) -> Callable[..., int | None]:
    module, _, function = name.partition(":")
    loaded: Callable[..., int | None] = getattr(importlib.import_module(module), function)
    return loaded


def main(arguments: Sequence[str]) -> NoReturn:
    """The plain spawn: `python -m edgevpn.actors.child_entry SETTINGS PARENT_PID FD,FD...`."""
    settings = ChildSettings.from_json(json.loads(arguments[0]))
    descriptors = [int(fd) for fd in arguments[2].split(",") if fd]
    os.environ.pop("PYTHONPATH", None)  # it was for our own imports, see template_start.python_environment
    if settings.debugger:
        from edgevpn.actors import tractor_mends  # the debugger must come before any actor code

        tractor_mends.load_debugger()
    run_child(settings, descriptors, int(arguments[1]), linux_process.TitleArea())


if __name__ == "__main__":
    from edgevpn.actors import child_entry  # noqa: PLW0406 - the copy that others import, not __main__

    child_entry.main(sys.argv[1:])
