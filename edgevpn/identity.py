"""The node's identity: an Ed25519 key, whose public half is the peer ID.

By default a node makes a new one at each start, as the Go program does, and keeps it in its run directory while it
runs, so that it is the same peer if it is killed and started again. With `--privkey-cache` it is kept for good, in the
cache directory. The file `privkey` is in libp2p's own encoding (a protobuf of key type and bytes), so that a Go node
and one of ours can take each other's place.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgevpn.errors import SetupError, UntrustedDataError
from edgevpn.proto.peer_key import PrivateKey

_FILE = "privkey"


def load_or_create(cache_dir: Path | None) -> PrivateKey:
    """The kept key of `cache_dir`, made there if absent; a fresh one when `cache_dir` is None. Raises SetupError."""
    if cache_dir is None:
        return PrivateKey.generate()
    path = cache_dir / _FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _create(path)
    except OSError as exc:
        raise SetupError(f"can't read the node's key {path}: {exc.strerror}") from exc
    try:
        return PrivateKey.from_marshalled_untrusted(content)
    except UntrustedDataError as exc:
        raise SetupError(f"{path} is no Ed25519 key of libp2p ({exc}): move it away, and a new one is made") from exc


def _create(path: Path) -> PrivateKey:
    key = PrivateKey.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(key.marshal())
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise SetupError(
            f"can't keep the node's key in {path} ({exc.strerror}): choose another --privkey-cache-dir"
        ) from exc
    return key
