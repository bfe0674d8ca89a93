"""`edgevpn tunnels`: what the running node offers and listens for, and how much is open."""

from __future__ import annotations

from pathlib import Path

import click

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.proto.messages import Tunnels, TunnelsRequest


@click.command(epilog="Example: edgevpn tunnels --json")
@node_options
def tunnels(run_dir: Path, as_json: bool) -> None:
    """Show services (offered, and listened for), egress and proxy of the node.

    OPEN: tunnels now (of UDP: flows). SERVED, FAILED: since the tunnels actor began.
    """
    found: Tunnels = ask_node(Node(run_dir).ask, "tunnels", TunnelsRequest(), Tunnels)
    if as_json:
        rows = [{name: getattr(one, name) for name in one.__struct_fields__} for one in found.tunnels]
        click.echo(output.as_json(rows), nl=False)
        return
    columns = ("what", "name", "place", "open", "served", "failed", "note")
    rows_of_text = [
        (one.what, one.name or "-", one.place or "-", one.open, one.served, one.failed, one.note or "-")
        for one in found.tunnels
    ]
    click.echo(output.table(columns, rows_of_text), nl=False)
