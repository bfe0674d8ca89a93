"""The man page edgevpn(1), from the same tables as --help: docs/reference/edgevpn.1.

The macros are those of man(7), the escapes those of groff_char(7): a hyphen that is typed is \\-, a backslash \\e, and
no line of text begins with a dot or an apostrophe.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgevpn import __version__
from edgevpn.cli.commands import ALIASES, COMMANDS, load
from edgevpn.cli.flags import COMMON, HELP, ROOT_ONLY, VERSION, Flag
from edgevpn.cli.help_text import EXIT_CODES, plain_default
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.cli.words import Option, Place, places

_ABOUT = (
    "edgevpn without a command brings up a VPN: machines that share one token find each other and route packets, host "
    "to host, sealed end to end. There is no server. It needs a network (--config, --token or their variables) and the "
    "rights to make an interface. With a command it brings up a node for one purpose, without an interface, or asks "
    "the node that runs.",
    "A flag is written --flag value or --flag=value, with one dash or two. A boolean takes its value only after =, as "
    "in --dht=false. A list is given several times, or with commas. Flags stand before the first other word. What the "
    "command line gives wins over the environment, that over the default. Times are seconds, or like 15s, 5m and 1h30m "
    "where the default is written so.",
    "Other users of the machine can see a command's arguments while it starts: give the token in EDGEVPNTOKEN, or by "
    "--config in a file of mode 0600.",
)
_EXAMPLES = (
    ("edgevpn -g > network.yaml", "Make a network."),
    ("edgevpn config check network.yaml --address 10.1.0.1/24", "See whether a node would start."),
    ("edgevpn --config network.yaml --address 10.1.0.1/24", "Bring up the VPN."),
    ("edgevpn --config network.yaml --dhcp", "The same, with an address from the network."),
    ("edgevpn service-add --config network.yaml web 127.0.0.1:80", "Offer a service."),
    ("edgevpn ping 10.1.0.2", "Measure the way to another machine."),
    ("edgevpn doctor", "Find out what is missing."),
)
_FILES = (
    ("/run/edgevpn/NAME/", "Sockets and log of the node NAME (its interface), as root."),
    ("$XDG_RUNTIME_DIR/edgevpn/NAME/", "The same, of other users."),
    ("/run/edgevpn/NAME/api-token", "The token of its HTTP API, while it has one."),
    ("$HOME/.edgevpn/", "Keys and leases that are kept between runs, where that is asked for."),
)


def page() -> str:
    """The page in roff."""
    lines = [f'.TH EDGEVPN 1 "" "edgevpn {_text(__version__)}" "User Commands"']
    lines += [".SH NAME", r"edgevpn \- a decentralised VPN", ".SH SYNOPSIS"]
    lines += [".B edgevpn", _text("[FLAGS]"), ".br", ".B edgevpn", _text("[FLAGS] COMMAND [FLAGS] [WORDS]")]
    lines += [".SH DESCRIPTION", *_paragraphs(_ABOUT)]
    lines += [".SH COMMANDS", ".SS Commands that bring up a node without an interface"]
    short = {name: alias for alias, name in ALIASES.items()}
    for name, node_command in NODE_COMMANDS.items():
        also = f" Or edgevpn {short[name]}." if name in short else ""
        example = f" Example: {node_command.example}" if node_command.example else ""
        lines += _tagged(f"edgevpn {node_command.usage}", f"{node_command.help}.{also}{example}")
    lines += [".SS Other commands"]
    for command in COMMANDS.values():
        lines += _tagged(f"edgevpn {command.usage}", f"{command.help}.")
    lines += [".SH FLAGS OF EDGEVPN", *_flags(ROOT_ONLY)]
    lines += [".SH FLAGS OF EDGEVPN AND OF COMMANDS THAT BRING UP A NODE", *_flags((*COMMON, HELP, VERSION))]
    lines += [".SH FLAGS OF SINGLE COMMANDS"]
    for name, node_command in NODE_COMMANDS.items():
        lines += [f".SS edgevpn {_text(name)}", *_flags(node_command.flags)] if node_command.flags else []
    lines += [".SH OPTIONS OF OTHER COMMANDS"]
    for place in places():
        if place.path and place.path[0] in COMMANDS and len(place.options) > 1:
            lines += _options(place)
    lines += [".SH EXIT STATUS"]
    for code, text in EXIT_CODES.items():
        lines += _tagged(str(code), f"{text[0].upper()}{text[1:]}.")
    lines += [".SH FILES"]
    for path, text in _FILES:
        lines += _tagged(path, text)
    lines += [".SH EXAMPLES"]
    for line, text in _EXAMPLES:
        lines += _tagged(line, text)
    return "\n".join(lines) + "\n"


def _flags(flags: Iterable[Flag]) -> list[str]:
    lines = []
    for flag in flags:
        synopsis = f"{flag.dashed}=false" if flag.kind == "bool" and flag.default else flag.dashed
        synopsis += "" if flag.kind == "bool" else f" {flag.kind.upper()}"
        default = f" Default: {plain_default(flag)}." if plain_default(flag) else ""
        env = f" Environment: {flag.env}." if flag.env else ""
        nothing = f" Accepted for compatibility, without effect yet: {flag.nothing_yet}." if flag.nothing_yet else ""
        lines += _tagged(synopsis, f"{flag.help}.{default}{env}{nothing}")
    return lines


def _options(place: Place) -> list[str]:
    command = load(place.path[0])
    for word in place.path[1:]:
        command = command.commands[word]
    about = " ".join(" ".join((command.help or "", command.epilog or "")).split())
    lines = [f".SS edgevpn {_text(' '.join(place.path))}", _text(about)]
    for option in place.options:
        lines += _tagged(_synopsis(option), option.help)
    return lines


def _synopsis(option: Option) -> str:
    value = "" if option.value is None else " " + ("|".join(option.value.words) or "VALUE")
    return ", ".join(option.names) + value


def _tagged(tag: str, text: str) -> list[str]:
    return [".TP", f".B {_text(tag)}", _text(text)]


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (".PP", _text(text))]


def _text(text: str) -> str:
    """One line of text as roff: what means something to it is escaped, and so is what has another shape on paper."""
    escapes = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
    escaped = "".join(escapes.get(letter, letter) for letter in " ".join(text.split()))
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
