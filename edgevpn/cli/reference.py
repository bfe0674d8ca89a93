"""The flag table and the commands as the page docs/reference/cli.md.

The page is written by `python -m edgevpn.cli.reference > docs/reference/cli.md`, with --man the man page (man.py) for
docs/reference/edgevpn.1; a test says when one is out of date.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgevpn.cli import run_dir
from edgevpn.cli.commands import ALIASES, COMMANDS, load
from edgevpn.cli.flags import COMMON, ROOT_ONLY, Flag
from edgevpn.cli.help_text import EXIT_CODES, plain_default
from edgevpn.cli.node_commands import NODE_COMMANDS

if TYPE_CHECKING:
    import click

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


if __name__ == "__main__":
    if sys.argv[1:] == ["--man"]:
        from edgevpn.cli import man

        sys.stdout.write(man.page())
    else:
        sys.stdout.write(page())
