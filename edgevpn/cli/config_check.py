"""`edgevpn config check`: would a node start with this network config, these flags and this environment; is it safe?

Nothing is started, opened to the network or changed. Everything is looked at, not only up to the first mistake, and
each line says what to do. Of secrets only lengths are told. A key that is unknown may be a secret in the wrong place:
it is shown only where it is like a known one, or is short and looks like a name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from edgevpn.cli import launch, run_dir, token
from edgevpn.cli.checks import FAIL, OK, WARN, Check, tell
from edgevpn.cli.commands import ALIASES, load_named
from edgevpn.cli.flags import ROOT, Flag, closest, notices, parse, settle
from edgevpn.cli.node_commands import NODE_COMMANDS, Purpose
from edgevpn.errors import EdgevpnError, UsageError
from edgevpn.proto import otp
from edgevpn.proto.network_config import NetworkConfig, known_keys, unknown_keys

EXIT_BAD = 2
MIN_SECRET = 16  # characters of a random text that nobody guesses
MIN_CODE = 22  # of a one-time password: 128 bits in base64
MIN_INTERVAL = 30  # seconds; clocks may be off by half of it
_MAX_FILE = 24  # characters of a word that need not be shown to be understood
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class Start:
    """What shall be checked: the flags' table, the texts given for them, the command and its words."""

    table: tuple[Flag, ...]
    given: dict[str, list[str]]
    command: str
    words: list[str]


@click.group(epilog="Example: edgevpn config check network.yaml")
def config() -> None:
    """Check a network config and a node's flags without starting it."""


