"""A real terminal for tests: a tmux server of its own, with one window.

    with Terminal(directory) as terminal:
        terminal.type("edgevpn repl ledger")
        terminal.wait_for("ledger> ")

What is on the screen is read as text; keys are sent as a person presses them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from scripts.labkit.namespaces import LabError
from scripts.labkit.nodes import environment


class Terminal:
    """One window with a shell, or `command`, of `columns` x `rows` characters."""

    def __init__(self, directory: Path, command: Sequence[str] = (), *, columns: int = 150, rows: int = 50) -> None:
        """`directory`: for the server's socket, and the home of what runs in it."""
        self._socket = directory / "tmux"
        self._last = ""
        words = list(command) or ["bash", "--norc", "--noprofile"]
        env = environment(
            HOME=str(directory), XDG_STATE_HOME=str(directory / "state"), PS1="$ ", TERM="screen", LC_ALL="C.UTF-8"
        )
        env.pop("TMUX", None)
        size = ["-x", str(columns), "-y", str(rows)]
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", "new-session", "-d", *size, *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=10,
        )
        if done.returncode:
            raise LabError(f"tmux does not start: {done.stderr.strip()}")
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(f"--- the terminal\n{self.screen()}")
        self.close()

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def write(self, text: str) -> None:
        """Type without Enter."""
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Tab, Up, C-c, C-d."""
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        """All lines, also those that have scrolled away, without blanks at their ends."""
        text = self._tmux("capture-pane", "-p", "-J", "-S", "-2000")
        self._last = "\n".join(line.rstrip() for line in text.splitlines()).rstrip()
        return self._last

    def clear(self) -> None:
        """Forget what was on the screen. For use at a prompt, which is drawn again."""
        self.press("C-l")
        time.sleep(0.05)  # the program draws before tmux forgets
        self._tmux("clear-history")

    def wait_for(self, wanted: str | Callable[[str], object], timeout: float = 5.0) -> str:
        """The screen once `wanted` is on it, or is true of it. Raises LabError."""
        deadline = time.monotonic() + timeout
        while True:
            screen = self.screen()
            if wanted in screen if isinstance(wanted, str) else wanted(screen):
                return screen
            if time.monotonic() > deadline:
                what = repr(wanted) if isinstance(wanted, str) else "what is waited for"
                raise LabError(f"{what} is not on the terminal after {timeout:g} s:\n{screen}")
            time.sleep(0.005)

    def processes(self) -> list[int]:
        """The shell's children."""
        shell = self._tmux("list-panes", "-F", "#{pane_pid}").strip()
        found = Path(f"/proc/{shell}/task/{shell}/children")
        return [int(pid) for pid in found.read_text().split()] if found.exists() else []

    def close(self) -> None:
        """The terminal is gone: what runs in it gets SIGHUP."""
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, timeout=10, check=False)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", os.fspath(self._socket), *words], capture_output=True, text=True, timeout=10, check=False
        )
        if done.returncode:
            raise LabError(f"tmux {words[0]}: {done.stderr.strip()}")
        return done.stdout
