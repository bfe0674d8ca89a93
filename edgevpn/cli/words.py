"""The command line as data: which words may follow which. Shell completion and the man page are made of it.

It is read from the tables alone: the flags (flags.py), the commands that bring up a node (node_commands.py), and
COMMANDS of main.py with the click commands they name. What a value may be is not in the tables where it is a word of a
few, a file or a directory; those are named here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from edgevpn.cli.commands import ALIASES, COMMANDS, load
from edgevpn.cli.flags import HELP, ROOT, VERSION, Flag
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.config import API_AUTH, DNS_SYSTEM, PACKET_PRIORITIES, PATHS, REPAIRS
from edgevpn.proto import values

if TYPE_CHECKING:
    import click


class Value(NamedTuple):
    """What may stand somewhere. `kind`: any, words, file, dir, or one of DYNAMIC, asked for when it is needed."""

    kind: str
    words: tuple[str, ...] = ()


class Option(NamedTuple):
    """`names` with their dashes. `value`: what follows; None for a switch, which takes true or false after = only."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    default_on: bool = False  # of a switch: it is there to be turned off
    repeats: bool = False


class Place(NamedTuple):
    """What follows the words of `path` (() is `edgevpn` itself): options, then arguments or one of `commands`."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    commands: Mapping[str, str]  # word -> help
    options_first: bool = False  # after the first argument there are none; and one dash does for two


DYNAMIC = ("actors", "logs", "interfaces")  # a node's actors, those and its supervisor, interfaces of nodes
ANY = Value("any")
FILE = Value("file")
DIRECTORY = Value("dir")
ACTORS = Value("actors")
INTERFACES = Value("interfaces")
SHELLS = ("bash", "zsh", "fish")
_RECORDS = Value("words", ("A", "AAAA", "CNAME", "TXT", "MX", "SRV", "NS", "PTR"))
_BUCKETS = (
    values.MACHINES,
    values.USERS,
    values.SERVICES,
    values.FILES,
    values.HEALTHCHECK,
    values.DNS,
    values.EGRESS,
    values.TRUSTZONE,
    values.TRUSTZONE_AUTH,
    values.DHCP,
)
FLAG_VALUES: Mapping[str, Value] = {
    "config": FILE,
    "limit-file": FILE,
    "run-dir": DIRECTORY,
    "ledger-state": DIRECTORY,
    "privkey-cache-dir": DIRECTORY,
    "lease-dir": DIRECTORY,
    "interface": INTERFACES,
    "path": Value("words", PATHS),
    "repair": Value("words", REPAIRS),
    "packet-priority": Value("words", PACKET_PRIORITIES),
    "api-auth": Value("words", API_AUTH),
    "dns-system": Value("words", DNS_SYSTEM),
    "ownership": Value("words", ("enforce", "observe", "off")),
    "log-level": Value("words", ("debug", "info", "warn", "error", "fatal")),
    "libp2p-log-level": Value("words", ("debug", "info", "warn", "error", "fatal")),
}
_FILES_COMMANDS = ("file-send", "file-receive")  # whose --path is a file's
ARGUMENTS: Mapping[tuple[str, str], Value] = {  # (command, its click argument)
    ("actors", "name"): ACTORS,
    ("repl", "name"): ACTORS,
    ("logs", "name"): Value("logs"),
    ("ledger", "bucket"): Value("words", _BUCKETS),
    ("dns-add", "type_name"): _RECORDS,
    ("dns-remove", "type_name"): _RECORDS,
    ("check", "words"): FILE,
}


def places() -> list[Place]:
    """The whole command line, `edgevpn` itself first; aliases are places of their own."""
    commands = {name: node_command.help for name, node_command in NODE_COMMANDS.items()}
    commands |= {name: command.help for name, command in COMMANDS.items()}
    found = [
        Place(
            (), "Bring up the VPN, or run a command", _flags("", ROOT), (), commands | {"help": "Show the help"}, True
        )
    ]
    for name, node_command in NODE_COMMANDS.items():
        words = node_command.usage.split()[2:]
        arguments = tuple(FILE if word == "PATH" else ANY for word in words)
        place = Place((name,), node_command.help, _flags(name, node_command.table), arguments, {}, options_first=True)
        found.append(place)
        found += [place._replace(path=(short,)) for short, meant in ALIASES.items() if meant == name]
    for name, command in COMMANDS.items():
        found += _of_click((name,), load(name), command.help)
    return found


def _flags(command: str, table: Iterable[Flag]) -> tuple[Option, ...]:
    return tuple(_flag(command, flag) for flag in (*table, HELP, VERSION))


def _flag(command: str, flag: Flag) -> Option:
    value = None if flag.kind == "bool" else FLAG_VALUES.get(flag.name, ANY)
    if flag.name == "path" and command in _FILES_COMMANDS:
        value = FILE
    help_ = f"{flag.help} (nothing yet: {flag.nothing_yet})" if flag.nothing_yet else flag.help
    return Option((flag.dashed,), help_, value, flag.kind == "bool" and bool(flag.default), flag.kind == "list")


def _of_click(path: tuple[str, ...], command: click.Command, help_: str) -> Iterator[Place]:
    import click

    subcommands = command.commands if isinstance(command, click.Group) else {}
    options, arguments = [], []
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            options.append(_option(parameter))
        elif isinstance(parameter, click.Argument):
            arguments.append(_choices(parameter) or ARGUMENTS.get((path[-1], str(parameter.name)), ANY))
    options.append(Option(("--help",), HELP.help, None))
    helps = {name: inner.get_short_help_str(200) for name, inner in subcommands.items()}
    yield Place(path, help_, tuple(options), tuple(arguments), helps)
    for name, inner in subcommands.items():
        yield from _of_click((*path, name), inner, helps[name])


def _option(option: click.Option) -> Option:
    value = None
    if not option.is_flag:
        name = option.opts[-1].lstrip("-")
        value = _choices(option) or FLAG_VALUES.get(name, ANY)
    return Option(tuple(option.opts), option.help or "", value, repeats=option.multiple)


def _choices(parameter: click.Parameter) -> Value | None:
    import click

    return Value("words", tuple(parameter.type.choices)) if isinstance(parameter.type, click.Choice) else None
