"""`edgevpn dns-add`, `dns-remove`, `dns-list`: names in the ledger, and what a node's DNS server makes of them.

A pattern's entry in the `dns` bucket holds one record of each type, in the Go program's form, so Go nodes serve it too,
and what their HTTP API wrote shows here. An entry is its first writer's: others can't change it while that one lives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgevpn.cli import output
from edgevpn.cli.ask import Node, ask_node
from edgevpn.cli.run_dir import node_options
from edgevpn.errors import EdgevpnError, UntrustedDataError, UsageError
from edgevpn.proto.messages import Announce, Done, LedgerReply, LedgerRequest, NamesReply, NamesRequest, Withdraw
from edgevpn.proto.values import DNS, dns_untrusted, write_dns


@click.command("dns-add", epilog="Example: edgevpn dns-add --name wiki.lan A 10.1.0.7")
@click.argument("pattern")
@click.argument("type_name", metavar="TYPE")
@click.argument("record")
@click.option("--name", "is_name", is_flag=True, help="PATTERN is one name, not a regular expression.")
@node_options
def add(pattern: str, type_name: str, record: str, is_name: bool, run_dir: Path, as_json: bool) -> None:
    """Give the names that match PATTERN a record: TYPE is A, AAAA, CNAME, TXT or the like.

    PATTERN is a regular expression as the Go program takes it, searched in the full name with its last dot.
    """
    text = _exact(pattern) if is_name else pattern
    number = _type_number(type_name)
    _check(text, number, record)

    async def write() -> dict[int, str]:
        node = Node(run_dir)
        records = await _records(node, text) | {number: record}
        await node.ask("ledger", Announce(DNS, text, write_dns(records)), Done)
        return records

    _tell(text, ask_node(write), as_json)


@click.command("dns-remove", epilog="Example: edgevpn dns-remove --name wiki.lan")
@click.argument("pattern")
@click.argument("type_name", metavar="[TYPE]", default="")
@click.option("--name", "is_name", is_flag=True, help="PATTERN is one name, not a regular expression.")
@node_options
def remove(pattern: str, type_name: str, is_name: bool, run_dir: Path, as_json: bool) -> None:
    """Take away the records of PATTERN, or its record of one TYPE."""
    text = _exact(pattern) if is_name else pattern
    number = _type_number(type_name) if type_name else -1

    async def write() -> dict[int, str]:
        node = Node(run_dir)
        records = await _records(node, text)
        if not records or (type_name and number not in records):
            what = f"{type_name.upper()} record of " if type_name else "pattern "
            raise UsageError(f"there is no {what}{output.clean(text)!r}: `edgevpn dns-list` lists those there are")
        records.pop(number, None)
        if records and type_name:
            await node.ask("ledger", Announce(DNS, text, write_dns(records)), Done)
            return records
        await node.ask("ledger", Withdraw(DNS, text), Done)
        return {}

    _tell(text, ask_node(write), as_json)


@click.command("dns-list", epilog="Example: edgevpn dns-list --json")
@node_options
def listing(run_dir: Path, as_json: bool) -> None:
    """Show the machines' names and the patterns, in the order in which they answer."""

    async def collect() -> tuple[NamesReply | None, dict[str, dict[int, str]], dict[str, str]]:
        node = Node(run_dir)
        try:
            served = await node.ask("dns", NamesRequest(), NamesReply)
        except EdgevpnError:
            served = None  # a node without --dns: the ledger has them anyway
        reply = await node.ask("ledger", LedgerRequest(DNS), LedgerReply)
        entries = {one.key: one for one in reply.entries if not one.deleted}
        return served, {key: _read(one.value) for key, one in entries.items()}, {k: e.owner for k, e in entries.items()}

    served, records, owners = ask_node(collect)
    order = [one for one in served.patterns if one in records] if served else []
    order += sorted(set(records) - set(order))
    if as_json:
        found: dict[str, Any] = {
            "domain": served.domain if served else None,
            "machines": {one.name: one.addresses for one in served.machines} if served else None,
            "patterns": [
                {
                    "pattern": one,
                    "records": {_type_name(number): record for number, record in records[one].items()},
                    "owner": owners[one],
                    "served": one in served.patterns if served else None,
                    "refused": served.refused.get(one, "") if served else "",
                }
                for one in order
            ],
        }
        click.echo(output.as_json(found), nl=False)
        return
    rows: list[tuple[str, str, str, str]] = []
    if served:
        for name in served.machines:
            rows += [(f"{name.name}.{served.domain}", "AAAA" if ":" in ip else "A", ip, "") for ip in name.addresses]
    for one in order:
        note = served.refused.get(one, "") if served else ""
        rows += [(one, _type_name(number), record, note) for number, record in sorted(records[one].items())]
        rows += [] if records[one] else [(one, "-", "-", note)]
    click.echo(output.table(("name or pattern", "type", "record", "not served because"), rows), nl=False)


async def _records(node: Node, pattern: str) -> dict[int, str]:
    reply = await node.ask("ledger", LedgerRequest(DNS), LedgerReply)
    for entry in reply.entries:
        if entry.key == pattern and not entry.deleted:
            return _read(entry.value)
    return {}


def _read(value: str) -> dict[int, str]:
    try:
        return dns_untrusted(value)
    except UntrustedDataError:
        return {}


def _exact(name: str) -> str:
    """The pattern that one name matches, and no other."""
    import re2  # type: ignore[import-untyped]

    escaped: str = re2.escape(name.strip().lower().removesuffix(".") + ".")
    return f"^{escaped}$".replace("\\-", "-")


def _check(pattern: str, number: int, record: str) -> None:
    from edgevpn.names.patterns import compile_untrusted, record_untrusted

    try:
        compile_untrusted(pattern)
        record_untrusted(number, record)
    except UntrustedDataError as exc:
        raise UsageError(f"that can't be served: {exc}") from None


def _type_number(name: str) -> int:
    import dns.exception
    import dns.rdatatype

    try:
        return int(dns.rdatatype.from_text(name))
    except (dns.exception.DNSException, ValueError):
        raise UsageError(f"{name!r} is no record type: use A, AAAA, CNAME, TXT or the like") from None


def _type_name(number: int) -> str:
    import dns.rdatatype

    return dns.rdatatype.to_text(dns.rdatatype.RdataType(number))


def _tell(pattern: str, records: dict[int, str], as_json: bool) -> None:
    if as_json:
        click.echo(
            output.as_json({"pattern": pattern, "records": {_type_name(n): text for n, text in records.items()}}),
            nl=False,
        )
    elif records:
        click.echo(
            output.table(("pattern", "type", "record"), [(pattern, _type_name(n), t) for n, t in records.items()]),
            nl=False,
        )
    else:
        click.echo(f"{output.clean(pattern)} is gone")
