"""Completion in real shells, of words that are on the command line and of names that a node's supervisor tells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevpn.cli import completion, completion_scripts, words
from edgevpn.cli.commands import ALIASES, COMMANDS
from edgevpn.cli.node_commands import NODE_COMMANDS
from edgevpn.proto import messages
from edgevpn.proto.messages import Actors, ActorStatus, Hello, Reply

PROGRAM = Path(__file__).parents[2] / ".venv" / "bin" / "edgevpn"
PLACES = words.places()
BY_PATH = {place.path: place for place in PLACES}
needs_zsh = pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
needs_fish = pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")

_BASH = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_edgevpn
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("completion")
    made = {"bash": completion_scripts.bash, "zsh": completion_scripts.zsh, "fish": completion_scripts.fish}
    paths = {}
    for shell, script in made.items():
        paths[shell] = directory / f"edgevpn.{shell}"
        paths[shell].write_text(script(PLACES))
    return paths


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A run directory in which a supervisor's socket answers one question after another."""
    names = ["supervisor", "template", "host", "ledger", "tun", "$(reboot)"]
    reply = Actors([ActorStatus(name, 1, "ready", 0, 1.0, 0, "") for name in names])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "supervisor.sock"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(messages.encode(Hello(messages.VERSION, "supervisor")))
                    client.sendall(messages.encode(Reply(reply)))
                    client.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield tmp_path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def in_bash(script: Path, *line: str, program: str = str(PROGRAM)) -> list[str]:
    """What bash offers for the last of the words, which are cut as bash cuts them."""
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(
        ["bash", "--norc", "-c", _BASH, "bash", str(script), program, *line],
        capture_output=True,
        text=True,
        timeout=30,
        env=environ,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_every_command_and_alias_of_the_tables_is_a_place() -> None:
    firsts = {place.path[0] for place in PLACES if place.path}
    assert firsts == {*COMMANDS, *NODE_COMMANDS, *ALIASES}
    assert set(BY_PATH[()].commands) == {*COMMANDS, *NODE_COMMANDS, "help"}
    names = {name.lstrip("-") for place in PLACES for option in place.options for name in option.names}
    assert set(words.FLAG_VALUES) <= names
    kinds = [value.kind for place in PLACES for value in place.arguments]
    assert [kind for kind in kinds if kind not in ("any", "words", "file")] == ["actors", "logs", "actors"]


def test_bash_offers_at_every_place_what_the_tables_have(scripts: dict[str, Path]) -> None:
    for place in PLACES:
        if place.commands:
            assert in_bash(scripts["bash"], *place.path, "") == list(place.commands)
        offered = [word.removesuffix("=false") for word in in_bash(scripts["bash"], *place.path, "-")]
        assert offered == [name for option in place.options for name in option.names], place.path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["sta"], ["start", "status"]),
        (["--interface", "edgevpn0", "stat"], ["status"]),
        (["--address", "10.1.0.1/24", "--dhcp", "--api-listen", "127.0.0.1", ":", "80", "stat"], ["status"]),
        (["--log-level", ""], ["debug", "info", "warn", "error", "fatal"]),
        (["--log-level", "="], ["debug", "info", "warn", "error", "fatal"]),
        (["--log-level", "=", "w"], ["warn"]),
        (["--log-level=w"], ["--log-level=warn"]),
        (["-dns-system", "r"], ["resolved", "resolv.conf"]),
        (["--dht", "=", ""], ["true", "false"]),
        (["--path", "s"], ["stream"]),
        (["fs", "--path", "/pro"], ["/proc"]),
        (["file-send", "photos", "/pro"], ["/proc"]),
        (["start", "--privkey-cache-dir", "/pro"], ["/proc"]),
        (["peergater", "re"], ["revoke"]),
        (["actors", ""], ["restart"]),
        (["ledger", "mach"], ["machines"]),
        (["logs", "--level", "w"], ["warning"]),
        (["dns-add", "--name", "wiki.lan", "AA"], ["AAAA"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["statsu", ""], []),
        (["service-add", "web", "--"], []),  # flags stand before the words
    ],
)
def test_bash_completes_what_stands_there(scripts: dict[str, Path], line: list[str], offered: list[str]) -> None:
    assert in_bash(scripts["bash"], *line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["repl", "{}", ""], ["host", "ledger", "tun"]),
        (["actors", "{}", "restart", "l"], ["ledger"]),
        (["logs", "{}", ""], ["host", "ledger", "supervisor", "tun"]),
        (["{}", "repl", "h"], ["host"]),
    ],
)
@pytest.mark.skipif(not PROGRAM.exists(), reason="the command edgevpn is not installed in .venv")
def test_actors_come_from_the_running_node(
    scripts: dict[str, Path], node: Path, line: list[str], offered: list[str]
) -> None:
    words_ = [word for one in line for word in (["--run-dir", str(node)] if one == "{}" else [one])]
    assert in_bash(scripts["bash"], *words_) == offered
    assert in_bash(scripts["bash"], *[w for w in words_ if w not in ("--run-dir", str(node))]) == []


