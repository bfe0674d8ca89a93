"""tractor's connections over Unix sockets in a directory of the node's own, instead of TCP on the loopback.

tractor authenticates nobody: over TCP every local user could call, cancel and debug a node's actors. Here its
addresses ("host", port) mean the socket `<host>/<port>`: the host is the directory's path, the port is the pid of the
process that listens. The rights are the authentication: an actor's socket is its user's alone (and root's, who needs no
right), the supervisor's is its group's, and so is the directory, in which nobody can remove what is another's. Actors
reach it from their working directory, the run directory: they may not be able to pass the ones above it.

Importing this module puts it on tractor, after the mends.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from edgevpn.actors.tractor_mends import tractor
from edgevpn.errors import SetupError

if TYPE_CHECKING:
    from trio_typing import TaskStatus

_LONGEST_PATH = 107  # sun_path of unix(7), without its final zero
_LONGEST_NUMBER = len(str(2**22))  # pid_max
_BACKLOG = 64
CHILDS_DIRECTORY = "./tractor"  # as an actor sees it


def prepare_directory(directory: Path, group: int | None = None) -> None:
    """Make `directory` (ours alone, unless actors of `group` are to have sockets in it) and remove the sockets of
    processes that are gone.

    Raises SetupError.
    """
    if len(os.fsencode(directory)) + 1 + _LONGEST_NUMBER > _LONGEST_PATH:
        raise SetupError(f"the run directory's path is too long for sockets: {directory}; choose a shorter one")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        if group is not None:
            os.chown(directory, -1, group)
            directory.chmod(0o3730)  # the group may add sockets, which stay in the group, and removes only its own
        for entry in directory.iterdir():
            if entry.name.isdigit() and not Path("/proc", entry.name).exists():
                entry.unlink()
    except OSError as error:
        raise SetupError(f"can't prepare {directory}: {error.strerror}; choose another run directory") from error


def remove_socket(directory: Path, pid: int) -> None:
    """Remove the socket of a process that has ended; killed ones leave theirs behind."""
    with contextlib.suppress(FileNotFoundError):
        (directory / str(pid)).unlink()


def _path(directory: object, number: object) -> str:
    if not str(directory).startswith(("/", CHILDS_DIRECTORY)):
        raise RuntimeError(f"tractor asked for the address {directory!r}:{number!r}, which is no socket's path")
    return f"{directory}/{number}"


async def open_stream(directory: str, number: int, **_options: Any) -> trio.SocketStream:
    """Connect to the actor `number`. Takes the place of trio.open_tcp_stream. Raises OSError.

    An actor hears the registry's address as its parent writes it: the directory is the one that it knows.
    """
    actor = tractor.current_actor(err_on_no_runtime=False)
    is_child = actor is not None and actor._listeners and _accept_address(actor)[0] == CHILDS_DIRECTORY
    return await trio.open_unix_socket(_path(CHILDS_DIRECTORY if is_child else directory, number))


async def serve(
    handler: Callable[[trio.SocketStream], Awaitable[object]],
    port: int,
    *,
    host: str,
    handler_nursery: trio.Nursery | None = None,
    task_status: TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen for connections, at our pid unless `port` says another number. Takes the place of trio.serve_tcp."""
    path = _path(host, port or os.getpid())
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        await listening.bind(path)
        os.chmod(path, 0o600 if host == CHILDS_DIRECTORY else 0o660)
        listening.listen(_BACKLOG)
        try:
            await trio.serve_listeners(
                handler, [trio.SocketListener(listening)], handler_nursery=handler_nursery, task_status=task_status
            )
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _accept_address(actor: Any) -> tuple[str, int]:
    directory, _, number = actor._listeners[0].socket.getsockname().rpartition("/")
    return directory, int(number)


def _stream_addresses(_stream: trio.SocketStream) -> tuple[tuple[str, int], tuple[str, int]]:
    return ("unix", 0), ("unix", 0)  # only ever shown


def _put_on() -> None:
    loose = tractor._ipc.trio  # the `trio` that the mends gave to all of tractor
    loose.open_tcp_stream = open_stream
    loose.serve_tcp = serve
    tractor._ipc.get_stream_addrs = _stream_addresses
    tractor._actor.Actor.accept_addr = property(_accept_address)


_put_on()
