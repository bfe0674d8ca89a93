"""From machines to routes."""

import pytest

from edgevpn.ledger import routes
from edgevpn.ledger.policy import Mode
from edgevpn.ledger.routes import LedgerRoute, is_canonical_address, routing_table
from edgevpn.proto.entry import Entry, sign_entry
from tests.unit.ledger_samples import ALICE, BOB, NOW, TTL, heartbeats, machine, machine_value, tombstone


def table(machines, mode=Mode.ENFORCE, live=(ALICE,)):
    return routing_table({"machines": machines, "healthcheck": heartbeats(*live)}, NOW, TTL, mode)


def test_an_address_leads_to_the_peer_that_signed_for_it():
    assert table({"10.1.0.1": machine(ALICE, hostname="a")}) == {"10.1.0.1": LedgerRoute(ALICE.peer_id, "a", True)}


def test_a_route_says_whether_its_peer_is_live():
    assert not table({"10.1.0.1": machine(ALICE)}, live=())["10.1.0.1"].live


def test_a_deleted_machine_has_no_route():
    assert table({"10.1.0.1": tombstone(ALICE, 2)}) == {}


def test_nobody_leads_packets_to_somebody_else():
    forged = sign_entry(BOB, "machines", "10.1.0.1", machine_value(ALICE), 1, 0)
    assert table({"10.1.0.1": forged, "10.1.0.2": Entry(machine_value(ALICE))}) == {}


def test_who_observes_follows_what_nobody_signed_but_not_what_another_did():
    forged = sign_entry(BOB, "machines", "10.1.0.1", machine_value(ALICE), 1, 0)
    found = table({"10.1.0.1": forged, "10.1.0.2": Entry(machine_value(ALICE))}, Mode.OBSERVE)
    assert found == {"10.1.0.2": LedgerRoute(ALICE.peer_id, "", True)}


def test_without_ownership_the_value_alone_decides():
    assert table({"10.1.0.1": Entry(machine_value(ALICE))}, Mode.OFF, live=())["10.1.0.1"].live


@pytest.mark.parametrize(
    "key",
    ["x", "", "10.1.0.01", " 10.1.0.1", "10.1.0.0/8", "0.0.0.0/0", "FD00::1", "fd00:0::1", "fe80::1%x",
     "::ffff:10.1.0.7", "１0.1.0.1"],
)  # fmt: skip
def test_another_spelling_of_an_address_is_no_address(key):
    assert not is_canonical_address(key)
    assert table({key: machine(ALICE, key=key)}) == {}


@pytest.mark.parametrize("value", ["", "5", '{"PeerID":5}', '{"Hostname":"x"}'])
def test_what_is_no_machine_has_no_route(value):
    assert table({"10.1.0.1": sign_entry(ALICE, "machines", "10.1.0.1", value, 1, 0)}) == {}


def test_both_families_have_routes():
    assert set(table({"10.1.0.1": machine(ALICE), "fd00::1": machine(ALICE)})) == {"10.1.0.1", "fd00::1"}


def test_long_texts_are_read_but_not_remembered():
    long = machine_value(ALICE, hostname="x" * 500)
    before = routes._remembered_machine.cache_info().currsize
    found = table({"10.1.0.1": sign_entry(ALICE, "machines", "10.1.0.1", long, 1, 0)})
    assert found["10.1.0.1"].hostname == "x" * 500
    assert routes._remembered_machine.cache_info().currsize == before
    assert not is_canonical_address("1" * 10_000)
