"""The template: a process that has imported everything, and forks actors on request.

Forking a warm process gives an actor in some 15 ms where starting an interpreter and importing takes half a second
(two with libp2p). The template is started by exec, not forked from the supervisor, so nothing of the supervisor
(its loop, its secrets) is in it; it has one thread, no loop, and no descriptors but its socket and the standard ones.

The forked child is the *supervisor's* child (linux_process.fork_sibling), so it is waited for and killed as any other
and survives the template. It answers the request itself, as its first act: when the supervisor kills a template that
does not answer and reads the socket to its end, it knows of every child that exists.

Imports come in stages: between two modules the socket is looked at, and a request is served as soon as the stage that
it needs is complete. After a stage the memory is made ready to be shared for long (shared_pages.py).

Protocol, one JSON object a SEQPACKET message:
  to us:    {"id", "needs": stage name, "settings": child_entry.ChildSettings}, with the descriptors (SCM_RIGHTS)
  from us:  {"stage": name}, {"stage": name, "failed": why} as they come; {"unfit": why} once, if we can't fork at all
            {"id", "pid"} by the new child, or {"id", "error": why}
End of file: the supervisor is gone, so are we.

Started by root it stays root, for its children are to become other users, but keeps no other right of root's.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from edgevpn.actors import linux_process, readable_imports, seccomp_profile, shared_pages
from edgevpn.actors.child_entry import ChildSettings, run_child
from edgevpn.actors.template_start import BASE_STAGE

_BASE_MODULES = ("trio", "msgspec", "msgpack", "edgevpn.actors.tractor_sockets", "edgevpn.actors.actor_entry")
_MESSAGE_SIZE = 65536
_MOST_DESCRIPTORS = 64
# Switches that make a module start a thread while it is imported. They are put back for the children.
_SWITCHES_OF_IMPORTS = ("LIBP2P_DEBUG",)


class Template:
    """The template's state: the socket, the complete stages, and the requests that wait for theirs."""

    def __init__(self, sock: socket.socket, parent_pid: int) -> None:
        self._socket = sock
        self._parent_pid = parent_pid
        self._title = linux_process.TitleArea()
        self._title.write("edgevpn-template")
        self._known: set[str] = set()
        self._complete: set[str] = set()
        self._failed: dict[str, str] = {}
        self._waiting: list[tuple[dict[str, Any], list[int]]] = []
        self._randoms: list[random.Random] = []
        self._switches = {name: os.environ.pop(name) for name in _SWITCHES_OF_IMPORTS if name in os.environ}

    def run(self, stages: Sequence[tuple[str, Sequence[str]]]) -> NoReturn:
        """Import `stages` in their order, serving requests on the way; then serve for ever."""
        if not linux_process.can_fork_siblings():
            self._send({"unfit": "this kernel or machine has no way to fork for the parent"})
        self._known = {name for name, _ in stages}
        for name, modules in stages:
            self._import_stage(name, modules)
        while True:
            self._receive()

    def _import_stage(self, name: str, modules: Sequence[str]) -> None:
        gc.disable()  # a collection during imports only moves what will be frozen anyway
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # noqa: BLE001 - a module's import can raise anything; the stage is what failed
                self._failed[name] = f"{module}: {type(error).__name__}: {error}"
                self._send({"stage": name, "failed": self._failed[name]})
                break
            while select.select([self._socket], [], [], 0)[0]:
                self._receive()
        else:
            self._complete.add(name)
            self._find_randoms()
            if os.geteuid() == 0:
                readable_imports.keep_readable()
            if name == BASE_STAGE:
                from edgevpn.actors.rehearsal import rehearse  # imports what only now is imported

                rehearse()
                seccomp_profile.prepare()
            shared_pages.settle()
            self._send({"stage": name})
        for waiting in [entry for entry in self._waiting if entry[0]["needs"] == name]:
            self._waiting.remove(waiting)
            self._serve(*waiting)

    def _find_randoms(self) -> None:
        """Every generator that some module keeps: forked siblings would draw the same numbers from them."""
        found: dict[int, random.Random] = {}
        for module in list(sys.modules.values()):
            for value in list(vars(module).values()) if hasattr(module, "__dict__") else ():
                if type(value) is random.Random:
                    found[id(value)] = value
        self._randoms = list(found.values())

    def _receive(self) -> None:
        """Take one request from the socket; end when the supervisor is gone."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _MESSAGE_SIZE, socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            os._exit(0)
        if not data:
            os._exit(0)
        received = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(content[: len(content) // 4 * 4])
        self._serve(json.loads(data), list(received))

    def _serve(self, request: dict[str, Any], descriptors: list[int]) -> None:
        needs = request["needs"]
        if needs in self._failed:
            self._refuse(request, f"stage {needs} failed: {self._failed[needs]}")
        elif needs not in self._known:
            self._refuse(request, f"there is no stage {needs}")
        elif needs not in self._complete:
            self._waiting.append((request, descriptors))
            return
        else:
            self._fork(request, descriptors)
        for fd in descriptors:
            os.close(fd)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        gc.freeze()  # modules of an unfinished later stage, and what requests left
        try:
            settings = ChildSettings.from_json(request["settings"])
            pid = linux_process.fork_sibling()
        except (OSError, RuntimeError, TypeError) as error:
            self._refuse(request, str(error))
            return
        if pid == 0:
            self._become_child(request["id"], settings, descriptors)

    def _become_child(self, request_id: int, settings: ChildSettings, descriptors: list[int]) -> NoReturn:
        try:
            for _, unused in self._waiting:
                for fd in unused:
                    os.close(fd)
            self._send({"id": request_id, "pid": os.getpid()})
            self._socket.close()
            for name, value in self._switches.items():
                os.environ[name] = value
        except BaseException:  # noqa: BLE001 - never back into the template's stack
            os._exit(71)
        run_child(settings, descriptors, self._parent_pid, self._title, self._randoms)

    def _refuse(self, request: dict[str, Any], why: str) -> None:
        self._send({"id": request["id"], "error": why})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(json.dumps(message).encode())
        except ConnectionError:
            os._exit(0)


def main(arguments: Sequence[str]) -> NoReturn:
    """`python -m edgevpn.actors.template FD PARENT_PID STAGES` with STAGES as name=module,module;name=module."""
    linux_process.die_with_parent(int(arguments[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for the group: the supervisor ends us
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)  # it was for our own imports, see template_start.python_environment
    if os.geteuid() == 0:  # all that it needs of root's rights: to make its children other users, one of real time
        linux_process.keep_capabilities(linux_process.CAP_SETGID, linux_process.CAP_SETUID, linux_process.CAP_SYS_NICE)
    sock = socket.socket(fileno=int(arguments[0]))
    sock.set_inheritable(False)
    stages: list[tuple[str, Sequence[str]]] = [(BASE_STAGE, _BASE_MODULES)]
    for stage in filter(None, arguments[2].split(";")):
        name, _, modules = stage.partition("=")
        stages.append((name, tuple(filter(None, modules.split(",")))))
    Template(sock, int(arguments[1])).run(stages)


if __name__ == "__main__":
    from edgevpn.actors import template  # noqa: PLW0406 - the copy that others import, not __main__

    template.main(sys.argv[1:])
