"""What was typed at the prompts: kept for the next time, in the user's state directory, without secrets.

The file has mode 0600. A line stays out when the actor says that it holds a secret, when it looks as if it held one
(a long run of letters and digits that is no peer ID), and when it begins with a space, as shells have it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_LINES = 1000
_LONG_RUN = re.compile(r"[A-Za-z0-9+/=_-]{24,}")
# By their lengths, too: one in 3,844 keys of 43 letters begins with Qm.
_PEER_ID = re.compile(
    r"(?:12D3KooW[A-Za-z0-9]{44}|16Uiu2HA[A-Za-z0-9]{45}|Qm[A-Za-z0-9]{44}|(?:bafz|k51)[a-z0-9]{55,60})\Z"
)
_BYTE_ESCAPE = re.compile(r"\\x[0-9a-fA-F]{2}")
_MANY_ESCAPES = 6  # a key as Python writes bytes has about twenty


def may_keep(line: str) -> bool:
    """Whether the line may go into the history."""
    if not line.strip() or (line.startswith(" ") and not line.startswith("    ")):
        return False
    if len(_BYTE_ESCAPE.findall(line)) >= _MANY_ESCAPES:
        return False
    return not any(_looks_secret(run) for run in _LONG_RUN.findall(line))


def _looks_secret(run: str) -> bool:
    """Long, and mixed as no name is: letters and digits, or letters of both cases without an underscore."""
    if _PEER_ID.match(run):
        return False
    digits = any(letter.isdigit() for letter in run)
    letters = any(letter.isalpha() for letter in run)
    mixed = run != run.lower() and run != run.upper()
    return (digits and letters) or (mixed and "_" not in run) or (digits and not letters)


def path(environ: dict[str, str] | None = None) -> Path:
    """Where the history is (the XDG base directory specification's state directory)."""
    found = os.environ if environ is None else environ
    state = found.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path(found.get("HOME") or os.path.expanduser("~")) / ".local/state"
    return base / "edgevpn" / "repl_history"


def prepare(file: Path) -> bool:
    """Make the file, for its owner alone; whether it can be used. A history is worth no error."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return False
    try:
        os.fchmod(descriptor, 0o600)
    except OSError:
        return False  # another user's
    finally:
        os.close(descriptor)
    return True
