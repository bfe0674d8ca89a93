"""What a check found, and how several are told: a line each, with what to do; or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click

from edgevpn.cli import output

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True)
class Check:
    """One question and its answer. `do`: what helps, where something is wrong."""

    name: str
    state: str
    found: str
    do: str = ""


def tell(checks: Sequence[Check], as_json: bool, **more: Any) -> int:
    """Print the checks; the exit code: 1 if one failed."""
    failed = [check for check in checks if check.state == FAIL]
    if as_json:
        click.echo(output.as_json({"ok": not failed, "checks": [asdict(check) for check in checks], **more}), nl=False)
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{check.state:<5} {check.name:<{width}}  {output.clean(check.found)}")
            if check.do:
                click.echo(f"{'':<5} {'':<{width}}  -> {output.clean(check.do)}")
    return 1 if failed else 0
