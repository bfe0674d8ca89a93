"""What entries hold, bucket by bucket: JSON as the Go program writes it, with PascalCase fields.

machines     {"PeerID", "Hostname", "OS", "Arch", "Address", "Version"} by bare VPN address
healthcheck  an RFC 3339 time in UTC, by peer ID: the heartbeat
users        {"PeerID", "Timestamp"} by peer ID
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Any

from edgevpn.errors import UntrustedDataError
from edgevpn.draft import go_json

MACHINES = "machines"
HEALTHCHECK = "healthcheck"
USERS = "users"
SERVICES = "services"
FILES = "files"
DNS = "dns"
EGRESS = "egress"

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d{1,2}):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Machine:
    """Who has a VPN address."""

    peer_id: str
    hostname: str
    os: str
    arch: str
    address: str
    version: str

    def to_json(self) -> str:
        named = {
            "PeerID": self.peer_id,
            "Hostname": self.hostname,
            "OS": self.os,
            "Arch": self.arch,
            "Address": self.address,
            "Version": self.version,
        }
        return "{" + ",".join(f"{go_json.quote(name)}:{go_json.quote(value)}" for name, value in named.items()) + "}"


def read_machine_untrusted(value: str) -> Machine:
    """A machine; fields that are missing or ill-typed are empty. Raises UntrustedDataError if it is no object."""
    parsed = go_json.parse_untrusted(value)
    if not isinstance(parsed, go_json.Pairs):
        raise UntrustedDataError("a machine is not a JSON object")
    found = {name: item for name, item in go_json.fields(parsed) if type(item) is str}

    def get(name: str) -> str:
        return go_json.clean(found.get(name, ""))

    return Machine(get("peerid"), get("hostname"), get("os"), get("arch"), get("address"), get("version"))


def peer_id_in_untrusted(value: str) -> str:
    """The PeerID field of a value, found in any case, the last wins; "" when there is none. Never raises."""
    try:
        parsed = go_json.parse_untrusted(value)
    except UntrustedDataError:
        return ""
    found = ""
    if isinstance(parsed, go_json.Pairs):
        for name, item in go_json.fields(parsed):
            if name == "peerid" and type(item) is str:
                found = go_json.clean(item)
    return found


def heartbeat(now: float) -> str:
    """The healthcheck value for a moment (unix seconds)."""
    return f'"{datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}"'


def heartbeat_time_untrusted(value: str) -> float | None:
    """Unix seconds of a healthcheck value; None when it is no time. Never raises."""
    try:
        parsed: Any = go_json.parse_untrusted(value)
    except UntrustedDataError:
        return None
    if parsed is None:
        parsed = ""
    match = _RFC3339.fullmatch(parsed) if type(parsed) is str else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction = float(f"0.{match[7]}") if match[7] else 0.0
    offset = 0
    if match[8]:
        hours, minutes = int(match[9]), int(match[10])
        if hours > 24 or minutes >= 60:
            return None
        offset = (hours * 3600 + minutes * 60) * (1 if match[8] == "+" else -1)
    try:
        if year == 0:  # Go has a year 0, Python has none; both are long past
            datetime.datetime(4, month, day, hour, minute, second, tzinfo=datetime.UTC)
            return -62_167_219_200.0
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError:
        return None
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds() + fraction - offset
