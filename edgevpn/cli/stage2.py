"""The second stage of a node's start: a fresh interpreter that holds the token only as a descriptor.

edgevpn/cli/launch.py becomes this by exec. It reads the configuration, keeps the descriptor of the network config
from being inherited by what the node starts, and runs the node (edgevpn/actors/node.py).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence

from edgevpn.actors.stages import stages_for
from edgevpn.actors.template_start import StartedTemplate, adopt_template
from edgevpn.cli.ending import run_guarded
from edgevpn.cli.flags import Flag, parse, settle
from edgevpn.config import NodeConfig
from edgevpn.errors import UsageError

RunNode = Callable[[NodeConfig, int, StartedTemplate | None], int]

_FLAGS = (
    Flag("fd", "int", -1, "", "Descriptor of the network config"),
    Flag("config", "int", -1, "", "Descriptor of the node's configuration"),
    Flag("template-fd", "int", -1, "", "Descriptor of the template's socket"),
    Flag("template-pid", "int", -1, "", "Process of the template"),
)


def main(argv: Sequence[str], run_node: RunNode | None = None) -> int:
    """Run the node that the descriptors in `argv` describe; the exit code. `run_node`: another one, for tests."""
    debug = False

    def work() -> int:
        nonlocal debug
        descriptors = settle(_FLAGS, parse(argv, _FLAGS)[0], {}).values
        config = _read_config(descriptors["config"])
        debug = config.debug
        template = None
        if descriptors["template-pid"] > 0:
            stages = stages_for(config.actors())
            template = adopt_template(descriptors["template-fd"], descriptors["template-pid"], stages)
        os.set_inheritable(descriptors["fd"], False)
        if run_node is not None:
            return run_node(config, descriptors["fd"], template)
        from edgevpn.actors.node import run_node as run_real_node

        return run_real_node(config, descriptors["fd"], template)

    return run_guarded(work, debug=lambda: debug)


def _read_config(descriptor: int) -> NodeConfig:
    try:
        with open(descriptor, "rb") as file:
            return NodeConfig.from_dict(json.load(file))
    except (OSError, ValueError, AttributeError):
        raise UsageError("no configuration was handed over: start a node with `edgevpn`") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