def test_without_a_node_or_with_one_that_is_stuck_there_are_no_names_and_soon(tmp_path: Path) -> None:
    assert completion.known_words("actors", str(tmp_path), "edgevpn0") == []
    assert completion.known_words("logs", "/" + "x" * 200, "edgevpn0") == []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "supervisor.sock"))
        listener.listen()
        began = time.monotonic()
        assert completion.known_words("actors", str(tmp_path), "edgevpn0") == []
        assert time.monotonic() - began < 3 * completion.PATIENCE


def test_interfaces_are_those_of_nodes_and_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgevpn" / "vpn7").mkdir(parents=True)
    (tmp_path / "edgevpn" / "vpn7" / "supervisor.sock").touch()
    monkeypatch.setattr(completion.run_dir, "names_of_nodes", lambda: ["vpn7", "$(reboot)"])
    found = completion.known_words("interfaces", "", "")
    assert {"edgevpn0", "vpn7"} <= set(found)
    assert "$(reboot)" not in found


@needs_fish
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sta", ["start", "status"]),
        ("--interface edgevpn0 stat", ["status"]),
        ("--log-level w", ["warn"]),
        ("--log-level=w", ["--log-level=warn"]),
        ("actors ", ["restart"]),
        ("peergater re", ["revoke"]),
        ("ledger mach", ["machines"]),
        ("start --listen-m", ["--listen-maddrs"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("dns-add --name wiki.lan AA", ["AAAA"]),
    ],
)
def test_fish_completes_what_stands_there(
    scripts: dict[str, Path], tmp_path: Path, line: str, offered: list[str]
) -> None:
    code = f"source {scripts['fish']}; complete -C'edgevpn {line}'"
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(["fish", "-N", "-c", code], capture_output=True, text=True, timeout=60, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text.partition("\t")[0] for text in done.stdout.splitlines()] == offered


@needs_zsh
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("edgevpn stat", "edgevpn status "),
        ("edgevpn --interface edgevpn0 stat", "edgevpn --interface edgevpn0 status "),
        ("edgevpn --log-level w", "edgevpn --log-level warn "),
        ("edgevpn --log-level=w", "edgevpn --log-level=warn "),
        ("edgevpn actors r", "edgevpn actors restart "),
        ("edgevpn peergater rev", "edgevpn peergater revoke "),
        ("edgevpn ledger mach", "edgevpn ledger machines "),
        ("edgevpn start --listen-m", "edgevpn start --listen-maddrs="),
        ("edgevpn dns-add --name wiki.lan AAA", "edgevpn dns-add --name wiki.lan AAAA "),
    ],
)
def test_zsh_completes_what_stands_there(scripts: dict[str, Path], tmp_path: Path, line: str, completed: str) -> None:
    setup = f"autoload -Uz compinit && compinit -u -D\nsource {scripts['zsh']}\n"
    assert in_zsh(tmp_path, setup, line) == completed


@needs_zsh
def test_zsh_finds_the_script_among_its_functions(scripts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(scripts["zsh"], tmp_path / "_edgevpn")
    setup = f"fpath=({tmp_path} $fpath)\nautoload -Uz compinit && compinit -u -D\n"
    assert in_zsh(tmp_path, setup, "edgevpn stat") == "edgevpn status "


def in_zsh(directory: Path, setup: str, line: str) -> str:
    """What a TAB in a terminal with zsh makes of the line."""
    result = directory / "line"
    (directory / ".zshrc").write_text(
        f"PS1='ready> '\n{setup}"
        f'shown() {{ print -r -- "$BUFFER" > {result}.new; mv {result}.new {result}; }}\n'
        "zle -N shown\nbindkey '^X' shown\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-d", "-i"], {**os.environ, "ZDOTDIR": str(directory), "TERM": "dumb"})  # noqa: S606
    try:
        seen = b""
        deadline = time.monotonic() + 30
        while b"ready> " not in seen and time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 4096)
        os.write(terminal, line.encode() + b"\t\x18")
        while not result.exists() and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.05)[0]:
                seen += os.read(terminal, 4096)
        assert result.exists(), seen
        return result.read_text().removesuffix("\n")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
