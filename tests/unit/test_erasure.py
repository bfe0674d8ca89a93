"""The erasure code over datagrams: any rows bring back as many members, and parts of rows as large parts of them."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from edgevpn.tun.erasure import MAX_MEMBERS, ROWS, Rows, bring_back, data_of, double, symbol

members = st.lists(st.binary(max_size=40), min_size=1, max_size=24)


def rows_over(symbols: list[int]) -> list[int]:
    rows = Rows(ROWS)
    for one in symbols:
        rows.add(one)
    return rows.values


@settings(max_examples=300, deadline=None)
@given(members, st.data())
def test_any_rows_bring_back_as_many_members(group: list[bytes], data: st.DataObject) -> None:
    values = rows_over([symbol(one) for one in group])
    lost = data.draw(st.sets(st.integers(0, len(group) - 1), min_size=1, max_size=min(ROWS, len(group))))
    kept = data.draw(st.permutations(range(ROWS)))[: data.draw(st.integers(len(lost), ROWS))]
    found = bring_back(
        {row: values[row] for row in kept}, [None if i in lost else symbol(one) for i, one in enumerate(group)]
    )
    assert found is not None
    assert [data_of(one) for one in found] == [group[i] for i in sorted(lost)]


@settings(max_examples=100, deadline=None)
@given(members, st.integers(1, 41), st.data())
def test_parts_of_rows_bring_back_parts_of_members(group: list[bytes], cut: int, data: st.DataObject) -> None:
    size = 2 + max(len(one) for one in group)
    low = (1 << 8 * min(cut, size)) - 1
    symbols = [symbol(one) for one in group]
    values = rows_over(symbols)
    lost = data.draw(st.integers(0, len(group) - 1))
    first, second = data.draw(st.permutations(range(ROWS)))[:2]
    below = bring_back({first: values[first] & low}, [None if i == lost else s & low for i, s in enumerate(symbols)])
    above = bring_back(
        {second: values[second] & ~low}, [None if i == lost else s & ~low for i, s in enumerate(symbols)]
    )
    assert below is not None
    assert above is not None
    assert data_of(below[0] | above[0]) == group[lost]


def test_the_largest_group_still_has_an_answer_for_every_three() -> None:
    symbols = [symbol(bytes([i, 255 - i])) for i in range(MAX_MEMBERS)]
    values = rows_over(symbols)
    for lost in ((0, 1, 254), (0, 127, 254), (85, 170, 254), (0, 85, 170)):  # 85 and 170: roots of unity for 4^i
        found = bring_back(dict(enumerate(values)), [None if i in lost else s for i, s in enumerate(symbols)])
        assert found == [symbols[i] for i in lost]


def test_too_few_rows_bring_back_nothing() -> None:
    assert bring_back({0: 5}, [None, None, 3]) is None
    assert bring_back({}, [None]) is None
    assert bring_back({0: 5}, [1, 2]) is None


def test_bytes_are_multiplied_as_in_the_field() -> None:
    assert double(0x80) == 0x1D
    assert double(0x8001FF) == 0x1D02E3
    assert double(symbol(bytes(5000))) >> 16 == 0


def test_what_is_longer_than_it_says_is_no_symbol() -> None:
    assert data_of(symbol(b"abc")) == b"abc"
    assert data_of(symbol(b"abc\1") - 1) is None
