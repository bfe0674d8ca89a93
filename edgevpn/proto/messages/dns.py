"""Messages of the dns actor: the names it serves."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class NamesRequest(Message, frozen=True):
    """Answered by NamesReply."""


class DnsName(Message, frozen=True):
    """A machine's name, without the domain, and its addresses."""

    name: str
    addresses: list[str]


class NamesReply(Message, frozen=True):
    """`patterns` in the order in which they answer; `refused`: patterns that are not served, and why."""

    domain: str
    machines: list[DnsName]
    patterns: list[str]
    refused: dict[str, str]


Bodies: TypeAlias = NamesRequest | DnsName | NamesReply