@config.command(
    "check",
    context_settings={"ignore_unknown_options": True},
    epilog="Examples: edgevpn config check network.yaml; edgevpn config check network.yaml --address 10.1.0.7/24 --dns "
    "10.1.0.7:53; EDGEVPNTOKEN=... edgevpn config check service-add web 127.0.0.1:80",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[FILE] [COMMAND] [FLAGS]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def check(words: tuple[str, ...], as_json: bool) -> int:
    """Check the network in FILE (else --config, --token or their variables) and the flags a node would start with.

    COMMAND: of a node without an interface, such as `start` or `dns`. Exit code 0 when a node would start and the
    secret is nobody else's, 2 when not. Secrets are never shown.
    """
    return EXIT_BAD if tell(all_checks(words, os.environ), as_json) else 0


def all_checks(words: Sequence[str], environ: Mapping[str, str]) -> list[Check]:
    try:
        start = split(words)
    except UsageError as exc:
        return [Check("flags", FAIL, str(exc), "see edgevpn --help")]
    return [*network_checks(start, environ), *environment_checks(environ), *node_checks(start, environ)]


def split(words: Sequence[str]) -> Start:
    """[FLAGS] [FILE] [FLAGS] [COMMAND [FLAGS] [WORDS]] apart. Raises UsageError."""
    given, rest = parse(words, ROOT)
    if rest and ALIASES.get(rest[0], rest[0]) not in NODE_COMMANDS:
        file = rest[0]
        if not os.path.exists(file) and len(file) > _MAX_FILE and not file.endswith((".yaml", ".yml")):
            raise UsageError("that is no file: if it is a token, give it in EDGEVPNTOKEN, where others can't see it")
        if "config" in given:
            raise UsageError("the network config is given twice: as a word and by --config")
        given["config"] = [file]
        more, rest = parse(rest[1:], ROOT)
        _add(given, more)
    if not rest:
        return Start(ROOT, given, "", [])
    command = ALIASES.get(rest[0], rest[0])
    if command not in NODE_COMMANDS:
        raise UsageError("`edgevpn config check` takes one FILE, a command that brings up a node, and flags")
    table = NODE_COMMANDS[command].table
    more, rest = parse(rest[1:], table)
    _add(given, more)
    for name in given:
        if name not in {flag.name for flag in table}:
            raise UsageError(f"--{name} does not go with `edgevpn {command}`, which makes no interface")
    return Start(table, given, command, rest)


def _add(given: dict[str, list[str]], more: Mapping[str, list[str]]) -> None:
    for name, texts in more.items():
        given[name] = given.get(name, []) + texts


# --- the network --------------------------------------------------------------------------------------------------


def network_checks(start: Start, environ: Mapping[str, str]) -> list[Check]:
    settings = settle([flag for flag in ROOT if flag.name in ("config", "token")], start.given, environ)
    try:
        read = token.read_text(settings)
    except EdgevpnError as exc:
        do = "`edgevpn -g > network.yaml` makes a network" if not any(settings.values.values()) else ""
        return [Check("network", FAIL, str(exc), do)]
    checks = []
    if read.name == "config" and settings.values["config"] != "-":
        checks.append(file_check("file", read.origin))
    elif read.origin.startswith("-"):
        do = "give it in EDGEVPNTOKEN, or in a file by --config"
        checks.append(Check("token", WARN, "it is an argument, which other users see while the command starts", do))
    try:
        network = token.parse(*read)
    except EdgevpnError as exc:
        do = "copy it again from a machine where it works" if read.name == "token" else "mend it, or copy it again"
        return [*checks, Check("network", FAIL, str(exc), do)]
    checks.append(Check("network", OK, f"{read.origin} holds a network"))
    if read.name == "config":
        checks += keys_checks(unknown_keys(read.text))
    return [*checks, *strength(network)]


def file_check(name: str, path: str) -> Check:
    """Whether the file that holds a secret is its owner's alone."""
    try:
        status = os.stat(path)
    except OSError as exc:
        return Check(name, FAIL, f"can't look at {path}: {exc.strerror}")
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in (0, os.geteuid()):
        return Check(name, FAIL, f"{path} belongs to another user, who can read and change it", f"chown root {path}")
    if mode & 0o077:
        return Check(name, FAIL, f"others can read or change {path} (mode {mode:04o})", f"chmod 600 {path}")
    return Check(name, OK, f"{path} is for its owner alone (mode {mode:04o})")


def keys_checks(unknown: Sequence[str]) -> list[Check]:
    """Keys that a network config does not have: they are passed over, by the Go program too."""
    checks = []
    for path in dict.fromkeys(unknown):
        parent, _, name = path.rpartition(".")
        meant = closest(path, known_keys())
        if not meant and (len(name) > MIN_SECRET or not _NAME.fullmatch(name)):
            shown, do = "a key that is no name", "is it a value in the wrong place? Take it out"
        else:
            shown, do = f"the key {path}", f"did you mean {meant}?" if meant else "take it out"
        where = f" in {parent}" if parent and not shown.endswith(path) else ""
        checks.append(Check("keys", WARN, f"{shown}{where} means nothing and is passed over", do))
    return checks or [Check("keys", OK, "all are known")]


def strength(network: NetworkConfig) -> list[Check]:
    """One-time passwords and secrets: lengths and pace, and whether they can be guessed."""
    checks = []
    for name, one in (("otp.crypto", network.otp_crypto), ("otp.dht", network.otp_dht)):
        if not one.key:
            checks.append(Check(name, OK, "has no key: the place where nodes meet does not move"))
            continue
        length = one.length if one.length > 0 else otp.DEFAULT_LENGTH
        found = f"codes of {length} characters, new every {one.interval} s, from a key of {len(one.key)}"
        if length < MIN_CODE:
            do = f"a new network: `edgevpn -g`, or {name}.length: 43 on all nodes at once"
            checks.append(Check(name, WARN, f"{found}: who tries can guess codes so short", do))
        elif len(one.key) < MIN_SECRET:
            checks.append(Check(name, WARN, f"{found}: it can be guessed", "a new network: `edgevpn -g`"))
        elif one.interval < MIN_INTERVAL:
            do = f"{name}.interval: 360 on all nodes at once"
            checks.append(Check(name, WARN, f"{found}: clocks must agree to {one.interval / 2:g} s", do))
        else:
            checks.append(Check(name, OK, found))
    for name, secret in (("room", network.room), ("rendezvous", network.rendezvous), ("mdns", network.mdns)):
        if secret and len(secret) < MIN_SECRET:
            do = "a new network: `edgevpn -g`"
            checks.append(Check(name, WARN, f"of {len(secret)} characters can be guessed", do))
    return checks


# --- the node -----------------------------------------------------------------------------------------------------


def environment_checks(environ: Mapping[str, str]) -> list[Check]:
    """Variables that look like a flag's and are none."""
    tables = (ROOT, *(command.table for command in NODE_COMMANDS.values()))
    known = {flag.env.removeprefix("EDGEVPN"): flag.env for table in tables for flag in table if flag.env}
    checks = []
    for name in sorted(environ):
        if name.startswith(("EDGEVPN", "PEERG")) and name not in known.values():
            meant = closest(name.removeprefix("EDGEVPN"), known)  # some have that prefix, some have not
            checks += (
                [Check("environment", WARN, f"{name} means nothing", f"did you mean {known[meant]}?")] if meant else []
            )
    return checks


def node_checks(start: Start, environ: Mapping[str, str]) -> list[Check]:
    """The flags and variables, and the node that they describe."""
    try:
        settings = settle(start.table, start.given, environ)
        vpn = not start.command
        if vpn and settings.values["g"]:
            raise UsageError("-g starts no node: it prints a new network")
        if vpn:
            from edgevpn.cli.tunnel_commands import root_fields

            purpose = Purpose(settings.values["interface"], root_fields(settings))
        else:
            purpose = load_named(NODE_COMMANDS[start.command].purpose)(settings, start.words)
        directory = run_dir.choose(settings.values["run-dir"], purpose.name, environ=environ)
        node, notes = launch.node_config(settings, vpn=vpn, run_dir=str(directory), purpose=purpose.fields)
    except EdgevpnError as exc:
        return [Check("flags", FAIL, str(exc), "see edgevpn --help")]
    if node.peergate_key_fd >= 0:
        os.close(node.peergate_key_fd)
    checks = [Check("flags", WARN, text) for text in (*notes, *notices(start.table, settings.given))]
    auth = str(settings.values["peergate-auth"])
    if auth.startswith("@"):
        checks.append(file_check("peergate", auth[1:]))
    variables = [source for source in settings.given.values() if not source.startswith("-")]
    found = f"{len(settings.given) - len(variables)} flag(s), {len(variables)} variable(s)"
    checks.append(Check("flags", OK, found + (f": {', '.join(variables)}" if variables else "")))
    return [*checks, Check("node", OK, _described(vars(node), start.command))]


def _described(node: Mapping[str, Any], command: str) -> str:
    if command:
        return f"`edgevpn {command}`, without an interface"
    addresses = ", ".join(node["addresses"]) or "no address"
    how = f"an address of {addresses} from the network" if node["dhcp"] else addresses
    return f"interface {node['interface']} with {how}, MTU {node['mtu']}"
