"""What the values of each bucket hold: JSON, as the Go program writes it.

| bucket | key | value |
|---|---|---|
| machines | VPN address | {PeerID, Hostname, OS, Arch, Address, Version} |
| users | peer ID | {PeerID, Timestamp} |
| services, files | name | {PeerID, Name} |
| healthcheck | peer ID | RFC 3339 time in UTC |
| dns | regular expression | {"<number of the record type>": "<record>"} |
| egress | peer ID | "ok" |
| trustzone | peer ID | "" |
| trustzoneAuth | name | public key |
| dhcp | "leader" | peer ID |

Any member of the network can write anything: the readers bound what they take. Go reads a struct leniently, and where
that decides who owns an entry (`peer_id_in_value`), so do we.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from edgevpn.errors import UntrustedDataError
from edgevpn.proto import go_json

MACHINES: Final = "machines"
USERS: Final = "users"
SERVICES: Final = "services"
FILES: Final = "files"
HEALTHCHECK: Final = "healthcheck"
DNS: Final = "dns"
EGRESS: Final = "egress"
TRUSTZONE: Final = "trustzone"
TRUSTZONE_AUTH: Final = "trustzoneAuth"
DHCP: Final = "dhcp"

EGRESS_VALUE: Final = '"ok"'
TRUSTZONE_VALUE: Final = '""'

MAX_FIELD: Final = 1024  # characters of one field of a value that is read
MAX_RECORDS: Final = 64  # of one dns value
_SECOND: Final = 1_000_000_000
_RFC_3339: Final = re.compile(
    # As lenient as Go: the hour may have one digit, the fraction a comma.
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """A value of `machines`. `address` is what the node calls its own; routes go by the entry's key."""

    peer_id: str
    hostname: str = ""
    os: str = ""
    arch: str = ""
    address: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A value of `users`. `timestamp` is free text."""

    peer_id: str
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A value of `services` or `files`: who offers what."""

    peer_id: str
    name: str = ""


_NAMES: Final = {
    "peer_id": "PeerID",
    "hostname": "Hostname",
    "os": "OS",
    "arch": "Arch",
    "address": "Address",
    "version": "Version",
    "timestamp": "Timestamp",
    "name": "Name",
}


def write_value(value: Machine | User | Service) -> str:
    """The value's JSON, fields in the order of Go's struct."""
    return go_json.write({_NAMES[name]: text for name, text in asdict(value).items()})


def write_text(text: str) -> str:
    """The JSON of a plain text: egress, dhcp, trustzoneAuth, and what the API puts."""
    return go_json.write(text)


def machine_untrusted(value: str) -> Machine:
    """Raises UntrustedDataError, also when no PeerID is named."""
    return Machine(**_struct_untrusted(value, ("peer_id", "hostname", "os", "arch", "address", "version")))


def user_untrusted(value: str) -> User:
    """Raises UntrustedDataError, also when no PeerID is named."""
    return User(**_struct_untrusted(value, ("peer_id", "timestamp")))


def service_untrusted(value: str) -> Service:
    """A service or a file. Raises UntrustedDataError, also when no PeerID is named."""
    return Service(**_struct_untrusted(value, ("peer_id", "name")))


def _struct_untrusted(value: str, attributes: tuple[str, ...]) -> dict[str, str]:
    parsed = go_json.parse_untrusted(value)
    if not isinstance(parsed, go_json.Object):
        raise UntrustedDataError("a value is not an object")
    wanted = {_NAMES[attribute].lower(): attribute for attribute in attributes}
    fields: dict[str, str] = {}
    for name, item in parsed:
        attribute = wanted.get(go_json.field_name(name))
        if attribute is not None and item is not None:
            fields[attribute] = _bounded(go_json.text_untrusted(item, f"a value's {_NAMES[attribute]}"))
    if not fields.get("peer_id"):
        raise UntrustedDataError("a value names no PeerID")
    return fields


def _bounded(text: str) -> str:
    if len(text) > MAX_FIELD:
        raise UntrustedDataError(f"a field of a value is longer than {MAX_FIELD} characters")
    return text


def peer_id_in_value(value: str) -> str:
    """The PeerID field of a value that is an object; "" if there is none. Never raises.

    As Go decodes a struct while ignoring errors: of several the last that is a text counts, whatever the other fields
    are; but invalid JSON has no fields at all.
    """
    try:
        parsed = go_json.parse_untrusted(value)
    except UntrustedDataError:
        return ""
    found = ""
    if isinstance(parsed, go_json.Object):
        for name, item in parsed:
            if isinstance(item, str) and go_json.field_name(name) == "peerid":
                found = item
    return found


def text_value_untrusted(value: str) -> str:
    """A value that is one JSON text. Raises UntrustedDataError."""
    return _bounded(go_json.text_untrusted(go_json.parse_untrusted(value), "a value"))


def write_dns(records: Mapping[int, str]) -> str:
    """A value of `dns`, from the number of a record type to its record; Go sorts the numbers as text."""
    return go_json.write(dict(sorted((str(number), record) for number, record in records.items())))


def dns_untrusted(value: str) -> dict[int, str]:
    """The records of a `dns` value by the number of their type. Raises UntrustedDataError."""
    parsed = go_json.parse_untrusted(value)
    if not isinstance(parsed, go_json.Object) or len(parsed) > MAX_RECORDS:
        raise UntrustedDataError(f"a dns value is not an object of at most {MAX_RECORDS} records")
    records: dict[int, str] = {}
    for name, item in parsed:
        number = go_json.integer_untrusted(go_json.Number(name or "x"), 0, 65535, "a dns record's type")
        records[number] = _bounded(go_json.text_untrusted(item, "a dns record"))
    return records


def write_heartbeat(now: float) -> str:
    """A value of `healthcheck`: the time in whole seconds, RFC 3339, UTC."""
    moment = datetime.datetime.fromtimestamp(int(now // 1), datetime.UTC)
    return go_json.write(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


def heartbeat_time_untrusted(value: str) -> int | None:
    """The unix time of a heartbeat in nanoseconds; None when it can't be read. Never raises."""
    try:
        text: Any = go_json.parse_untrusted(value)
    except UntrustedDataError:
        return None
    return parse_rfc_3339(text) if isinstance(text, str) else None


def parse_rfc_3339(text: str) -> int | None:
    """Unix nanoseconds of a time that Go's time.Parse(time.RFC3339) takes, None of others.

    Go's peculiarities: years from 0, digits of the fraction beyond nine are dropped, offsets up to 24:60.
    """
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    if hour > 23 or minute > 59 or second > 59:
        return None
    offset = 0
    if sign:
        if int(offset_hours) > 24 or int(offset_minutes) > 60:
            return None
        offset = int(offset_hours) * 3600 + int(offset_minutes) * 60
    try:
        # Leap years repeat every 400 years, and Python has no year 0.
        days = datetime.date(year % 400 + 400, month, day).toordinal() + (year // 400 - 1) * 146_097
    except ValueError:
        return None
    seconds = (days - datetime.date(1970, 1, 1).toordinal()) * 86_400 + hour * 3600 + minute * 60 + second
    seconds += offset if sign == "-" else -offset
    return seconds * _SECOND + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
