"""What the words of `file-send` and `file-receive` say: a node with an errand (edgevpn/actors/errand.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevpn.cli.flags import Settings
from edgevpn.cli.node_commands import Purpose
from edgevpn.errors import UsageError
from edgevpn.proto.endpoints import check_service_name


def file_send(settings: Settings, words: Sequence[str]) -> Purpose:
    """`file-send NAME PATH`. Raises UsageError."""
    name, path = _named(settings, words, "file-send NAME PATH")
    if not path.exists():
        raise UsageError(f"there is no {path} to send")
    return _purpose("fs", "file-send", settings, name, path, once=settings.values["once"])


def file_receive(settings: Settings, words: Sequence[str]) -> Purpose:
    """`file-receive NAME PATH`. Raises UsageError."""
    name, path = _named(settings, words, "file-receive NAME PATH")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to receive into")
    return _purpose("fr", "file-receive", settings, name, path, give_up=settings.values["give-up"])


def words_untrusted(word: str) -> Mapping[str, Any]:
    """What `_purpose` wrote, for the errand's process. Raises ValueError."""
    values: Mapping[str, Any] = json.loads(word)
    return {**values, "path": Path(os.fsdecode(values["path"].encode("latin-1")))}


def _purpose(prefix: str, errand: str, settings: Settings, name: str, path: Path, **more: Any) -> Purpose:
    words = {
        "errand": errand,
        "name": name,
        "path": os.fsencode(path).decode("latin-1"),  # any bytes, as text that JSON and messages carry
        "json": settings.values["json"],
        "announce_interval": settings.values["ledger-announce-interval"],
        **more,
    }
    if "log-level" not in settings.given:
        settings.values["log-level"] = "error"  # the transfer tells its own story
    return Purpose(f"{prefix}-{os.getpid()}", {"errand": errand, "errand_words": (json.dumps(words),)})


def _named(settings: Settings, words: Sequence[str], usage: str) -> tuple[str, Path]:
    """(name, path) of the words, or of --name and --path, which win as in the Go program."""
    if len(words) > 2:
        raise UsageError(f"`edgevpn {usage}` takes no more words, and flags stand before them")
    name, path = (*words, "", "")[:2]
    name, path = settings.values["name"] or name, settings.values["path"] or path
    if not name or not path:
        raise UsageError(f"`edgevpn {usage}` needs both words, or --name and --path")
    check_service_name(name)
    return name, Path(os.path.abspath(os.path.expanduser(path)))
