"""Making this machine ask our DNS server, and undoing it: `--dns-system`.

    resolved     systemd-resolved asks us for the VPN's names (its domain, and its addresses in reverse), told by
                 resolvectl(1) for the interface. With the interface it forgets, so a killed node leaves nothing.
    resolv.conf  our server stands first in /etc/resolv.conf. What was there, a file or a link, is kept beside it and
                 put back at the end; or, of a node that was killed, at the start of the next one.
    auto         the first where systemd-resolved runs and there is an interface, else the second

The supervisor does it: it has the rights. The file is replaced by rename(2), so a reader sees the one or the other.
Where it is a mount of its own (containers) that can't be, and it is written in place. If somebody else wrote it
meanwhile, it is theirs, and stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgevpn.actors import log
from edgevpn.actors.run_directory import LOCK
from edgevpn.config import DNS_PORT, NodeConfig, parse_dns_address
from edgevpn.errors import SetupError
from edgevpn.names.resolv_conf import BACKUP, maker, with_us

RESOLV_CONF = Path("/etc/resolv.conf")
_RESOLVED = Path("/run/systemd/resolve")
_TIMEOUT = 5.0


@contextmanager
def asks_us(config: NodeConfig, path: Path = RESOLV_CONF) -> Iterator[None]:
    """While inside, this machine asks us, as `config` wants it. Raises SetupError when that can't be."""
    recover(path, ours=config.run_dir)
    way = config.dns_system if config.dns else "off"
    if way == "auto":
        way = "resolved" if config.vpn and _RESOLVED.is_dir() and shutil.which("resolvectl") else "resolv.conf"
    if way == "off":
        yield
    elif way == "resolved":
        _tell_resolved(config)
        try:
            yield
        finally:
            with suppress(SetupError):  # the interface takes it along in any case
                _resolvectl("revert", config.interface)
    else:
        _replace(config, path)
        try:
            yield
        finally:
            undo(config.run_dir, path)


# --- systemd-resolved


def _tell_resolved(config: NodeConfig) -> None:
    from edgevpn.names.zone import networks_of, reverse_domains  # dnspython, which the supervisor need not have else

    server, port = _server(config)
    shown = f"[{server}]" if ":" in server else server
    _resolvectl("dns", config.interface, server if port == DNS_PORT else f"{shown}:{port}")
    reverse = reverse_domains(networks_of(config.addresses, ()))
    _resolvectl("domain", config.interface, config.dns_domain, *(f"~{one}" for one in reverse))
    _resolvectl("default-route", config.interface, "false")


def _resolvectl(*words: str) -> None:
    program = shutil.which("resolvectl")
    if program is None:
        raise SetupError("there is no resolvectl: install systemd-resolved, or use --dns-system resolv.conf")
    try:
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SetupError(f"resolvectl {words[0]} failed ({exc}): use --dns-system resolv.conf") from exc
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise SetupError(f"resolvectl {words[0]} failed ({reason}): use --dns-system resolv.conf")


def _server(config: NodeConfig) -> tuple[str, int]:
    host, port = parse_dns_address(config.dns, any_host=True)
    return host or "127.0.0.1", port


# --- resolv.conf


def _replace(config: NodeConfig, path: Path) -> None:
    server, port = _server(config)
    if port != DNS_PORT:
        raise SetupError(f"resolv.conf has no room for port {port}: serve names at port {DNS_PORT}, or use resolved")
    backup = path.with_name(BACKUP)
    try:
        before = path.read_text(errors="replace") if path.exists() else ""
        if maker(before):
            raise SetupError(f"the node in {maker(before)} has {path} already: use --dns-system off with this one")
        text = with_us(before, server, config.dns_domain, config.run_dir)
        _keep(path, backup)
        _write(path, text)
    except OSError as exc:
        with suppress(OSError):
            backup.unlink(missing_ok=True)
        raise SetupError(
            f"can't change {path} ({exc.strerror}): run as root (a systemd unit needs ReadWritePaths={path.parent}), "
            f"or use --dns-system off"
        ) from exc


def _keep(path: Path, backup: Path) -> None:
    """A copy of the file, or of the link that it is; what does not exist is kept as an empty file."""
    temporary = backup.with_name(f"{backup.name}.new")
    temporary.unlink(missing_ok=True)
    if path.exists() or path.is_symlink():
        shutil.copy2(path, temporary, follow_symlinks=False)
    else:
        temporary.touch(mode=0o644)
    temporary.replace(backup)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.edgevpn-new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "w") as file:
        file.write(text)
        os.fchmod(descriptor, 0o644)
    _put(temporary, path)


def _put(new: Path, path: Path) -> None:
    """Make `new` the file at `path`; where that is a mount, write what it holds."""
    try:
        new.replace(path)
    except OSError as exc:
        if exc.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        path.write_text(new.read_text(errors="replace"))
        new.unlink()


def undo(run_dir: str, path: Path = RESOLV_CONF) -> None:
    """Put back what was there before the node of `run_dir`, unless somebody else wrote the file since."""
    backup = path.with_name(BACKUP)
    try:
        now = path.read_text(errors="replace") if path.exists() else ""
        if maker(now) == run_dir:
            if backup.exists() or backup.is_symlink():
                _put(backup, path)
            else:
                log.get("supervisor").error(f"{path} is ours, but {backup} is gone: it stays as it is")
        elif not maker(now):
            backup.unlink(missing_ok=True)
    except OSError as exc:
        log.get("supervisor").error(f"can't put {path} back: it is in {backup}", reason=exc.strerror)


def recover(path: Path = RESOLV_CONF, *, ours: str = "") -> None:
    """Undo what a node that was killed left; `ours`: the run directory that this process holds. Never raises."""
    try:
        made_by = maker(path.read_text(errors="replace"))
    except OSError:
        return
    if made_by and (made_by == ours or not _is_running(Path(made_by))):
        undo(made_by, path)
        log.get("supervisor").info(f"put {path} back: the node in {made_by} was killed before it could")


def _is_running(run_dir: Path) -> bool:
    """Whether a process holds that run directory."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
