"""`edgevpn completion`: the script that has a shell complete edgevpn's words, and the words only this machine knows.

The scripts call `edgevpn completion --words KIND`, which must be quick and must not disturb: it prints what it finds,
a word a line, and says nothing when there is no node, no right, or no answer.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from edgevpn.cli import run_dir
from edgevpn.errors import EdgevpnError, UsageError

PATIENCE = 0.5  # seconds that a person waits for a TAB
DEFAULT_INTERFACE = "edgevpn0"
_PLAIN = re.compile(r"[A-Za-z0-9_.@+-]{1,64}", re.ASCII)  # shells expand words; there is nothing to expand in these
_NETWORK_DEVICES = Path("/sys/class/net")


@click.command(
    epilog="Examples: source <(edgevpn completion bash); edgevpn completion zsh > ~/.zfunc/_edgevpn; "
    "edgevpn completion fish > ~/.config/fish/completions/edgevpn.fish"
)
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--words", "kind", type=click.Choice(["actors", "logs", "interfaces"]), hidden=True)
@click.option("--run-dir", "directory", envvar="EDGEVPNRUNDIR", default="", hidden=True)
@click.option("--interface", envvar="IFACE", default=DEFAULT_INTERFACE, hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print the words that it knows as JSON instead.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def completion(shell: str | None, kind: str | None, directory: str, interface: str, as_json: bool) -> None:
    """Print a script that completes commands, flags and names in bash, zsh or fish."""
    if kind:
        for word in known_words(kind, directory, interface):
            click.echo(word)
        return
    from edgevpn.cli import completion_scripts, output, words  # all commands are loaded for it

    if as_json:
        found = {" ".join(place.path): place._asdict() for place in words.places()}
        click.echo(output.as_json(found), nl=False)
        return
    if not shell:
        raise UsageError("say for which shell: `edgevpn completion bash`, zsh or fish")
    script = {"bash": completion_scripts.bash, "zsh": completion_scripts.zsh, "fish": completion_scripts.fish}[shell]
    click.echo(script(words.places()), nl=False)


def known_words(kind: str, directory: str, interface: str) -> list[str]:
    """Names of the node's actors ("logs": and of its supervisor), or of the interfaces nodes have; else nothing."""
    try:
        if kind == "interfaces":
            names = {DEFAULT_INTERFACE, *run_dir.names_of_nodes()}
            names |= {path.parent.name for path in _NETWORK_DEVICES.glob("*/tun_flags")}
        else:
            names = _actors(run_dir.choose(directory, interface))
            names -= {"template"} if kind == "logs" else {"template", "supervisor"}
            names |= {"supervisor"} if kind == "logs" and names else set()
    except (EdgevpnError, OSError):
        return []
    return sorted(name for name in names if _PLAIN.fullmatch(name))


def _actors(directory: Path) -> set[str]:
    from edgevpn.cli import direct
    from edgevpn.proto.messages import Actors, ActorsRequest

    return {actor.name for actor in direct.ask(directory, "supervisor", ActorsRequest(), Actors, PATIENCE).actors}
