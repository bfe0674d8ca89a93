"""Names of a network for what is kept on disk: they tell two networks apart and give no secret away.

    ledger tag   the first 16 bytes of HMAC-SHA-256(otp.crypto.key LF room, "edgevpn ledger on disk")
    lease name   MD5(otp.crypto.key + "-ek"), hex: the name that the Go program gives its lease file

Both come from keys of 43 random letters. Where a network was given weak ones, whoever can read the disk can guess
them from these names, as any peer can from the topics.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from edgevpn.proto import otp
from edgevpn.proto.network_config import NetworkConfig

TAG_SIZE: Final = 16


def ledger_tag(network: NetworkConfig) -> bytes:
    """What binds a ledger on disk to its network, TAG_SIZE bytes."""
    key = f"{network.otp_crypto.key}\n{network.room}".encode()
    return hmac.digest(key, b"edgevpn ledger on disk", hashlib.sha256)[:TAG_SIZE]


def lease_name(network: NetworkConfig) -> str:
    """The file name of a DHCP lease, 32 hexadecimal characters."""
    return otp.md5_hex(network.otp_crypto.key + "-ek")
