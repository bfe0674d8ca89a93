"""The network's secret on its way in (`--token`, `--config`) and out (`-g`, `-g -b`).

Which one is read: what the command line gives wins over the environment; where both a config and a token are given
in the same place the config wins, as in the Go program. "-" reads standard input. The text that was read is checked
here, and never shown: errors name where it came from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgevpn.cli.flags import Settings
from edgevpn.errors import EdgevpnError, SetupError, UsageError

if TYPE_CHECKING:
    from edgevpn.proto.network_config import NetworkConfig

MAX_TEXT = 1 << 20
_MISSING = (
    "no network given: set EDGEVPNTOKEN, or give --config FILE or --token TOKEN "
    "(`edgevpn -g -b` makes a new network's token)"
)


def read(settings: Settings, stdin: Callable[[int], bytes] | None = None) -> NetworkConfig:
    """The network the flags and the environment say. Raises UsageError or SetupError, one line without secrets.

    `stdin(n)` reads at most n bytes; the process's standard input by default.
    """
    return parse(*read_text(settings, stdin))


class Text(NamedTuple):
    """What was read, unchecked. `name`: config or token. `origin`: where it came from, as it may be shown."""

    name: str
    origin: str
    text: str

    def __repr__(self) -> str:
        return f"Text({self.name}, {self.origin}, <secret>)"


def read_text(settings: Settings, stdin: Callable[[int], bytes] | None = None) -> Text:
    """The text of it. Raises UsageError or SetupError."""
    name = _which(settings)
    value: str = settings.values[name]
    origin = settings.given[name]
    if value == "-":
        origin = "standard input"
        text = _decode(_read_stdin(stdin), origin)
    elif name == "config":
        origin = value
        text = _decode(_read_file(Path(value)), origin)
    else:
        text = value
    if not text.strip():
        raise UsageError(f"{origin} is empty: it should hold a network {name}")
    return Text(name, origin, text)


def parse(name: str, origin: str, text: str) -> NetworkConfig:
    """What a `Text` holds. Raises UsageError."""
    from edgevpn.proto.network_config import parse_config_yaml, parse_token

    try:
        return parse_config_yaml(text) if name == "config" else parse_token(text.strip())
    except EdgevpnError as exc:
        raise UsageError(f"{origin}: {exc}") from None


def generate(otp_interval: int, *, as_token: bool) -> str:
    """A new network's config (YAML) or token, with a newline. `otp_interval`: seconds. Raises UsageError."""
    if otp_interval <= 0:
        raise UsageError("--key-otp-interval must be more than 0 seconds")
    from edgevpn.proto.network_config import generate as new_network

    network = new_network(otp_interval)
    return (network.to_token() if as_token else network.to_yaml()).rstrip("\n") + "\n"


def _which(settings: Settings) -> str:
    given = {name: settings.given[name] for name in ("config", "token") if settings.values[name]}
    by_flag = [name for name, source in given.items() if source.startswith("-")]
    for name in (*by_flag, *given):
        return name
    raise UsageError(_MISSING)


def _read_stdin(stdin: Callable[[int], bytes] | None) -> bytes:
    return (stdin or sys.stdin.buffer.read)(MAX_TEXT + 1)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT + 1)
    except OSError as exc:
        raise SetupError(f"can't read the network config {path}: {exc.strerror}") from None


def _decode(data: bytes, origin: str) -> str:
    if len(data) > MAX_TEXT:
        raise UsageError(f"{origin} is too long for a network config")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{origin} is no text: it should hold a network config") from None
