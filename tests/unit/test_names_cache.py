"""What is kept of others' answers, and for how long."""

from __future__ import annotations

import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from hypothesis import given, strategies as st

from edgevpn.names.cache import FAILURE, MAX_NEGATIVE, MAX_TTL, Cache, Key, lifetime
from edgevpn.names.wire import Answer


def key(text: str) -> Key:
    return Key(dns.name.from_text(text), dns.rdatatype.A, False, False)


def positive(ttl: int, *more: int) -> Answer:
    return Answer(
        answer=tuple(dns.rrset.from_text(f"x{n}.", one, "IN", "A", "10.0.0.1") for n, one in enumerate((ttl, *more)))
    )


def negative(ttl: int, minimum: int, rcode: int = dns.rcode.NXDOMAIN) -> Answer:
    soa = dns.rrset.from_text("example.", ttl, "IN", "SOA", f"a. b. 1 2 3 4 {minimum}")
    return Answer(rcode=rcode, authority=(soa,))


def test_an_answer_leaves_with_the_ttl_that_is_left() -> None:
    cache = Cache(10)
    cache.put(key("a."), positive(60), 1000.0)
    for now, left in ((1000.5, 60), (1010.2, 50), (1059.9, 1)):
        found = cache.get(key("a."), now)
        assert found is not None
        assert found.answer[0].ttl == left
    assert cache.get(key("a."), 1060.0) is None
    assert len(cache) == 0


def test_a_lifetime_is_that_of_the_shortest_record_and_at_most_a_day() -> None:
    assert lifetime(positive(60, 20, 90)) == 20
    assert lifetime(positive(10**9)) == MAX_TTL
    assert lifetime(positive(0)) == 0


def test_what_does_not_exist_is_remembered_as_its_soa_says() -> None:
    assert lifetime(negative(300, 60)) == 60
    assert lifetime(negative(30, 600)) == 30
    assert lifetime(negative(10**6, 10**6)) == MAX_NEGATIVE
    assert lifetime(negative(30, 60, dns.rcode.NOERROR)) == 30
    assert lifetime(Answer(rcode=dns.rcode.NXDOMAIN)) == 0
    assert lifetime(Answer()) == 0


def test_that_nobody_answered_is_remembered_for_a_moment() -> None:
    assert lifetime(Answer(rcode=dns.rcode.SERVFAIL)) == FAILURE


def test_the_least_recently_used_goes_when_the_cache_is_full() -> None:
    cache = Cache(2)
    cache.put(key("a."), positive(60), 0)
    cache.put(key("b."), positive(60), 0)
    cache.get(key("a."), 1)
    cache.put(key("c."), positive(60), 1)
    assert cache.get(key("b."), 1) is None
    assert cache.get(key("a."), 1) is not None
    assert cache.get(key("c."), 1) is not None


def test_a_cache_of_no_size_keeps_nothing() -> None:
    cache = Cache(0)
    cache.put(key("a."), positive(60), 0)
    assert len(cache) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 100), st.floats(0, 500)), max_size=60), st.integers(0, 5))
def test_no_answer_outlives_its_ttl_and_the_cache_its_size(steps: list[tuple[int, int, float]], size: int) -> None:
    cache, now = Cache(size), 0.0
    until: dict[int, float] = {}
    for name, ttl, pause in steps:
        now += pause
        found = cache.get(key(f"n{name}."), now)
        if found is not None:
            assert now < until[name]
            assert 0 <= found.answer[0].ttl <= until[name] - now + 1
        cache.put(key(f"n{name}."), positive(ttl), now)
        until[name] = now + ttl if ttl else until.get(name, 0)
        assert len(cache) <= size
