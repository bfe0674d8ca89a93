"""`edgevpn peergater`: keys for --peerguard, and which of them the network's nodes accept.

`ecdsa-genkey` is the Go program's; the others ask a running node: the keys of the trust zone are entries in the
ledger's bucket `trustzoneAuth`, and any trusted node may write them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import NodeUnreachableError, UntrustedDataError, UsageError
from edgevpn.proto import peerguard, trust_challenge
from edgevpn.proto.messages import Announce, Done, Gate, LedgerReply, LedgerRequest, Trusted, Withdraw
from edgevpn.proto.values import TRUSTZONE_AUTH, write_text


@click.group(invoke_without_command=True, epilog="Example: edgevpn peergater ecdsa-genkey")
@click.option("--run-dir", "run_dir", default="", hidden=True)
@click.option("--interface", "interface", default="", hidden=True)
@click.pass_context
def peergater(context: click.Context, run_dir: str, interface: str) -> None:
    """Make keys for --peerguard, and say which ones the network accepts."""
    given: dict[str, Any] = {name: value for name, value in (("run_dir", run_dir), ("interface", interface)) if value}
    context.default_map = dict.fromkeys(("accept", "revoke", "status"), given)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@peergater.command("ecdsa-genkey", epilog="Example: edgevpn peergater ecdsa-genkey --json")
@click.option("--privkey", is_flag=True, help="Print a private key only.")
@click.option("--pubkey", is_flag=True, help="Print a public key only (whose private key is lost).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def genkey(privkey: bool, pubkey: bool, as_json: bool) -> None:
    """Make a key pair: the private key goes into --peergate-auth of a node, the public one to `peergater accept`."""
    private, public = peerguard.generate_key_pair()
    if as_json:
        both = {"private_key": private, "public_key": public}
        wanted = {"private_key"} if privkey else {"public_key"} if pubkey else set(both)
        click.echo(output.as_json({name: both[name] for name in both if name in wanted}), nl=False)
    elif privkey:
        click.echo(private, nl=False)
    elif pubkey:
        click.echo(public, nl=False)
    else:
        click.echo(f"Private key: {private}\nPublic key: {public}")


@peergater.command("ecdsa-pubkey", epilog="Example: edgevpn peergater ecdsa-pubkey < private-key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def pubkey_of(as_json: bool) -> None:
    """Print the public key of the private key on standard input."""
    public = peerguard.public_key_of(sys.stdin.read(65536).strip())
    click.echo(output.as_json({"public_key": public}) if as_json else public, nl=False)


@peergater.command(epilog="Example: edgevpn peergater accept laptop LS0tLS1CRUdJTi...")
@click.argument("name")
@click.argument("public_key")
@node_options
def accept(name: str, public_key: str, run_dir: Path, as_json: bool) -> None:
    """Have all nodes trust who holds the private key of PUBLIC_KEY, until NAME is revoked."""
    key = _full(name)
    try:
        peerguard.load_public_untrusted(public_key)
    except UntrustedDataError:
        raise UsageError("that is no public key: give what `edgevpn peergater ecdsa-genkey` prints as one") from None
    ask_node(Node(run_dir).ask, "ledger", Announce(TRUSTZONE_AUTH, key, write_text(public_key)), Done)
    click.echo(output.as_json({"accepted": key}) if as_json else f"{key} is accepted\n", nl=False)


@peergater.command(epilog="Example: edgevpn peergater revoke laptop")
@click.argument("name")
@node_options
def revoke(name: str, run_dir: Path, as_json: bool) -> None:
    """Take a key out of the trust zone: who holds it is trusted no more."""
    key = _full(name)
    ask_node(Node(run_dir).ask, "ledger", Withdraw(TRUSTZONE_AUTH, key), Done)
    click.echo(output.as_json({"revoked": key}) if as_json else f"{key} is revoked\n", nl=False)


@peergater.command(epilog="Example: edgevpn peergater status --json")
@node_options
def status(run_dir: Path, as_json: bool) -> None:
    """Show the gate, the keys of the trust zone, and who is trusted by what."""
    node = Node(run_dir)
    found: LedgerReply = ask_node(node.ask, "ledger", LedgerRequest(TRUSTZONE_AUTH), LedgerReply)
    try:
        said: dict[str, Any] = ask_node(node.state, "trust", "trusted")
    except NodeUnreachableError:
        said = {}  # a node without --peerguard, if it is one at all: the ledger has answered
    gate = said.pop("gate", None)
    keys = {entry.key: _key_id(entry.value) for entry in found.entries if not entry.deleted}
    trusted = {peer: value.how for peer, value in sorted(said.items()) if isinstance(value, Trusted)}
    state = "off" if not isinstance(gate, Gate) or not gate.enabled else "closed" if gate.closed else "open"
    if as_json:
        click.echo(output.as_json({"gate": state, "keys": keys, "trusted": trusted}), nl=False)
        return
    texts = {"off": "off: all are admitted", "open": "open: no key is known yet", "closed": "closed to all not trusted"}
    click.echo(
        output.facts(
            [
                ("gate", texts[state]),
                ("keys", [f"{name} ({key_id})" for name, key_id in keys.items()]),
                ("trusted", [f"{peer} by {how}" for peer, how in trusted.items()]),
            ]
        ),
        nl=False,
    )


def _full(name: str) -> str:
    """Only names with "ecdsa" in them count, with Go nodes too."""
    return name if "ecdsa" in name else f"ecdsa_{name}"


def _key_id(value: str) -> str:
    try:
        text = json.loads(value)
        return trust_challenge.key_id_untrusted(text).hex() if isinstance(text, str) else "not a key"
    except (ValueError, RecursionError, UntrustedDataError):
        return "not a key"
