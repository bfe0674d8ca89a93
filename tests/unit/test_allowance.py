"""What useless work a peer may give us, and who is charged for it."""

from __future__ import annotations

from edgevpn.ledger.allowance import BURST, MOST, RATE, SLOWLY, TOTAL, Allowance, cost_of_block, cost_of_frame
from edgevpn.ledger.merge import BAD_SIGNATURE, FOREIGN_LIVE, ROLLBACK, MergeResult, Place, Violation
from edgevpn.proto.entry import Entry


def result(*violations: Violation, changed: int = 0, identical: int = 0, older: int = 0) -> MergeResult:
    put = {Place("dns", str(number)): Entry("1") for number in range(changed)}
    return MergeResult({}, put, violations, changed + identical + older + len(violations), identical, older)


def refused(reason: str = FOREIGN_LIVE, owner: str = "mallory", value: str = "") -> Violation:
    return Violation(Place("machines", "10.1.0.1"), Entry(value, owner, 1), reason)


def test_whoever_keeps_to_its_allowance_never_waits():
    allowance = Allowance()
    for second in range(1000):
        allowance.charge("a", RATE, second)
        assert allowance.pause("a", second) == 0.0
    assert allowance.pause("b", 1000) == 0.0


def test_a_flood_is_held_to_the_rate_whatever_it_sends_at_once():
    allowance, now, units = Allowance(), 0.0, 0.0
    while now < 100:
        allowance.charge("a", 700, now)
        units += 700
        now += allowance.pause("a", now)
    assert 0.95 * 100 * RATE < units < 100 * RATE + BURST + 1400


def test_what_is_over_is_forgotten():
    allowance = Allowance()
    allowance.charge("a", 3 * BURST, 0.0)
    assert allowance.pause("a", 0.0) == 2 * BURST / RATE
    assert allowance.pause("a", 3 * BURST / RATE) == 0.0
    assert len(allowance) == 1
    assert allowance.pause("a", SLOWLY * 3 * BURST / RATE) == 0.0
    assert len(allowance) == 0


def test_many_names_have_beyond_a_tenth_each_no_more_than_two():
    """And who does something useless now and then does not wait for them."""
    allowance, now, units = Allowance(), 0.0, 0.0
    names = [f"sybil{number}" for number in range(50)]
    while now < 100:
        for name in names:
            if allowance.pause(name, now) == 0.0:
                allowance.charge(name, 700, now)
                units += 700
        allowance.charge("honest", 1, now)
        assert allowance.pause("honest", now) == 0.0
        now += 0.01
    tenths = len(names) * (100 * RATE / SLOWLY + BURST + 700)
    assert units < TOTAL * (100 * RATE + BURST) + tenths < len(names) * 100 * RATE / 5


def test_names_are_bounded():
    allowance = Allowance()
    for number in range(3 * MOST):
        allowance.charge(str(number), 1e9, 0.0)
    assert len(allowance) == MOST


def test_news_cost_nothing_and_what_we_had_little():
    assert cost_of_frame(result(changed=500)) == 0
    assert cost_of_frame(result(identical=3)) == 3


def test_what_is_refused_or_rolled_back_costs_a_frame_and_by_its_size():
    small, large = cost_of_frame(result(refused())), cost_of_frame(result(refused(value="x" * 1_000_000)))
    assert 100 < small < 300
    assert large > 4 * small
    assert cost_of_frame(result(refused(ROLLBACK), older=1)) > 100
    assert cost_of_frame(result(*[refused()] * 500)) > 500


def test_an_author_whose_old_messages_others_repeat_is_not_charged_for_it():
    """Whoever has heard an honest node could have it muted else."""
    conflict = refused(owner="alice")  # honest, and old
    for found in (result(older=9), result(refused(ROLLBACK, owner="bob"), older=1), result(changed=1)):
        assert cost_of_block(found, "alice", direct=False, whole=False) == 0
    assert cost_of_block(result(refused(owner="bob")), "alice", direct=False, whole=True) == 0
    assert cost_of_block(result(conflict), "alice", direct=True, whole=True) > 0


def test_what_no_honest_author_says_is_charged_whoever_passed_it_on():
    assert cost_of_block(result(refused(BAD_SIGNATURE, owner="bob")), "mallory", direct=False, whole=True) > 200
    assert cost_of_block(result(refused(owner="mallory")), "mallory", direct=False, whole=True) > 200


def test_old_entries_are_no_news_but_may_be_in_a_whole_block():
    part = cost_of_block(result(older=2), "a", direct=True, whole=False)
    assert part > cost_of_block(result(older=2), "a", direct=True, whole=True)


def test_a_go_node_that_publishes_its_ledger_every_second_with_a_conflict_in_it_is_heard():
    allowance = Allowance()
    for second in range(600):
        allowance.charge(
            "go", cost_of_block(result(refused(owner="go"), older=50), "go", direct=True, whole=True), second
        )
        assert allowance.pause("go", second) == 0.0
