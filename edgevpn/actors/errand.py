"""A node's errand: a process of the caller's that does one thing with the node, whose end is the node's end.

`edgevpn file-send` and `file-receive` are such nodes. Files belong to who runs the command, and actors run as a user
who can neither read nor write them; so the transfer is done by a process beside the actors, with the caller's rights,
and with nothing of the node's but its sockets: no token, no key. It reads what a peer sends, so it gives up whatever
the transfer does not need (`confine`) first. It speaks on the terminal, and its exit code is the command's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

import trio

from edgevpn.actors import linux_process, seccomp_profile
from edgevpn.actors.template_start import python_command, python_environment

MODULE = "edgevpn.cli.transfer"
GRACE = 3.0  # seconds for it to take back what it announced


def confine() -> None:
    """Leave this process, an errand, what it takes to read and write the caller's files and to speak with the node.

    Of root's rights only those over files, no sockets but Unix ones, no program to start. Without libseccomp (the node
    says so of its actors) the rights over other processes, the network and the machine are gone all the same.
    """
    if os.geteuid() == 0:
        files = (linux_process.CAP_DAC_OVERRIDE, linux_process.CAP_DAC_READ_SEARCH, linux_process.CAP_FOWNER)
        linux_process.keep_capabilities(*files)
    linux_process.forbid_new_privileges()
    seccomp_profile.confine(seccomp_profile.LOCAL)


class Errand:
    """Starts it, waits for it, ends it."""

    def __init__(self, run_dir: str, words: Sequence[str]) -> None:
        self._command = python_command(MODULE, run_dir, str(os.getpid()), *words)
        self._process: subprocess.Popen[bytes] | None = None
        self._over = trio.Event()
        self._is_asked = False  # to end
        self.code = 1  # its exit code, when it is over; a signal counts as 128 and its number, as shells count

    async def run(self) -> None:
        """Until it is over."""
        # From this thread, not from one of trio's: it dies with the thread that started it (prctl(2)).
        self._process = subprocess.Popen(self._command, env=python_environment())  # noqa: ASYNC220, S603
        descriptor = os.pidfd_open(self._process.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
            self._reap()

    async def end(self) -> None:
        """Ask it to end, and wait for that, GRACE seconds at most."""
        if self._process is None or self._over.is_set():
            return
        self._is_asked = True
        self._process.send_signal(signal.SIGTERM)
        with trio.move_on_after(GRACE) as scope:
            scope.shield = True
            await self._over.wait()

    def _reap(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - it was started
        if process.poll() is None:
            process.kill()
        code = process.wait()
        if self._is_asked and code == -signal.SIGTERM:  # before it could listen to us: it was interrupted all the same
            code = -signal.SIGINT
        self.code = code if code >= 0 else 128 - code
        self._over.set()
