"""The command `edgevpn`: which command is meant, and how its end is told.

Without a command (or with `start`) it brings up a node: flags, token, then edgevpn/cli/launch.py. The commands that
ask a running node are click commands in modules of their own (commands.py). Everything but the tables and ending.py is
imported when it is needed: a start spends its first tenth of a second here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from edgevpn import __version__
from edgevpn.cli.commands import ALIASES, COMMANDS, load, load_named
from edgevpn.cli.ending import complain, run_guarded
from edgevpn.cli.flags import ROOT, SECRET_ENVIRONMENT, Settings, closest, notices, parse, settle
from edgevpn.cli.node_commands import NODE_COMMANDS, Purpose, optional_actors
from edgevpn.errors import UsageError

_ASKING_FLAGS = ("run-dir", "interface")  # may also stand before an asking command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (without the program's name; the process's own by default); the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    return run_guarded(lambda: run(args), debug=lambda: "--debug" in args or "-debug" in args)


def run(args: Sequence[str]) -> int:
    """What `main` does, with errors raised."""
    given, words = parse(args, ROOT)
    if "version" in given:
        print(f"edgevpn {__version__}")
        return 0
    name = ALIASES.get(words[0], words[0]) if words else ""
    if not words or name == "help":
        if "help" in given or name == "help":
            return _help(ROOT, "edgevpn [FLAGS]", "Bring up the VPN, or run a command.")
        return _root(given)
    if name in NODE_COMMANDS:
        return _start(name, given, words[1:])
    if name in COMMANDS:
        return _ask(name, given, words[1:])
    meant = closest(name, [*COMMANDS, *NODE_COMMANDS])
    shown = name if len(name) <= 24 else "that"  # it might be a token in the wrong place
    raise UsageError(f"no command {shown}: " + (f"did you mean {meant}?" if meant else "see edgevpn --help"))


# --- the commands -------------------------------------------------------------------------------------------------


def _root(given: dict[str, list[str]]) -> int:
    settings = settle(ROOT, given, os.environ)
    values = settings.values
    if values["g"]:
        from edgevpn.cli import token

        sys.stdout.write(token.generate(values["key-otp-interval"], as_token=values["b"]))
        return 0
    _tell(f"{settings.given[name]} does nothing without -g" for name in ("b", "key-otp-interval") if name in given)
    _tell(notices(ROOT, settings.given))
    from edgevpn.cli.tunnel_commands import root_fields

    return _bring_up(settings, Purpose(values["interface"], root_fields(settings)), vpn=True)


def _start(name: str, given: dict[str, list[str]], words: list[str]) -> int:
    """Bring up a node without an interface, for the purpose of the command `name`."""
    command = NODE_COMMANDS[name]
    table = command.table
    more, rest = parse(words, table)
    if "help" in given or "help" in more:
        example = f" Example: {command.example}" if command.example else ""
        return _help(table, f"edgevpn {command.usage}", f"{command.help}.{example}")
    known = {flag.name for flag in table}
    for flag in given:
        if flag not in known:
            raise UsageError(f"--{flag} does not go with `edgevpn {name}`, which makes no interface")
    settings = settle(table, given | more, os.environ)
    purpose: Purpose = load_named(command.purpose)(settings, rest)
    _tell(notices(table, settings.given))
    return _bring_up(settings, purpose, vpn=False)


def _bring_up(settings: Settings, purpose: Purpose, *, vpn: bool) -> int:
    from edgevpn.actors.stages import stages_for
    from edgevpn.actors.template_start import start_template

    # First of all: the template needs a second for its imports, and nothing that we do here.
    stages = stages_for(optional_actors(settings.values, purpose.fields, vpn=vpn))
    without = (*SECRET_ENVIRONMENT, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    template = start_template(stages, without=without)
    try:
        from edgevpn.cli import launch, run_dir, token

        directory = run_dir.choose(settings.values["run-dir"], purpose.name)
        config, notes = launch.node_config(settings, vpn=vpn, run_dir=str(directory), purpose=purpose.fields)
        _tell(notes)
        network = token.read(settings)
        launch.launch(config, network.to_yaml(), launch.STAGE2, template)
    finally:
        template.stop()


def _ask(name: str, given: dict[str, list[str]], words: list[str]) -> int:
    """Run a click command; flags that stood before it go with it."""
    for flag in given:
        if flag not in (*_ASKING_FLAGS, "debug", "help"):
            raise UsageError(f"--{flag} does not go with `edgevpn {name}`")
    before = [f"--{flag}={given[flag][-1]}" for flag in _ASKING_FLAGS if flag in given]
    before += ["--help"] if "help" in given else []
    command = load(name)

    import click

    try:
        result: Any = command.main(args=[*before, *words], prog_name=f"edgevpn {name}", standalone_mode=False)
    except click.ClickException as exc:
        raise UsageError(exc.format_message()) from exc
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _help(table: Iterable[Any], usage: str, text: str) -> int:
    from edgevpn.cli.help_text import help_text

    print(help_text(tuple(table), usage, text), end="")
    return 0


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        complain(line)


if __name__ == "__main__":
    sys.exit(main())
