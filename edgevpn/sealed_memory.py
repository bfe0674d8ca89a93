"""Secrets and settings in anonymous memory that a descriptor stands for (memfd_create(2)).

No file, no path; sealed, so that whoever is handed the descriptor can read it and nobody can change it. Closed on exec
unless `inheritable`.
"""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_memfd(name: str, content: bytes, *, inheritable: bool = False) -> int:
    """A descriptor of memory that holds `content`, at offset 0; `name` shows in /proc only."""
    descriptor = os.memfd_create(name, os.MFD_ALLOW_SEALING | (0 if inheritable else os.MFD_CLOEXEC))
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
