"""The command `edgevpn`: which command is meant, and how its end is told.

Without a command (or with `start`) it brings up a node: flags, token, then edgevpn/cli/launch.py. The commands that
ask a running node are click commands in modules of their own. Everything but this file and the flag table is imported
when it is needed: a start spends its first tenth of a second here.

Errors end in one line on stderr and an exit code (edgevpn/errors.py); --debug shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from edgevpn import __version__
from edgevpn.cli.flags import ROOT, SECRET_ENVIRONMENT, Settings, closest, notices, parse, settle
from edgevpn.cli.node_commands import NODE_COMMANDS, Purpose, optional_actors
from edgevpn.errors import EdgevpnError, UsageError

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
_ASKING_FLAGS = ("run-dir", "interface")  # may also stand before an asking command


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


def run_guarded(work: Callable[[], int], *, debug: Callable[[], bool]) -> int:
    """Call `work` and turn whatever ends it into an exit code and at most one line on stderr.

    `debug`: asked after a failure, whether to show its traceback.
    """
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Keep the interpreter from trying, and failing, to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except BaseException as exc:
        if isinstance(exc, SystemExit):
            raise
        if debug():
            import traceback

            traceback.print_exception(exc)
        reason = _reason(exc)
        if isinstance(reason, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        if isinstance(reason, EdgevpnError):
            complain(str(reason))
            return reason.exit_code
        complain(f"unexpected {type(reason).__name__}: {reason} (run it with --debug for the traceback)")
        return 1
    return code


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"edgevpn: {' '.join(text.split())}", file=sys.stderr)


def _reason(exc: BaseException) -> BaseException:
    """What to tell of `exc`: of a group's leaves the first meant for the user, else an interrupt, else the first."""
    leaves = list(_leaves(exc))
    for kind in (EdgevpnError, KeyboardInterrupt):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(exc: BaseException) -> Iterable[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


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


def load(name: str) -> Any:
    """The click command `name` of COMMANDS."""
    return load_named(COMMANDS[name].target)


def load_named(target: str) -> Any:
    """What "module:name" names."""
    import importlib

    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _help(table: Iterable[Any], usage: str, text: str) -> int:
    from edgevpn.cli.reference import help_text

    print(help_text(tuple(table), usage, text), end="")
    return 0


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        complain(line)


if __name__ == "__main__":
    sys.exit(main())
