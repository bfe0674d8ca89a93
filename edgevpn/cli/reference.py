"""The flag table and the commands as text: `edgevpn --help`, and the page docs/reference/cli.md.

The page is written by `python -m edgevpn.cli.reference > docs/reference/cli.md`, with --man the man page (man.py) for
docs/reference/edgevpn.1; a test says when one is out of date.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgevpn.cli import run_dir
from edgevpn.cli.flags import COMMON, HELP, ROOT_ONLY, VERSION, Flag
from edgevpn.cli.main import ALIASES, COMMANDS, load
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.cli.output import terminal_width

if TYPE_CHECKING:
    import click

_INDENT = 38

EXIT_CODES = {  # edgevpn/errors.py and edgevpn/cli/main.py
    0: "done",
    1: "failed",
    2: "wrong usage or configuration",
    3: "no node answers",
    4: "the machine does not allow it",
    6: "a running node ended because the actors it is for died too often",
    130: "interrupted",
}
_INTRODUCTION = """\
# Command line

`edgevpn` without a command brings up the VPN; it needs a network (`--config`, `--token` or their variables) and the
rights to make an interface. The names, defaults and environment variables are those of the Go program, and so is the
syntax: `--flag value` or `--flag=value`, with one dash or two; a boolean takes its value only after `=`, as in
`--dht=false`; a list is given several times or with commas. Flags of `edgevpn` stand before the first other word.

What the command line gives wins over the environment, that over the default. Of `--config` and `--token` given in the
same place, the config wins. Times are seconds, or like `15s`, `5m` and `1h30m` where the default is written so.

@EXIT_CODES@

Another user of the machine can see a command's arguments while it starts. Give the token in EDGEVPNTOKEN, or by
`--config` in a file that only you can read.
"""


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


def page() -> str:
    """docs/reference/cli.md."""
    codes = textwrap.fill("Exit codes: " + ", ".join(f"{code} {text}" for code, text in EXIT_CODES.items()) + ".", 119)
    parts = [_INTRODUCTION.replace("@EXIT_CODES@", codes)]
    parts += ["## edgevpn\n", _flag_table(ROOT_ONLY)]
    parts += ["## edgevpn, and the commands that bring up a node without an interface\n", _flag_table(COMMON)]
    short = {name: alias for alias, name in ALIASES.items()}
    for name, node_command in NODE_COMMANDS.items():
        also = f" Or `edgevpn {short[name]}`." if name in short else ""
        parts += [f"### edgevpn {node_command.usage}\n", f"{node_command.help}.{also}\n"]
        parts += [_flag_table(node_command.flags)] if node_command.flags else []
    parts += [
        "## Commands that ask a running node, and others\n",
        "Those that ask a node take:\n",
        _option_table(_shared_options()),
    ]
    shared = {option.name for option in _shared_options()}
    for name, command in COMMANDS.items():
        parts += [f"### edgevpn {command.usage}\n", f"{command.help}.\n"]
        own = [option for option in _options(load(name)) if option.name not in shared]
        parts += [_option_table(own)] if own else []
    return "\n".join(parts) + "\n"


def _flag_table(flags: Iterable[Flag]) -> str:
    lines = ["| flag | default | environment | |", "|---|---|---|---|"]
    for flag in flags:
        default = f"`{plain_default(flag)}`" if plain_default(flag) else ""
        env = f"`{flag.env}`" if flag.env else ""
        nothing = f". **Nothing yet**: {flag.nothing_yet}" if flag.nothing_yet else ""
        lines.append(f"| `{flag.dashed}` | {default} | {env} | {flag.help}{nothing} |")
    return "\n".join(lines) + "\n"


def _shared_options() -> list[click.Option]:
    import click

    return _options(click.command()(run_dir.node_options(lambda: None)))


def _options(command: click.Command) -> list[click.Option]:
    import click

    return [parameter for parameter in command.params if isinstance(parameter, click.Option)]


def _option_table(options: Iterable[click.Option]) -> str:
    lines = ["| option | environment | |", "|---|---|---|"]
    for option in options:
        names = ", ".join(f"`{name}`" for name in option.opts)
        lines.append(f"| {names} | {f'`{option.envvar}`' if option.envvar else ''} | {option.help or ''} |")
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


if __name__ == "__main__":
    if sys.argv[1:] == ["--man"]:
        from edgevpn.cli import man

        sys.stdout.write(man.page())
    else:
        sys.stdout.write(page())
