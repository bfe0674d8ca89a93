"""Messages of the api actor: where the HTTP API is."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class ApiRequest(Message, frozen=True):
    """Answered by ApiInfo."""


class ApiInfo(Message, frozen=True):
    """`listen`: as --api-listen has it, with the port that was got; `url`: for a browser here, "" on a Unix socket.

    `auth`: "token" or "off".
    """

    listen: str
    url: str
    auth: str


Bodies: TypeAlias = ApiRequest | ApiInfo
