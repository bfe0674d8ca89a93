"""What --peergate-auth says: the keys of this node for --peerguard.

    {"ecdsa": {"private_key": "LS0t...", "public_keys": ["LS0t..."]}}

JSON, or with single quotes, as the Go program's documentation writes it. `@FILE` names a file that holds it. Errors
show nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from edgevpn.errors import UntrustedDataError, UsageError

_MOST = 1 << 20
_FORM = """it is like {"ecdsa": {"private_key": "..."}}, with what `edgevpn peergater ecdsa-genkey` prints"""


class Peergate(NamedTuple):
    """Texts of keys (edgevpn/proto/peerguard.py); `private_key` may be ""."""

    private_key: str
    public_keys: tuple[str, ...]


def parse(text: str, source: str = "--peergate-auth") -> Peergate:
    """Read it, checked. Raises UsageError."""
    if not text.strip():
        return Peergate("", ())
    if text.startswith("@"):
        source = text[1:]
        text = _read(Path(source))
    value = _load(text, source)
    if value == {}:
        return Peergate("", ())
    ecdsa = value.get("ecdsa") if isinstance(value, dict) else None
    if not isinstance(ecdsa, dict):
        raise UsageError(f"{source}: {_FORM}")
    private, public = ecdsa.get("private_key") or "", ecdsa.get("public_keys") or []
    if not isinstance(private, str) or not isinstance(public, list) or not all(isinstance(k, str) for k in public):
        raise UsageError(f"{source}: {_FORM}")

    from edgevpn.proto import peerguard  # cryptography is not needed by those who give no key

    try:
        if private:
            peerguard.load_private(private)
        for key in public:
            peerguard.load_public_untrusted(key)
    except (UsageError, UntrustedDataError) as exc:
        raise UsageError(f"{source}: {exc}") from None
    return Peergate(private, tuple(public))


def _load(text: str, source: str) -> Any:
    import yaml  # of which JSON is a part

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UsageError(f"{source}: {_FORM}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode()
    except OSError as exc:
        raise UsageError(f"can't read the peergate keys in {path}: {exc.strerror}") from None
    except ValueError:
        raise UsageError(f"{path}: {_FORM}") from None
