"""Who leads."""

import pytest

from edgevpn.ledger.leader import available_peers, fnv1a_32, leader_of
from tests.unit.ledger_samples import ALICE, BOB, CAROL, NOW, heartbeat


@pytest.mark.parametrize(("text", "value"), [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968)])
def test_the_hash_is_that_of_the_rfc(text, value):
    assert fnv1a_32(text) == value


def test_the_largest_hash_leads_whatever_the_order():
    peers = [ALICE.peer_id, BOB.peer_id, CAROL.peer_id]
    best = max(peers, key=fnv1a_32)
    assert leader_of(peers) == leader_of(reversed(peers)) == best


def test_nobody_leads_nobody():
    assert leader_of([]) is None


def test_only_fresh_heartbeats_are_candidates():
    storage = {
        "healthcheck": {ALICE.peer_id: heartbeat(ALICE, NOW - 899), BOB.peer_id: heartbeat(BOB, NOW - 900)},
    }
    assert available_peers(storage, NOW, 900) == [ALICE.peer_id]
