"""Which entries of the dns bucket the server is given."""

from __future__ import annotations

from edgevpn.ledger.dns_entries import MAX_KEY, dns_entries
from edgevpn.proto.entry import Entry


def entry(owner: str, value: str = '{"1":"10.0.0.1"}', **more: object) -> Entry:
    return Entry(value, owner=owner, **more)  # type: ignore[arg-type]


def test_each_owner_has_its_turn_the_shortest_patterns_first() -> None:
    bucket = {f"greedy{number:04}": entry("a") for number in range(3000)} | {
        "modest.pattern": entry("b"),
        "z": entry("b"),
    }
    found = list(dns_entries({"dns": bucket}, limit=5))
    assert found == ["z", "greedy0000", "greedy0001", "modest.pattern", "greedy0002"]


def test_deleted_and_oversized_entries_are_left_out() -> None:
    bucket = {"gone": entry("a", "", deleted=True), "x" * (MAX_KEY + 1): entry("a"), "kept": entry("a")}
    assert list(dns_entries({"dns": bucket})) == ["kept"]
    assert dns_entries({}) == {}
