"""The table of the commands that ask a running node, and of those that need none; each is a click command elsewhere.

A row names its module, which is imported when its command runs. The commands that bring up a node are in
node_commands.py. A new one also needs a row in docs/compatibility.md, and the reference pages made anew.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Command(NamedTuple):
    """A command that asks a running node. `target`: module and name of its click command."""

    target: str
    usage: str
    help: str


COMMANDS: dict[str, Command] = {
    "status": Command("edgevpn.cli.ask:status", "status", "Show the node at a glance"),
    "peers": Command("edgevpn.cli.ask:peers", "peers", "Show the network's machines and how they are reached"),
    "ledger": Command("edgevpn.cli.ask:ledger", "ledger [BUCKET]", "Show what the network agreed on"),
    "actors": Command(
        "edgevpn.cli.actors:actors", "actors [restart NAME]", "Show the node's processes, or restart one"
    ),
    "top": Command("edgevpn.cli.top:top", "top", "Show nodes, paths, rates and processes, live"),
    "logs": Command("edgevpn.cli.logs:logs", "logs [NAME]", "Show the node's log, or one actor's"),
    "tunnels": Command("edgevpn.cli.tunnels:tunnels", "tunnels", "Show services, egress and proxy of the node"),
    "netcheck": Command("edgevpn.cli.netcheck:netcheck", "netcheck", "Check how this machine reaches others"),
    "doctor": Command("edgevpn.cli.doctor:doctor", "doctor", "Check what a node needs, and say what to do"),
    "dns-list": Command("edgevpn.cli.names:listing", "dns-list", "Show the network's names and who has them"),
    "dns-add": Command("edgevpn.cli.names:add", "dns-add PATTERN TYPE RECORD", "Add a name to the network's DNS"),
    "dns-remove": Command("edgevpn.cli.names:remove", "dns-remove PATTERN [TYPE]", "Take a name away again"),
    "ping": Command("edgevpn.cli.ask:ping", "ping PEER|IP", "Measure the way to a peer"),
    "peergater": Command(
        "edgevpn.cli.peergater:peergater", "peergater COMMAND", "Make keys for --peerguard, and say which ones count"
    ),
    "unit": Command("edgevpn.cli.unit:unit", "unit", "Print a systemd unit for this installation"),
    "config": Command(
        "edgevpn.cli.config_check:config",
        "config check [FILE] [COMMAND] [FLAGS]",
        "Check a network config and a node's flags without starting it",
    ),
    "completion": Command(
        "edgevpn.cli.completion:completion", "completion SHELL", "Print a completion script for bash, zsh or fish"
    ),
    "api-url": Command("edgevpn.cli.api_url:api_url", "api-url", "Show where the dashboard is, with its token"),
    "repl": Command("edgevpn.cli.repl:repl", "repl NAME [-c CODE]", "Open a Python prompt inside a running actor"),
}
ALIASES = {"sa": "service-add", "sc": "service-connect", "fs": "file-send", "fr": "file-receive"}


def load(name: str) -> Any:
    """The click command `name` of COMMANDS."""
    return load_named(COMMANDS[name].target)


def load_named(target: str) -> Any:
    """What "module:name" names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
