"""The commands that bring up a node without an interface: `edgevpn start`, and those that start it for one purpose.

As in the Go program, `edgevpn dns` or `edgevpn service-add` is a node of its own: it joins the network like `start`
and does one thing more. A row of `NODE_COMMANDS` says which flags the command takes besides the common ones, and
which function turns flags and words into what the node's configuration has besides (`Purpose`).

Light on purpose: the command line reads it in its first milliseconds. A row names its function by "module:function".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edgevpn.cli.flags import COMMON, Flag, Settings
from edgevpn.errors import UsageError

START_NAME = "start"  # of the run directory of a node without an interface


class Purpose(NamedTuple):
    """What a node is for: the name of its run directory, and fields of its NodeConfig."""

    name: str
    fields: Mapping[str, Any]


class NodeCommand(NamedTuple):
    """A command that brings up a node. `flags`: those it takes besides COMMON.

    `purpose`: "module:function" of a function (settings, words) -> Purpose that raises UsageError.
    """

    flags: tuple[Flag, ...]
    purpose: str
    usage: str
    help: str

    @property
    def table(self) -> tuple[Flag, ...]:
        return self.flags + COMMON


def plain(_: Settings, words: Sequence[str]) -> Purpose:
    """`edgevpn start`: nothing but to be there."""
    if words:
        raise UsageError("`edgevpn start` takes flags only")
    return Purpose(START_NAME, {})


NODE_COMMANDS: dict[str, NodeCommand] = {
    "start": NodeCommand((), f"{__name__}:plain", "start [FLAGS]", "Join the network without an interface"),
}
