"""Direct connections agreed on over a relayed one. Real NATs are in tests/netns/test_relay.py."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError
from edgevpn.p2p import hole_punch
from edgevpn.p2p.circuit import DCUTR, Punch, PunchKind, read_punch_untrusted, write_punch
from edgevpn.p2p.hole_punch import MAX_ASKED, HolePunch
from edgevpn.p2p.host_stream import StreamError
from tests.p2p.test_relay import Three, three, until


@pytest.fixture(autouse=True)
def loopback_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """All hosts here are on loopback, which is nobody's address else."""
    monkeypatch.setattr(hole_punch, "ip_of", lambda text: text.split("/")[2])


async def relayed(net: Three) -> tuple[HolePunch, HolePunch]:
    """`b` has dialled `a` through the relay; both can punch."""
    made = HolePunch(net.a), HolePunch(net.b)
    await net.connect()
    await until(lambda: net.b.peer_id in net.a.peers() and bool(net.a.peers()[net.b.peer_id].protocols))
    return made


@pytest.mark.parametrize("client", [False, True])
async def test_who_was_dialled_begins_and_both_end_up_directly_connected(client: bool) -> None:
    async with three() as net:
        at_a, _ = await relayed(net)
        assert net.a.is_relayed(net.b.peer_id)
        with trio.fail_after(5):
            await at_a._begin(net.b.peer_id, client=client)
        await until(lambda: net.a.is_direct(net.b.peer_id) and net.b.is_direct(net.a.peer_id))
        assert not net.a.punching
        await until(lambda: not net.b.punching)
        assert await net.b.ping(net.a.peer_id, timeout=5) > 0


async def test_a_connection_of_a_hole_is_known_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hole_punch, "DIRECT_TIMEOUT", 0)
    async with three() as net:
        at_a, _ = await relayed(net)
        with trio.fail_after(30):
            await at_a.run_for(net.b.peer_id)  # three tries: on a busy machine one may miss
        await until(lambda: any(s.peer_id == net.b.peer_id for s in net.a.sights()))
        assert [s.punched for s in net.a.sights() if s.peer_id == net.b.peer_id] == [True]


async def test_it_is_not_for_who_has_dialled_to_begin() -> None:
    async with three() as net:
        await relayed(net)
        stream = await net.b.relayed_stream(net.a.peer_id, [DCUTR], timeout=5)
        with suppress(StreamError):
            await stream.write(write_punch(Punch(PunchKind.CONNECT, (Multiaddr("/ip4/192.0.2.1/tcp/1").to_bytes(),))))
        with pytest.raises(StreamError):
            await stream.read_message()


async def test_where_both_have_dialled_who_begins_does_so_where_it_was_dialled() -> None:
    async with three() as net:
        at_a, _ = await relayed(net)
        await net.dialler.reserve(net.relay.peer_id)
        back = f"{net.circuit}/p2p/{net.b.peer_id}"
        await net.behind.dial(Multiaddr(back))  # later than the other, so that it is the last
        await until(lambda: len(net.b.peers()[net.a.peer_id].connections) == 2)
        assert {c.direction for c in net.a.peers()[net.b.peer_id].connections} == {"inbound", "outbound"}
        with trio.fail_after(5):
            await at_a._begin(net.b.peer_id, client=False)
        await until(lambda: net.a.is_direct(net.b.peer_id) and net.b.is_direct(net.a.peer_id))


async def test_a_peer_that_is_not_ready_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hole_punch, "DIRECT_TIMEOUT", 0)
    monkeypatch.setattr(hole_punch, "AGREE_AGAIN", 0.2)
    counted: list[str] = []
    async with three() as net, trio.open_nursery() as nursery:
        at_a = HolePunch(net.a, counted.append)
        await net.connect()
        await until(lambda: net.b.peer_id in net.a.peers())
        nursery.start_soon(at_a.run_for, net.b.peer_id)
        await until(lambda: "holes_not_agreed_on" in counted)
        HolePunch(net.b)
        await until(lambda: net.a.is_direct(net.b.peer_id))
        assert "holes_not_punched" not in counted
        nursery.cancel_scope.cancel()


async def test_nobody_punches_over_a_direct_connection() -> None:
    async with three() as net:
        HolePunch(net.a)
        await net.relay.connect(net.a.peer_id, net.a.listen_addrs(), timeout=5)
        stream = await net.relay.direct_stream(net.a.peer_id, [DCUTR], timeout=5)
        with suppress(StreamError):
            await stream.write(write_punch(Punch(PunchKind.CONNECT, (Multiaddr("/ip4/192.0.2.1/tcp/1").to_bytes(),))))
        with pytest.raises(StreamError):
            await stream.read_message()


async def test_a_peer_makes_us_dial_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hole_punch, "DIAL_FOR", 0.05)
    async with three() as net:
        await relayed(net)
        victim = (Multiaddr("/ip4/127.0.0.1/tcp/1").to_bytes(),)
        answered = 0
        for _ in range(MAX_ASKED + 4):
            stream = await net.a.relayed_stream(net.b.peer_id, [DCUTR], timeout=5)
            try:
                await stream.write(write_punch(Punch(PunchKind.CONNECT, victim)))
                assert read_punch_untrusted(await stream.read_message()).kind is PunchKind.CONNECT
                await stream.write(write_punch(Punch(PunchKind.SYNC)))
                answered += 1
                await stream.read()
            except EdgevpnError:
                pass
            await until(lambda: not net.b.punching)
        assert answered == MAX_ASKED


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x02\x08\x01", b"\x03\x08\xac\x02", b"\x02\x08\x64"])
async def test_garbage_ends_its_stream_alone(garbage: bytes) -> None:
    async with three() as net:
        await relayed(net)
        stream = await net.a.relayed_stream(net.b.peer_id, [DCUTR], timeout=5)
        await stream.write(garbage)
        with pytest.raises(StreamError):
            await stream.read_message()
        assert net.a.is_relayed(net.b.peer_id)
