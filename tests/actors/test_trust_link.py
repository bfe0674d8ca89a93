"""Whom the other actors let through, as the trust actor last said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgevpn.actors.trust_link import TrustLink
from edgevpn.config import NodeConfig
from edgevpn.proto.messages import Body, Gate, Trusted

GOOD, BAD, FAR = "good", "bad", "far"


def link(*, guard: bool = True, enabled: bool = True, **said: Body) -> TrustLink:
    config = NodeConfig(run_dir="/r", peerguard=guard, peergate=enabled)
    made = TrustLink(SimpleNamespace(config=config))  # type: ignore[arg-type]
    made._said.update(said)
    if isinstance(found := said.get("gate"), Gate):
        made.closed, made.fresh = found.closed, found.fresh
    return made


def test_without_a_guard_all_pass_and_with_a_gate_nobody_before_the_first_word() -> None:
    assert link(guard=False, enabled=False).allows(BAD)
    assert link(enabled=False).allows(BAD)
    assert not link().allows(GOOD)


@pytest.mark.parametrize(
    ("author", "forwarder", "connected", "fresh", "passes"),
    [
        (GOOD, BAD, True, False, True),
        (GOOD, BAD, False, True, True),
        (BAD, GOOD, True, False, False),  # it could have proved itself to us
        (FAR, GOOD, False, False, True),
        (FAR, GOOD, False, True, False),
        (FAR, BAD, False, False, False),
    ],
)
def test_a_message_counts_by_its_author_and_by_its_forwarder_only_where_the_author_is_far(
    author: str, forwarder: str, connected: bool, fresh: bool, passes: bool
) -> None:
    gate = link(gate=Gate(closed=True, fresh=fresh, enabled=True), good=Trusted("challenge"))
    assert gate.allows_message(author, forwarder, author_is_connected=connected) is passes
