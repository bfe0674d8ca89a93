"""Messages of the trust actor: who is trusted."""

from __future__ import annotations

from typing import TypeAlias

from edgevpn.proto.messages.base import Message


class Gate(Message, frozen=True):
    """Value of the state "trusted" at "gate". `closed`: only trusted peers are admitted now. `fresh`: a message counts
    by its author alone. `enabled`: what --peergate or SetPeergate said; an enabled gate is open while it is relaxed and
    no key is known."""

    closed: bool
    fresh: bool
    enabled: bool


class Trusted(Message, frozen=True):
    """Value of the state "trusted", by peer ID. `how`: "challenge", "message" or "zone" (edgevpn/ledger/trust.py)."""

    how: str


class SetPeergate(Message, frozen=True):
    """Turn the gate on or off. Answered by Done."""

    enabled: bool


Bodies: TypeAlias = Gate | Trusted | SetPeergate
