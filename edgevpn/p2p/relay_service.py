"""The relay's service: reservations and circuits for others (libp2p's specs, relay/circuit-v2.md).

A peer that can't be reached reserves a place here (HOP, RESERVE) and keeps its connection. Who wants to reach it opens
a stream (HOP, CONNECT); we open one to it (STOP), and from then on bytes go from one to the other as they come. What
they are we can't know: the two ends make a noise handshake of their own through us.

Each direction of a circuit is a task that reads a piece and writes it, so an end that stalls keeps one piece and what
the windows hold (edgevpn/p2p/yamux.py), and its own circuit only. A circuit that is over a limit is reset at both
ends. Limits are not announced to the ends: the Go program takes no gossip and no packets through a relay that does so,
and an end that was reset may open the next circuit at once.

Who may do what is decided in relay_table.py. No reservation and no circuit is made on a connection that is relayed
itself. Vouchers are not issued: nobody asks for them yet (the specification says so, too).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from edgevpn.errors import EdgevpnError, UntrustedDataError
from edgevpn.p2p.circuit import (
    HOP,
    MAX_ADDRS,
    STOP,
    Hop,
    HopKind,
    Reservation,
    Status,
    Stop,
    StopKind,
    read_hop_untrusted,
    read_stop_untrusted,
    write_hop,
    write_stop,
)
from edgevpn.p2p.host import Host
from edgevpn.p2p.host_stream import DialError, HostStream
from edgevpn.p2p.relay_table import RelayTable
from edgevpn.proto.peer_key import peer_id_bytes_untrusted, peer_id_text
from edgevpn.proto.relayed import without_relayed

TIMEOUT = 15.0  # for each message of a peer's


class RelayService:
    """Serves HOP on `host` while `serving`; `count` is told of what happens, `learn` asks anew who is a member."""

    def __init__(
        self,
        host: Host,
        table: RelayTable,
        count: Callable[[str], None] = lambda _: None,
        learn: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._host = host
        self._table = table
        self._count = count
        self._learn = learn
        self.serving = False
        self.bytes_relayed = 0

    def serve(self, wanted: bool) -> None:
        """Begin or end to be a relay. Circuits that there are go on."""
        if wanted and not self.serving:
            self._host.serve(HOP, self._hop)
        elif self.serving and not wanted:
            self._host.unserve(HOP)
        self.serving = wanted

    async def _hop(self, stream: HostStream) -> None:
        """One request. Raises nothing but what ends the stream."""
        try:
            with trio.fail_after(TIMEOUT):
                request = read_hop_untrusted(await stream.read_message())
        except UntrustedDataError:
            await self._answer(stream, Hop(HopKind.STATUS, status=Status.MALFORMED_MESSAGE))
            return
        except trio.TooSlowError as exc:
            raise EdgevpnError("no request came") from exc
        if stream.relayed:
            await self._answer(stream, Hop(HopKind.STATUS, status=Status.PERMISSION_DENIED))
        elif request.kind is HopKind.RESERVE:
            await self._reserve(stream)
        elif request.kind is HopKind.CONNECT:
            await self._connect(stream, request)
        else:
            await self._answer(stream, Hop(HopKind.STATUS, status=Status.UNEXPECTED_MESSAGE))

    async def _answer(self, stream: HostStream, answer: Hop) -> None:
        if answer.status != Status.OK:
            self._count(f"relay_refusals_{Status(answer.status).name.lower()}")
        with trio.move_on_after(TIMEOUT):
            await stream.write(write_hop(answer))

    async def _knows(self, peer: str) -> bool:
        """Whether it may use the relay; who has just come may not be known yet."""
        if not self._table.allows(peer) and self._learn is not None:
            await self._learn()
        return self._table.allows(peer)

    async def _reserve(self, stream: HostStream) -> None:
        await self._knows(stream.peer_id)
        status = self._table.reserve(stream.peer_id, stream.remote_ip, trio.current_time())
        if status is not Status.OK:
            await self._answer(stream, Hop(HopKind.STATUS, status=status))
            return
        self._count("relay_reservations")
        suffix = f"/p2p/{self._host.peer_id}"
        addrs = without_relayed(self._host.listen_addrs())[:MAX_ADDRS]
        reservation = Reservation(
            int(time.time() + self._table.limits.reservation_ttl),
            tuple(Multiaddr(addr + suffix).to_bytes() for addr in addrs),
        )
        await self._answer(stream, Hop(HopKind.STATUS, reservation=reservation, status=Status.OK))

    async def _connect(self, stream: HostStream, request: Hop) -> None:
        source, target = stream.peer_id, peer_id_text(request.peer)
        await self._knows(source)
        status = self._table.open(source, target, trio.current_time())
        if status is not Status.OK:
            await self._answer(stream, Hop(HopKind.STATUS, status=status))
            return
        try:
            onward = await self._stop(source, target)
            if onward is None:
                await self._answer(stream, Hop(HopKind.STATUS, status=Status.CONNECTION_FAILED))
                return
            try:
                await self._answer(stream, Hop(HopKind.STATUS, status=Status.OK))
                self._count("relay_circuits")
                await self._carry(stream, onward)
            finally:
                with trio.CancelScope(shield=True):
                    await onward.reset()  # which does nothing to one that has ended
        finally:
            self._table.close(source, target)

    async def _stop(self, source: str, target: str) -> HostStream | None:
        """A stream to `target` that it has accepted `source` on; None if it has not."""
        try:
            onward = await self._host.direct_stream(target, [STOP], timeout=TIMEOUT)
        except DialError:
            return None
        try:
            with trio.fail_after(TIMEOUT):
                await onward.write(write_stop(Stop(StopKind.CONNECT, peer_id_bytes_untrusted(source))))
                answer = read_stop_untrusted(await onward.read_message())
            if answer.kind is StopKind.STATUS and answer.status == Status.OK:
                return onward
        except (EdgevpnError, trio.TooSlowError):
            pass  # its own fault; it is told by the reset
        except BaseException:
            with trio.CancelScope(shield=True):
                await onward.reset()
            raise
        await onward.reset()
        return None

    async def _carry(self, one: HostStream, other: HostStream) -> None:
        """Bytes both ways until both directions ended, or either broke, or a limit is reached."""
        limits = self._table.limits
        broke = False

        async def copy(source: HostStream, target: HostStream) -> None:
            nonlocal broke
            left = limits.max_data or float("inf")
            try:
                while data := await source.read(limits.buffer_size):
                    left -= len(data)
                    if left < 0:
                        self._count("relay_circuits_over_their_data")
                        raise EdgevpnError("the circuit carried all it may")
                    await target.write(data)
                    self.bytes_relayed += len(data)
                await target.close()
            except EdgevpnError:
                broke = True
                nursery.cancel_scope.cancel()

        one.hold()
        other.hold()
        with trio.move_on_after(limits.max_duration or float("inf")) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, one, other)
                nursery.start_soon(copy, other, one)
        if scope.cancelled_caught:
            self._count("relay_circuits_over_their_time")
        if broke or scope.cancelled_caught:
            await one.reset()
            await other.reset()
