"""The table of `edgevpn actors`: what people see of what the processes told."""

from __future__ import annotations

from edgevpn.cli.actors import coloured, fullness, row, view
from edgevpn.proto.messages import ActorStatus, QueueStatus, Vitals

HOST = ActorStatus("host", 4711, "ready", 0, 61.0, 50_000_000, "", 12_000_000)
GOSSIP = ActorStatus("gossip", 0, "backing-off", 3, 0.0, 0, "killed by SIGSEGV")
VITALS = Vitals(
    requests=10,
    updates=20,
    pipes=2,
    messages_per_s=3.21,
    queues=[QueueStatus("inbound", 0, 64, 0, "messages"), QueueStatus("packets", 600_000, 1_000_000, 7, "bytes")],
)


def test_what_a_process_did_not_tell_is_null() -> None:
    told, untold = row(HOST, VITALS), row(GOSSIP, None)
    assert (told["requests"], told["dropped"], told["messages_per_s"], len(told["queues"])) == (10, 7, 3.21, 2)
    assert [untold[name] for name in ("requests", "updates", "pipes", "messages_per_s", "dropped")] == [None] * 5
    assert untold["queues"] == []


def test_the_table_has_a_line_a_process_and_below_it_what_is_unusual() -> None:
    text = view([row(HOST, VITALS), row(GOSSIP, None)])
    lines = text.splitlines()
    assert lines[1].split() == ["host", "4711", "ready", "0", "1m01s", "11", "MiB", "60", "7", "3.2"]
    assert lines[2].split() == ["gossip", "-", "backing-off", "3", "0s", "-", "-", "-", "-"]
    assert "killed by SIGSEGV" in text.partition("last exit")[2]
    assert text.rstrip().endswith("packets: 586 KiB of 977 KiB, 7 dropped")
    assert "inbound" not in text  # empty, and lost nothing
    calm = view([row(HOST, None)])
    assert "last exit" not in calm
    assert "queues" not in calm


def test_a_queue_that_is_not_quite_empty_is_not_shown_as_empty() -> None:
    assert fullness([]) == 0
    assert fullness([{"depth": 0, "limit": 10**6}]) == 0
    assert fullness([{"depth": 1, "limit": 10**6}, {"depth": 5, "limit": 0}]) == 1
    assert fullness([{"depth": 10**6, "limit": 10**6}]) == 100


def test_states_are_coloured_where_colours_are_wanted(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    rows = [row(HOST, VITALS), row(GOSSIP, None)]
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = coloured(view(rows), rows).splitlines()
    assert "\x1b[32mready\x1b[0m" in shown[1]
    assert "\x1b[33mbacking-off\x1b[0m" in shown[2]
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured(view(rows), rows) == view(rows)
