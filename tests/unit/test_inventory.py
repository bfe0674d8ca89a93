"""The numbers by which two ledgers are compared."""

from __future__ import annotations

from hypothesis import given, strategies as st

from edgevpn.ledger.inventory import Inventory, position_of
from edgevpn.ledger.merge import Place
from edgevpn.proto.entry import Entry
from edgevpn.proto.ledger_frames import hint_of, is_ahead
from tests.unit.ledger_samples import ALICE, BOB, NOW, heartbeat, machine, tombstone

AS_OF = int(NOW)
FRESH = 360.0
PLACES = st.builds(Place, st.sampled_from(["machines", "services", "custom"]), st.text("ab", max_size=3))
ENTRIES = st.builds(
    Entry, st.text("xy", max_size=2), st.just("o"), st.integers(1, 3), st.just(5), st.booleans(), st.just(b"s")
)
STEPS = st.lists(st.tuples(PLACES, st.none() | ENTRIES), max_size=12)
Steps = list[tuple[Place, Entry | None]]


def inventory(*items: tuple[Place, Entry | None]) -> Inventory:
    made = Inventory(FRESH)
    for place, entry in items:
        made.put(place, entry)
    return made


def machine_at(key: str, version: int = 1) -> tuple[Place, Entry]:
    return Place("machines", key), machine(ALICE, version, key=key)


@given(STEPS)
def test_the_numbers_follow_from_what_is_there_and_not_from_how_it_came(
    steps: Steps,
) -> None:
    walked = inventory(*steps)
    last = dict(steps)
    at_once = Inventory(FRESH)
    storage: dict[str, dict[str, Entry]] = {}
    for place, entry in last.items():
        if entry is not None:
            storage.setdefault(place.bucket, {})[place.key] = entry
    at_once.fill(storage)
    assert walked.root(AS_OF) == at_once.root(AS_OF)
    assert walked.part("", AS_OF) == at_once.part("", AS_OF)
    assert walked.sums("", AS_OF) == at_once.sums("", AS_OF)


@given(STEPS, STEPS)
def test_equal_roots_are_equal_entries(one: Steps, other: Steps) -> None:
    def live(steps: Steps) -> dict[Place, Entry]:
        return {place: entry for place, entry in dict(steps).items() if entry is not None and not entry.deleted}

    assert (inventory(*one).root(AS_OF) == inventory(*other).root(AS_OF)) == (live(one) == live(other))


@given(STEPS)
def test_the_sums_of_the_parts_tell_where_to_look(steps: Steps) -> None:
    made = inventory(*steps)
    for digit, total in enumerate(made.sums("", AS_OF)):
        part = made.part(f"{digit:x}", AS_OF)
        assert total == sum(item.mark for item in part) % 2**64
        assert all(item.position >> 60 == digit for item in part)


def test_tombstones_do_not_count_and_are_found() -> None:
    place = Place("machines", "10.1.0.1")
    made = inventory((place, tombstone(ALICE, 2)))
    assert made.root(AS_OF) == inventory().root(AS_OF)
    assert made.place_at(position_of(place)) == place


def test_heartbeats_renewed_change_nothing_and_old_ones_do_not_count() -> None:
    place = Place("healthcheck", BOB.peer_id)
    one = inventory((place, heartbeat(BOB, NOW - 10, 1)))
    other = inventory((place, heartbeat(BOB, NOW - 200, 7)))
    assert one.root(AS_OF) == other.root(AS_OF) != inventory().root(AS_OF)
    assert inventory((place, heartbeat(BOB, NOW - FRESH))).root(AS_OF) == inventory().root(AS_OF)
    assert one.root(AS_OF + 400) == inventory().root(AS_OF + 400)
    one.put(place, heartbeat(BOB, NOW + 300, 9))
    assert one.root(AS_OF + 400) != inventory().root(AS_OF + 400)


def test_an_unsigned_entry_counts_without_the_time_it_loses_on_the_way() -> None:
    place = Place("custom", "k")
    assert inventory((place, Entry("v", updated_at=5))).root(AS_OF) == inventory((place, Entry("v"))).root(AS_OF)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**60), st.integers(1 << 31, 1 << 50))
def test_a_hint_names_the_position_and_tells_newer_from_older(position: int, version: int, more: int) -> None:
    hint = hint_of(position, version)
    assert hint >> 24 == position >> 24
    assert not is_ahead(hint, version)
    assert is_ahead(hint_of(position, version + more), version)
    assert not is_ahead(hint, version + more)


def test_a_hint_finds_its_position() -> None:
    place, entry = machine_at("10.1.0.9")
    made = inventory((place, entry))
    assert made.position_near(hint_of(position_of(place), 77)) == position_of(place)
    made.put(place, None)
    assert made.position_near(hint_of(position_of(place), 77)) is None
