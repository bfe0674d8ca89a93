"""`edgevpn api-url`: where the running node's dashboard is, with the token that opens it.

The token stands behind the #, which browsers keep to themselves: it is in no request, and so in no log.
"""

from __future__ import annotations

from pathlib import Path

import click

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError, NodeUnreachableError
from edgevpn.proto.messages import Actors, ActorsRequest, ApiInfo, ApiRequest

TOKEN_FILE = "api-token"  # noqa: S105 - the file's name, in the run directory


@click.command(epilog="Example: xdg-open $(sudo edgevpn api-url)")
@node_options
def api_url(run_dir: Path, as_json: bool) -> None:
    """Print the address of the node's dashboard with the token in it. Who sees it can use the API."""
    node = Node(run_dir)
    found: Actors = ask_node(node.ask, "supervisor", ActorsRequest(), Actors)
    if all(actor.name != "api" for actor in found.actors):
        raise NodeUnreachableError("this node serves no API: start it with --api, or as `edgevpn api`")
    info: ApiInfo = ask_node(node.ask, "api", ApiRequest(), ApiInfo)
    token = _token(run_dir) if info.auth == "token" else ""
    url = f"{info.url}/app" + (f"#token={token}" if token else "") if info.url else ""
    if as_json:
        click.echo(output.as_json({"url": url, "listen": info.listen, "auth": info.auth, "token": token}), nl=False)
    elif url:
        click.echo(url)
    else:
        raise EdgevpnError(
            f"the API is at {info.listen}, which no browser opens: use it as this user, like "
            f"`curl --unix-socket {info.listen.removeprefix('unix://')} http://localhost/api/summary`"
        )


def _token(run_dir: Path) -> str:
    try:
        return (run_dir / TOKEN_FILE).read_text(encoding="ascii").strip()
    except OSError as exc:
        raise EdgevpnError(f"can't read the API's token in {run_dir} ({exc.strerror}): try it with sudo") from exc
