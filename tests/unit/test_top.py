"""`edgevpn top`: rates from two looks, and the picture that is made of them."""

from __future__ import annotations

from rich.console import Console

from edgevpn.cli import top
from edgevpn.cli.top import Look, bits, draw, rate, sample, trace
from edgevpn.proto.messages import ActorStatus, NodeStatus, PathState, PeerState, Route, Traffic

PEER = "12D3KooWQPdPtQbfhsmWCQRyquGuxjxEciCEmp1FxzFLN3gCJ5cz"


def look(at: float, received: int, sent: int, *, hostname: str = "berlin") -> Look:
    return Look(
        at=at,
        status=NodeStatus(PEER, "up", "edgevpn0", ["10.1.0.1/24"], [], [PEER], at, "0", ""),
        actors=[ActorStatus("ledger", 7, "ready", 2, 60.0, 1 << 20, "killed by SIGKILL", 1 << 20)],
        peers={PEER: PeerState(["/ip4/192.0.2.1/tcp/4001"], [], [], "", "outbound", 1000.0, 0.5)},
        members={PEER},
        routes={"10.1.0.2": Route(PEER, hostname)},
        paths={PEER: PathState(PEER, "datagram", 1, sent, 1, received, 3, "192.0.2.1:9", 0.0021, "")},
        traffic=Traffic([received, sent], {}, {}),
    )


def test_rates_are_what_the_counters_grew_by() -> None:
    found = sample(look(10.0, 1000, 500), look(12.0, 5000, 1500), 1060.0)
    [row] = found["peers"]
    assert (row["received_per_s"], row["sent_per_s"], row["rtt_ms"], row["connected_s"]) == (2000, 500, 2.1, 60.0)
    assert found["packets"] == {"received_per_s": 2000, "sent_per_s": 500}
    assert found["streams"] == {"received_per_s": 2000, "sent_per_s": 500}


def test_a_counter_that_began_anew_is_no_negative_rate() -> None:
    assert sample(look(10.0, 9000, 9000), look(11.0, 10, 10), 0.0)["packets"] == {"received_per_s": 0, "sent_per_s": 0}
    assert sample(Look(), look(11.0, 10, 10), 0.0)["packets"]["received_per_s"] == 0
    assert rate(1, 5, 0.0) == 0


def test_traces_and_rates_read_as_one_expects() -> None:
    assert trace([0, 1, 8], 5) == "  ▁▁█"
    assert trace([0, 0], 3) == " ▁▁"
    assert trace([], 3) == "   "
    assert [bits(value) for value in (0, 15, 1250, 150_000, 4e9)] == [
        "0 bit/s", "120 bit/s", "10 kbit/s", "1.2 Mbit/s", "32 Gbit/s",
    ]  # fmt: skip


def drawn(found: dict[str, object], width: int = 110) -> str:
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        console.print(draw(found, [1.0], [2.0]))
    return captured.get()


def test_a_hostile_host_name_neither_styles_nor_moves_the_picture() -> None:
    text = drawn(sample(look(1, 0, 0), look(2, 0, 0, hostname="[red]x[/red]\x1b[2J\nnew"), 0.0))
    assert "[red]x[/red]" in text
    assert "\x1b[2J" not in text
    assert "\nnew" not in text


def test_the_picture_has_nodes_paths_rates_and_actors_at_any_width() -> None:
    found = sample(look(1, 0, 0), look(2, 125_000, 0), 1030.0)
    text = drawn(found)
    for part in ("berlin", "10.1.0.2", "direct, UDP", "2.1 ms", "1.0 Mbit/s", "ledger", "killed by SIGKILL", "up"):
        assert part in text, part
    for width in (20, 60, 200):
        assert all(len(line) <= width for line in drawn(found, width).splitlines())


def test_one_sample_needs_no_terminal() -> None:
    assert "berlin" in top._as_text(sample(look(1, 0, 0), look(2, 0, 0), 0.0))
