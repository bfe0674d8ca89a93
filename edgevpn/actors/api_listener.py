"""What the supervisor holds for the api actor: the listening socket, and the token that opens the API.

The socket is opened once, before the actors, so a port below 1024 works, a taken one ends the start with one line, and
connections wait in its queue while the actor is away. The token is new with each start of the node: what leaked is
void then, nothing has to be changed by hand, and nothing secret is left on the disk. It outlives the actor. Commands
read it from the file `api-token` (0600) in the run directory; the actor gets it in a sealed memfd.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from edgevpn.actors import log
from edgevpn.config import NodeConfig
from edgevpn.errors import SetupError
from edgevpn.proto.api_address import ApiAddress, parse_api_address
from edgevpn.sealed_memory import sealed_memfd

TOKEN_FILE = "api-token"  # noqa: S105 - the file's name
BACKLOG = 128


@contextmanager
def open_api(config: NodeConfig, run_dir: Path) -> Iterator[dict[str, int]]:
    """The descriptors "api-listener" and (with credentials) "api-token". Raises SetupError."""
    address = parse_api_address(config.api)
    with ExitStack() as undo:
        listener = undo.enter_context(_listening(address))
        descriptors = {"api-listener": listener.fileno()}
        if config.api_auth == "token":
            token = secrets.token_urlsafe(32)
            _write_token(run_dir / TOKEN_FILE, token)
            descriptors["api-token"] = sealed_memfd("edgevpn-api-token", token.encode())
            undo.callback(os.close, descriptors["api-token"])
        say = log.get("api")
        if config.api_auth == "off":
            say.warning(
                "the API asks for no credentials (--api-auth=off): every user and program of this machine can read and "
                "change the ledger through it"
            )
        elif not address.is_local:
            say.warning(
                "the API can be reached from other machines, unencrypted: let it listen on the VPN's address, on "
                "127.0.0.1 behind a tunnel, or on unix:///PATH",
                listen=address.text(),
            )
        yield descriptors


@contextmanager
def _listening(address: ApiAddress) -> Iterator[socket.socket]:
    try:
        listener = _unix(Path(address.path)) if address.path else _tcp(address)
    except OSError as exc:
        raise SetupError(
            f"can't serve the API at {address.text()} ({exc.strerror}): choose another --api-listen or --listen"
        ) from exc
    try:
        yield listener
    finally:
        if address.path:
            with suppress(OSError):
                os.unlink(address.path)
        listener.close()


def _tcp(address: ApiAddress) -> socket.socket:
    try:
        return _bound(socket.AF_INET6 if ":" in address.ip else socket.AF_INET, (address.ip, address.port))
    except OSError as exc:
        if address.ip != "::" or exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _bound(socket.AF_INET, ("0.0.0.0", address.port))  # noqa: S104 - it was asked for; no IPv6 here


def _bound(family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones have it, too
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(path: Path) -> socket.socket:
    """For root and this user alone (the mode, and SO_PEERCRED in the actor). A dead node's socket is replaced."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        if _answers(path):
            raise OSError(errno.EADDRINUSE, "somebody listens there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _write_token(path: Path, token: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
