"""What `edgevpn --help` prints: the flag table and the commands as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from edgevpn.cli.commands import COMMANDS
from edgevpn.cli.flags import HELP, VERSION, Flag
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.cli.output import terminal_width

_INDENT = 38

EXIT_CODES = {  # edgevpn/errors.py and edgevpn/cli/ending.py
    0: "done",
    1: "failed",
    2: "wrong usage or configuration",
    3: "no node answers",
    4: "the machine does not allow it",
    6: "a running node ended because the actors it is for died too often",
    130: "interrupted",
}


def help_text(table: Iterable[Flag], usage: str, text: str) -> str:
    """What --help prints."""
    flags = (*table, HELP, VERSION)
    lines = [f"Usage: {usage}", "", text, ""]
    if any(flag.name == "interface" for flag in flags):
        usages = [(c.usage, c.help) for c in NODE_COMMANDS.values()] + [(c.usage, c.help) for c in COMMANDS.values()]
        lines += ["Commands:", *(_entry(*usage) for usage in usages), ""]
    lines += ["Flags:"]
    for flag in flags:
        if not flag.nothing_yet:
            lines.append(_entry(_synopsis(flag), " ".join([flag.help + _default(flag), *_env(flag)])))
    nothing_yet = ", ".join(flag.dashed for flag in flags if flag.nothing_yet)
    lines += ["", "Accepted for compatibility, without effect yet:"]
    lines += [_wrapped(nothing_yet, "  ", "  ")]
    return "\n".join(lines) + "\n"


def _synopsis(flag: Flag) -> str:
    if flag.kind == "bool":
        return f"{flag.dashed}=false" if flag.default else flag.dashed
    return f"{flag.dashed} {flag.kind.upper()}"


def plain_default(flag: Flag) -> str:
    """The default as one would write it, "" for an empty or false one."""
    if flag.kind == "list":
        return ",".join(flag.default)
    if flag.kind == "bool":
        return "true" if flag.default else ""
    return str(flag.default)


def _default(flag: Flag) -> str:
    return f" (default: {plain_default(flag)})" if plain_default(flag) else ""


def _env(flag: Flag) -> list[str]:
    return [f"[{flag.env}]"] if flag.env else []


def _entry(left: str, right: str) -> str:
    first = f"  {left}"
    if len(first) > _INDENT - 2:
        return first + "\n" + _wrapped(right, " " * _INDENT, " " * _INDENT)
    return _wrapped(right, first.ljust(_INDENT), " " * _INDENT)


def _wrapped(text: str, first: str, following: str) -> str:
    return textwrap.fill(
        text,
        terminal_width(),
        initial_indent=first,
        subsequent_indent=following,
        break_on_hyphens=False,
        break_long_words=False,
    )
