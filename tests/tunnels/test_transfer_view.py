"""What a transfer shows: a bar on a terminal, one JSON value for a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CODE = """
import sys, trio
from edgevpn.cli.transfer_view import TransferView
from edgevpn.tunnels.file_receive import Progress

async def main():
    view = TransferView(as_json=sys.argv[1] == "json")
    progress = Progress(size=1000, files=2, current="evil\\x1b[2Jname [red]", changed=view.changed)
    view.progress = progress
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.run)
        for _ in range(10):
            progress.add(50)
            await trio.sleep(0.05)
        view.say("a line [bold] for people")
        view.stop()
        nursery.cancel_scope.cancel()
    view.result({"size": 1000})

trio.run(main)
"""


def run(how: str) -> tuple[str, str]:
    """(stdout, what a terminal got on stderr)."""
    master, slave = os.openpty()
    with subprocess.Popen([sys.executable, "-c", CODE, how], stdout=subprocess.PIPE, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the other side is closed
                break
            shown += data
        output, _ = process.communicate(timeout=20)
    os.close(master)
    assert process.returncode == 0, shown
    return output.decode(), shown.decode()


def test_a_terminal_gets_a_bar_with_size_and_speed_and_no_orders_of_a_peers() -> None:
    output, shown = run("people")
    assert output == ""
    assert "/1,000 bytes" in shown
    assert "/s" in shown
    assert "a line [bold] for people" in shown
    assert "\x1b[2J" not in shown
    assert "evil?" in shown


def test_a_script_gets_json_and_nothing_else() -> None:
    output, shown = run("json")
    assert json.loads(output) == {"size": 1000}
    assert shown == ""
