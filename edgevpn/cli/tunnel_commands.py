"""What the flags and words of services, egress and proxy say: `service-add`, `service-connect`, `proxy`, and the root.

`edgevpn service-add NAME HOST:PORT` is a node for one service; --service and --connect add more of them to it, or to
`edgevpn` itself, which makes the interface too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgevpn.cli.flags import Settings
from edgevpn.cli.node_commands import Purpose, api_fields
from edgevpn.errors import UsageError
from edgevpn.proto.endpoints import check_service_name, parse_endpoint, parse_named_endpoint


def root_fields(settings: Settings) -> Mapping[str, Any]:
    """Of the root command's flags. Raises UsageError."""
    values = settings.values
    return {
        **_repeated(settings),
        "egress": values["egress"],
        "egress_announce_interval": float(values["egress-announce-time"]),
        "egress_allow": values["egress-allow"],
    }


def service_add(settings: Settings, words: Sequence[str]) -> Purpose:
    """`service-add NAME HOST:PORT`. Raises UsageError."""
    fields = _repeated(settings)
    one = _named(settings, words, "service-add NAME HOST:PORT", bool(fields["services"]))
    if one is not None:
        fields["services"] = ((one[0], str(parse_endpoint(one[1]))), *fields["services"])
    return Purpose(run_name("sa", fields["services"][0][0]), fields)


def service_connect(settings: Settings, words: Sequence[str]) -> Purpose:
    """`service-connect NAME LISTEN`. Raises UsageError."""
    fields = _repeated(settings)
    one = _named(settings, words, "service-connect NAME LISTEN", bool(fields["connects"]))
    if one is not None:
        fields["connects"] = ((one[0], str(parse_endpoint(one[1], listening=True))), *fields["connects"])
    return Purpose(run_name("sc", fields["connects"][0][0]), fields)


def proxy(settings: Settings, words: Sequence[str]) -> Purpose:
    """`edgevpn proxy`. Raises UsageError."""
    if words:
        raise UsageError("`edgevpn proxy` takes flags only: say where it listens with --listen")
    values = settings.values
    fields = {
        "proxy_listen": str(parse_endpoint(values["listen"], listening=True)),
        "proxy_announce_interval": float(values["interval"]),
        "proxy_dead_interval": float(values["dead-interval"]),
        **api_fields(values["api-listen"] if values["api"] else "", values),
    }
    return Purpose("proxy", fields)


def run_name(prefix: str, name: str) -> str:
    """The name of a node's run directory: `sa-web`; what can't stand there is replaced by a hash."""
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,12}", name, re.ASCII):
        return f"{prefix}-{name}"
    return f"{prefix}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:12]}"


def _named(settings: Settings, words: Sequence[str], usage: str, optional: bool) -> tuple[str, str] | None:
    """(name, address) of the words, or of --name and --address, which win as in the Go program."""
    if len(words) > 2:
        raise UsageError(f"`edgevpn {usage}` takes no more words, and flags stand before them")
    name, address = (*words, "", "")[:2]
    name, address = settings.values["name"] or name, settings.values["address"] or address
    if not name and not address and optional:
        return None
    if not name or not address:
        raise UsageError(f"`edgevpn {usage}` needs both words, or --name and --address")
    check_service_name(name)
    return name, address


def _repeated(settings: Settings) -> dict[str, Any]:
    services = [parse_named_endpoint(text) for text in settings.values["service"]]
    connects = [parse_named_endpoint(text, listening=True) for text in settings.values["connect"]]
    return {
        "services": tuple((name, str(place)) for name, place in services),
        "connects": tuple((name, str(place)) for name, place in connects),
    }
