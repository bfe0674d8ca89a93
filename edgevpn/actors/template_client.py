"""The supervisor's side of the template (edgevpn/actors/template.py): asks it for children, and replaces it.

One task (`run`) owns the template's life: it reads the socket, hands the answers to who asked, and at the socket's end
buries the template and starts a new one, at once after a good life, with growing pauses after bad starts.

A template that does not answer in time is killed *before* its requests are given up, and the socket is read to its end
all the same: a child answers for itself, so whatever was forked is known, and nothing is forked later. The caller then
starts the child the plain way (`TemplateDownError` says so). One that stands still by a signal is seen by that, soon
when nobody asks it, at once when somebody does, and killed: an actor's restart need not wait for it.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from edgevpn.actors.child_entry import ChildSettings
from edgevpn.actors.child_spawn import adopt_child
from edgevpn.actors.linux_process import is_stopped
from edgevpn.actors.template_start import BASE_STAGE, StartedTemplate, start_template

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from edgevpn.actors.template_start import Stages

ANSWER_TIMEOUT = 2.0  # seconds for a template that has imported everything
LOADING_TIMEOUT = 10.0  # seconds while it may be in a long import
STOPPED_PERIOD = 0.7  # seconds between two looks whether it stands still; seen twice, it is killed
STOPPED_PAUSE = 0.02  # ... when a child is wanted: whoever stopped the whole node may just be letting it go on
DRAIN_TIMEOUT = 1.0  # seconds for the last answers after it was killed
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before a new template when one died before it was of use
_MESSAGE_SIZE = 65536

_log = logging.getLogger(__name__)


class TemplateDownError(Exception):
    """No child comes from the template now; the text says why. Start it the plain way."""


@dataclass(frozen=True, slots=True)
class TemplateState:
    """How the template fares: `status` is off, loading, ready, unfit (it can't fork here) or down (one comes soon)."""

    status: str
    pid: int | None
    stages: tuple[str, ...]  # complete ones
    failed_stages: dict[str, str]  # and why
    forks: int
    restarts: int
    trouble: str  # the last thing that went wrong, or ""


@dataclass(slots=True)
class _Asked:
    answered: trio.Event = field(default_factory=trio.Event)
    pid: int | None = None
    error: str = ""
    abandoned: bool = False  # nobody waits any more: a child that still comes is killed


class TemplateClient:
    """Children from a template, one template after the other. `template` is one that was started before, if any."""

    def __init__(self, stages: Stages = (), template: StartedTemplate | None = None) -> None:
        self._stages = stages
        self._template = template
        self._socket: trio.socket.SocketType | None = None
        self._asked: dict[int, _Asked] = {}
        self._last_id = 0
        self._complete: list[str] = []
        self._failed: dict[str, str] = {}
        self._unfit = False
        self._forks = self._restarts = 0
        self._trouble = self._last_trouble = ""  # of this template, of one before
        self._useful = False  # whether this template came to the end of its imports

    @property
    def state(self) -> TemplateState:
        """How it fares now."""
        if self._unfit:
            status = "unfit"
        elif self._socket is None or self._template is None:
            status = "down"
        else:
            status = "loading" if self._loading else "ready"
        pid = self._template.process.pid if self._template else None
        trouble = self._trouble or self._last_trouble
        return TemplateState(
            status, pid, tuple(self._complete), dict(self._failed), self._forks, self._restarts, trouble
        )

    @property
    def _loading(self) -> bool:
        return len(self._complete) + len(self._failed) < len(self._stages) + 1

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a template running until cancelled; then end it. Start it in the supervisor's main thread."""
        pause = FIRST_PAUSE
        try:
            while not self._unfit:
                self._useful = False
                try:
                    self._take_up(self._template or start_template(self._stages))
                except OSError as error:
                    self._trouble = f"can't start a template: {error}"
                else:
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch)
                        await self._read_to_end()
                        nursery.cancel_scope.cancel()
                    self._bury()
                if not self._unfit:
                    self._last_trouble = self._trouble = self._trouble or "it was killed"
                    _log.warning("the template process ended (%s); a new one starts", self._trouble)
                    if self._useful:
                        pause = FIRST_PAUSE
                    else:
                        await trio.sleep(pause)
                        pause = min(2 * pause, LONGEST_PAUSE)
                    self._restarts += 1
            task_status.started()
            await trio.sleep_forever()
        finally:
            await self._end()

    async def spawn(
        self, settings: ChildSettings, needs: str = BASE_STAGE, descriptors: Sequence[int] = ()
    ) -> trio.Process:
        """A child with `settings`, forked as soon as the stage `needs` is imported. Raises TemplateDownError.

        When cancelled, a child that still comes of it is killed.
        """
        if self._socket is None or self._template is None:
            raise TemplateDownError(self._trouble or "no template runs")
        if needs in self._failed:
            raise TemplateDownError(f"stage {needs} failed: {self._failed[needs]}")
        sock, template = self._socket, self._template
        self._last_id += 1
        number, asked = self._last_id, _Asked()
        request = {"id": number, "needs": needs, "settings": settings.to_json()}
        passed = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())] if descriptors else []
        )
        timeout = LOADING_TIMEOUT if self._loading else ANSWER_TIMEOUT
        self._asked[number] = asked
        try:
            with trio.move_on_after(timeout):
                await self._kill_if_stopped(template, STOPPED_PAUSE)
                with contextlib.suppress(OSError, trio.ClosedResourceError):  # it died: the reader tells all who ask
                    await sock.sendmsg([json.dumps(request).encode()], passed)
                await asked.answered.wait()
            if not asked.answered.is_set():
                self._trouble = f"it did not answer in {timeout:g} s"
                template.process.kill()
                with trio.move_on_after(DRAIN_TIMEOUT):
                    await asked.answered.wait()
        except trio.Cancelled:
            if asked.pid is not None:
                _kill_and_reap(asked.pid)
            asked.abandoned = True
            raise
        if asked.pid is None:
            asked.abandoned = True
            raise TemplateDownError(asked.error or self._trouble)
        return adopt_child(asked.pid, settings)

    async def _watch(self) -> None:
        """End a template that stands still, which nobody else would notice before an actor dies."""
        while self._template is not None:
            await trio.sleep(STOPPED_PERIOD)
            await self._kill_if_stopped(self._template, STOPPED_PERIOD)

    async def _kill_if_stopped(self, template: StartedTemplate, pause: float) -> None:
        if is_stopped(template.process.pid):
            await trio.sleep(pause)
            if template is self._template and is_stopped(template.process.pid):
                self._trouble = "it was stopped by a signal"
                template.process.kill()

    def _take_up(self, template: StartedTemplate) -> None:
        self._template = template
        self._complete, self._failed, self._trouble = [], {}, ""
        self._socket = trio.socket.from_stdlib_socket(template.socket)

    async def _read_to_end(self) -> None:
        while self._socket is not None:
            try:
                data = await self._socket.recv(_MESSAGE_SIZE)
            except ConnectionResetError:
                continue  # it died with requests unread: said once, and before what it and its children had answered
            except OSError:
                return
            if not data:
                return
            self._take_message(json.loads(data))

    def _take_message(self, message: dict[str, Any]) -> None:
        if "unfit" in message:
            self._unfit = True
            self._trouble = message["unfit"]
            if self._template is not None:
                self._template.process.kill()
        elif "failed" in message:
            self._failed[message["stage"]] = message["failed"]
            self._trouble = f"stage {message['stage']} failed: {message['failed']}"
            _log.warning("the template process: %s", self._trouble)
        elif "stage" in message:
            self._complete.append(message["stage"])
        else:
            self._take_answer(message)
        self._useful = self._useful or not self._loading

    def _take_answer(self, message: dict[str, Any]) -> None:
        asked = self._asked.pop(message["id"], None)
        pid = message.get("pid")
        if pid is not None:
            self._forks += 1
            if asked is None or asked.abandoned:
                _kill_and_reap(pid)
                return
        if asked is not None:
            asked.pid, asked.error = pid, message.get("error", "")
            asked.answered.set()

    def _bury(self) -> None:
        """After the socket's end: reap the template, tell who still waits."""
        if self._template is not None:
            self._template.process.kill()
            self._template.process.wait()
            self._template = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        asked, self._asked = self._asked, {}
        for request in asked.values():
            request.error = self._trouble or "the template process ended"
            request.answered.set()

    async def _end(self) -> None:
        if self._socket is None or self._template is None:
            return
        self._template.process.kill()
        for request in self._asked.values():
            request.abandoned = True
        with trio.CancelScope(deadline=trio.current_time() + DRAIN_TIMEOUT, shield=True):
            await self._read_to_end()
        self._bury()


def _kill_and_reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # our child, not reaped yet: the pid can't be another's
    os.waitpid(pid, 0)
