"""A second stage that runs no node: it says what it was given, then waits for its standard input to end."""

import fcntl
import json
import os
import sys

from edgevpn.actors.template_start import StartedTemplate
from edgevpn.cli import stage2
from edgevpn.config import NodeConfig


def tell(config: NodeConfig, token_fd: int, template: StartedTemplate | None) -> int:
    try:
        os.pwrite(token_fd, b"x", 0)
        writable = True
    except PermissionError:
        writable = False
    print(
        json.dumps(
            {
                "pid": os.getpid(),
                "template": template.process.pid if template is not None else 0,
                "config": config.to_dict(),
                "token_bytes": os.fstat(token_fd).st_size,
                "writable": writable,
                "sealed": fcntl.fcntl(token_fd, fcntl.F_GET_SEALS) != 0,
                "inheritable": os.get_inheritable(token_fd),
            }
        ),
        flush=True,
    )
    sys.stdin.read()
    if template is not None:
        template.stop()
    return 7


if __name__ == "__main__":
    sys.exit(stage2.main(sys.argv[1:], run_node=tell))
