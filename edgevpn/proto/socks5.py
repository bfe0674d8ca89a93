"""SOCKS 5 (RFC 1928), the server's side: no authentication, the command CONNECT.

    greeting  5 | count | methods                          ->  5 | 0         (or 5 | 0xFF: none that we have)
    request   5 | command | 0 | type | address | port, u16 ->  5 | reply | 0 | 1 | 0.0.0.0 | 0

The address is 4 bytes (type 1), 16 bytes (4), or a name with its length before it (3). Pure: `greeting_length` and
`request_length_untrusted` say how many bytes are needed, given those that came.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

from edgevpn.errors import UntrustedDataError

VERSION = 5
NO_AUTHENTICATION = bytes((VERSION, 0))
NO_METHOD = bytes((VERSION, 0xFF))
CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_PORT = struct.Struct(">H")


class Reply(IntEnum):
    """RFC 1928, section 6."""

    DONE = 0
    FAILED = 1
    FORBIDDEN = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    NO_SUCH_COMMAND = 7
    NO_SUCH_ADDRESS_TYPE = 8


@dataclass(frozen=True, slots=True)
class Request:
    """`host`: a name, or an address as text."""

    command: int
    host: str
    port: int


def greeting_length(data: bytes) -> int:
    """Bytes of the whole greeting that `data` begins, as far as can be told."""
    return 2 + data[1] if len(data) >= 2 else 2


def read_greeting_untrusted(data: bytes) -> bool:
    """Whether the client would go without authentication. Raises UntrustedDataError."""
    if len(data) != greeting_length(data) or data[0] != VERSION or data[1] == 0:
        raise UntrustedDataError("not a SOCKS 5 greeting")
    return 0 in data[2:]


def request_length_untrusted(data: bytes) -> int:
    """Bytes of the whole request that `data` begins, as far as can be told. Raises UntrustedDataError."""
    if len(data) < 5:
        return 5
    if data[0] != VERSION:
        raise UntrustedDataError("not a SOCKS 5 request")
    match data[3]:
        case 1:
            return 10
        case 4:
            return 22
        case 3:
            return 7 + data[4]
    raise UntrustedDataError("a SOCKS address of an unknown type")


def read_request_untrusted(data: bytes) -> Request:
    """Raises UntrustedDataError."""
    if len(data) != request_length_untrusted(data) or len(data) < 7:
        raise UntrustedDataError("a SOCKS request is cut short")
    raw = data[4:-2]
    if data[3] == _NAME:
        try:
            host = raw[1:].decode("ascii")
        except UnicodeDecodeError:
            raise UntrustedDataError("a SOCKS name is not ASCII") from None
        if not host or not host.isprintable() or " " in host:
            raise UntrustedDataError("a SOCKS name is none")
    else:
        host = str(ipaddress.ip_address(raw))
    return Request(data[1], host, _PORT.unpack(data[-2:])[0])


def write_reply(reply: Reply) -> bytes:
    return bytes((VERSION, reply, 0, _IPV4)) + bytes(6)
