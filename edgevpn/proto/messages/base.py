"""What all messages are made from, and the two answers that everyone gives."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

Scalar: TypeAlias = bool | int | float | str | None


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag is the class name."""


class Failure(Message, frozen=True):
    """A request was refused or failed: `kind` for programs, `text` (one line) for people."""

    kind: str
    text: str


class Done(Message, frozen=True):
    """The request was carried out; there is nothing to say."""
