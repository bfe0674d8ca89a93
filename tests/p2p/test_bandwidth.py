"""Byte counters."""

from __future__ import annotations

from edgevpn.p2p.bandwidth import MAX_NAMES, OTHER, Bandwidth


def test_bytes_count_in_the_total_and_for_their_protocol_and_peer() -> None:
    counted = Bandwidth()
    for peer, protocol in [("one", "/a"), ("two", "/a"), ("one", "/b")]:
        meter = counted.meter(peer, protocol)
        meter.received(10)
        meter.sent(1)
    assert (counted.total.received, counted.total.sent) == (30, 3)
    assert {name: t.received for name, t in counted.by_protocol.items()} == {"/a": 20, "/b": 10}
    assert {name: t.sent for name, t in counted.by_peer.items()} == {"one": 2, "two": 1}


def test_names_without_end_are_counted_together() -> None:
    counted = Bandwidth()
    for number in range(MAX_NAMES + 50):
        counted.meter(f"peer {number}", "/a").received(1)
    assert len(counted.by_peer) <= MAX_NAMES + 1
    assert counted.by_peer[OTHER].received == 50
    counted.forget_peer("peer 0")
    assert "peer 0" not in counted.by_peer
    assert counted.total.received == MAX_NAMES + 50
